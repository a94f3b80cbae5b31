package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
)

func TestPathsOfThePublicAPIAreBelowTheRoot(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"~/.bashrc":             "workspace/home/.bashrc",
		"~/a//b/./c":            "workspace/home/a/b/c",
		"/workspace/x":          "workspace/x",
		"/workspace/repo/x/y":   "workspace/repo/x/y",
		"/tmp/x":                "tmp/x",
		"/data/x y":             "data/x y",
		"/data/..x":             "data/..x",
		"":                      "",
		"x":                     "",
		"~":                     "",
		"~x/y":                  "",
		"~/":                    "",
		"/":                     "",
		"/data":                 "",
		"/data/x/":              "",
		"/workspace/home":       "",
		"/workspace/repo":       "",
		"/etc/passwd":           "",
		"/database/x":           "",
		"/workspace/../etc/x":   "",
		"~/../../etc/x":         "",
		"/data/x/..":            "",
		"/data/\x00":            "",
		"//etc/x":               "",
		"/tmp/a/../../../etc/x": "",
	} {
		got, err := agent.SandboxPath(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func files(list ...sandboxd.File) func(*sandboxd.SessionConfig) {
	return func(c *sandboxd.SessionConfig) { c.Files = list }
}

func TestFilesAreWrittenWithTheirModesAndParents(t *testing.T) {
	t.Parallel()
	b := boot(t)
	mode := int32(0o4755)
	b.ready(files(
		sandboxd.File{Path: "~/.claude/skills/x/SKILL.md", Content: []byte("skill")},
		sandboxd.File{Path: "/data/run.sh", Content: []byte("#!/bin/sh\n"), Mode: &mode},
		sandboxd.File{Path: "/tmp/empty"},
		sandboxd.File{Path: "/workspace/repo/inside", Content: []byte("in")},
	))
	for path, want := range map[string]os.FileMode{
		"workspace/home/.claude/skills/x": os.ModeDir | 0o755, "workspace/home/.claude/skills/x/SKILL.md": 0o644,
		"data/run.sh": 0o755, "tmp/empty": 0o644, "workspace/repo/inside": 0o644,
	} {
		if st, err := os.Stat(filepath.Join(b.c.Root, path)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v %v", path, err, st)
		}
	}
	if got := b.read("workspace/home/.claude/skills/x/SKILL.md"); got != "skill" {
		t.Errorf("content %q", got)
	}
}

func TestLinksInTheWorkspaceLeadNoFileOutOfIt(t *testing.T) {
	t.Parallel()
	for name, link := range map[string]string{"absolute": "", "relative": "../../../../outside"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			outside := filepath.Join(b.c.Dir, "outside")
			home := filepath.Join(b.c.Root, "workspace/home")
			if link == "" {
				link = outside
			}
			for _, dir := range []string{outside, home} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			target := filepath.Join(outside, "target")
			if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(link, filepath.Join(home, "dir")); err != nil {
				t.Fatal(err)
			}
			b.start()
			reason := b.failure(files(sandboxd.File{Path: "~/dir/x", Content: []byte("bad")}))
			if !strings.Contains(reason, "~/dir/x") {
				t.Errorf("reason %q", reason)
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
				t.Errorf("outside: %v %v", left, err)
			}
		})
	}
}

func TestALinkInTheWayOfAFileIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	target := filepath.Join(b.c.Dir, "target")
	if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.c.Root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(b.c.Root, "data/x")); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.ready(files(sandboxd.File{Path: "/data/x", Content: []byte("new")}))
	if got := b.read("data/x"); got != "new" {
		t.Errorf("content %q", got)
	}
	if old, err := os.ReadFile(target); err != nil || string(old) != "old" {
		t.Errorf("the link was followed: %q %v", old, err)
	}
}

func TestWhatTheAgentMadeOfAFileOutlivesTheAttempt(t *testing.T) {
	t.Parallel()
	given := files(sandboxd.File{Path: "/data/x", Content: []byte("given")}, sandboxd.File{Path: "/data/y", Content: []byte("given")})
	first := boot(t)
	first.ready(given)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(first.c.Root, "data/x"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(first.c.Root, "data/y")); err != nil {
		t.Fatal(err)
	}
	second := boot(t, func(b *box) { b.c.Root = first.c.Root })
	second.ready(given, func(c *sandboxd.SessionConfig) { c.Attempt = 2 })
	if x, y := second.read("data/x"), second.read("data/y"); x != "changed" || y != "given" {
		t.Errorf("x is %q, y is %q", x, y)
	}
}
