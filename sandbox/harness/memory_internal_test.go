package harness

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOOMKillsAreCountedInTheGroupOfTheProcess(t *testing.T) {
	t.Parallel()
	const pod = "kubepods/pod1/container1"
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"version 2": {map[string]string{
			"proc/self/cgroup":                        "0::/" + pod + "\n",
			"sys/fs/cgroup/" + pod + "/memory.events": "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 0\n",
			"sys/fs/cgroup/memory.events":             "oom_kill 99\n",
		}, 3},
		"version 2, in a namespace of its own": {map[string]string{
			"proc/self/cgroup":            "0::/\n",
			"sys/fs/cgroup/memory.events": "oom 1\noom_kill 1\n",
		}, 1},
		"version 1": {map[string]string{
			"proc/self/cgroup": "9:name=systemd:/\n4:memory:/" + pod + "\n1:cpu:/\n0::/\n",
			"sys/fs/cgroup/memory/" + pod + "/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
		}, 2},
		"version 1, told the path on the machine": {map[string]string{
			"proc/self/cgroup":                        "4:memory:/" + pod + "\n",
			"sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
		}, 5},
		"version 1 before Linux 4.13": {map[string]string{
			"proc/self/cgroup":                        "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n",
		}, 0},
		"none": {nil, 0},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := oomKills(root); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
