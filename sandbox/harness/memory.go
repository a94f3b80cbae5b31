package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// oomKills counts how often the kernel ended a process of this process's cgroup because there was no memory left for it: oom_kill
// in memory.events of cgroup v2 and in memory.oom_control of v1. 0 if that cannot be read. root is where /proc and /sys are.
func oomKills(root string) int64 {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(groups)) { // ID:CONTROLLERS:PATH, v2 with 0 and no controllers
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		mount, name := "memory", "memory.oom_control"
		switch {
		case id == "0" && controllers == "":
			mount, name = "", "memory.events"
		case controllers != "memory":
			continue
		}
		// A container sees its own group where the machine has the root of all, but may be told the path from there.
		for _, path := range []string{path, ""} {
			text, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup", mount, path, name))
			if err != nil {
				continue
			}
			if n, ok := counter(string(text), "oom_kill"); ok {
				return n
			}
		}
	}
	return 0
}

// counter finds "key value" in lines of such.
func counter(text, key string) (int64, bool) {
	for line := range strings.Lines(text) {
		if k, v, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, err := strconv.ParseInt(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
