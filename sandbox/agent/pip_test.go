package agent_test

import (
	"archive/zip"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// wheels makes a directory with one package to install, lapdemo 1.0.
func wheels(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "lapdemo-1.0-py3-none-any.whl"))
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for _, e := range [][2]string{
		{"lapdemo.py", "print('hello from lapdemo')\n"},
		{"lapdemo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: lapdemo\nVersion: 1.0\n"},
		{"lapdemo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"lapdemo-1.0.dist-info/RECORD", "lapdemo.py,,\nlapdemo-1.0.dist-info/METADATA,,\nlapdemo-1.0.dist-info/WHEEL,,\nlapdemo-1.0.dist-info/RECORD,,\n"},
	} {
		w, err := z.Create(e[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(w, e[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func requirements(text string) func(*sandboxd.SessionConfig) {
	return func(c *sandboxd.SessionConfig) { c.Requirements = &text }
}

func TestRequirementsAreInstalledForTheHarnessAndOnlyOnce(t *testing.T) {
	t.Parallel()
	text := "# what it needs\n--no-index\n--find-links " + wheels(t) + "\nlapdemo==1.0\n"
	first := boot(t)
	all := first.ready(requirements(text))
	if got := types(all); !strings.Contains(got, "phase") || !slices.ContainsFunc(all, func(r sandboxd.Record) bool {
		return r.Type == "phase" && field(t, r, "phase") == "installing_deps"
	}) {
		t.Error("no phase of its own")
	}
	env := first.fake.config(1).Env
	venv := filepath.Join(first.c.Root, "workspace/.venv")
	if !slices.Contains(env, "VIRTUAL_ENV="+venv) {
		t.Errorf("environment %v", env)
	}
	cmd := exec.Command("/bin/sh", "-c", "python -m lapdemo && command -v python")
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello from lapdemo\n"+venv+"/bin/python\n" {
		t.Errorf("the harness's python: %v %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(first.c.StateDir, "requirements.txt")); err == nil {
		t.Error("the requirements are left behind")
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}

	keep := filepath.Join(venv, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := boot(t, func(b *box) { b.c.Root = first.c.Root })
	second.ready(requirements(text))
	if _, err := os.Stat(keep); err != nil {
		t.Error("unchanged requirements were installed again")
	}
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	third := boot(t, func(b *box) { b.c.Root = first.c.Root })
	third.ready(requirements("# nothing any more\n"))
	if _, err := os.Stat(keep); err == nil {
		t.Error("changed requirements were not installed")
	}
}

func TestBrokenRequirementsFailWithPipsOwnWords(t *testing.T) {
	t.Parallel()
	reason := boot(t).failure(requirements("--no-index\n--find-links " + wheels(t) + "\nlapdemo==9.9\n"))
	if !strings.HasPrefix(reason, "install requirements: pip: ") || !strings.Contains(reason, "No matching distribution found for lapdemo==9.9") {
		t.Errorf("reason %q", reason)
	}
}

func TestBlankRequirementsNeedNothing(t *testing.T) {
	t.Parallel()
	b := boot(t)
	b.ready(requirements(" \n"))
	if _, err := os.Stat(filepath.Join(b.c.Root, "workspace/.venv")); err == nil {
		t.Error("a virtual environment was made")
	}
}
