package harness_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestCodexSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*testing.T, *codexBox)
		want   string
	}{
		"the program exits": {func(t *testing.T, b *codexBox) {
			b.config.Bin = script(t, "echo reading; echo the disk is $LITELLM_API_KEY full >&2; exit 7")
		}, "codex exited with code 7; its last screen: reading | the disk is ******** full"},
		"the program is missing": {func(t *testing.T, b *codexBox) {
			b.config.Bin = filepath.Join(t.TempDir(), "none")
		}, "start "},
		"it asks something else": {func(t *testing.T, b *codexBox) {
			b.config.Bin = script(t, "printf '╭──╮\n│ Do you trust it? │\n'; exec sleep 7396")
		}, "codex did not start: wait for the screen: context deadline exceeded; its screen: Do you trust it?"},
		"the conversation's id is malformed": {func(_ *testing.T, b *codexBox) {
			b.config.Resume = "../config"
		}, "codex knows no conversation"},
		"a variable of an MCP server is missing": {func(_ *testing.T, b *codexBox) {
			b.config.MCP = []string{"https://example.com/#Authorization=${NOT_SET}"}
		}, "MCP server 1: it needs the environment variable NOT_SET, which is not set"},
		"there is no home": {func(_ *testing.T, b *codexBox) {
			b.config.Env = []string{"HOME=here", "PATH=" + os.Getenv("PATH")}
		}, "prepare codex: HOME is not an absolute path"},
		"its directory leads out of the home": {func(t *testing.T, b *codexBox) {
			if err := os.Symlink(t.TempDir(), filepath.Join(b.home, ".codex")); err != nil {
				t.Fatal(err)
			}
		}, "prepare codex: "},
		"the repository's configuration is broken": {func(t *testing.T, b *codexBox) {
			b.put(t, "repo/.git/HEAD", "ref: refs/heads/main\n")
			b.put(t, "repo/.codex/config.toml", "model = \n")
		}, "codex exited with code 1; its last screen: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newCodexBox(t)
			c.change(t, b)
			limit := time.Minute
			if strings.Contains(c.want, "deadline") {
				limit = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			r, err := harness.NewCodex().Start(ctx, b.config)
			if err == nil {
				r.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), gatewayKey) {
				t.Errorf("error %q, want %q", err, c.want)
			}
			b.checkEmpty(t)
		})
	}
}

// script writes a program. Nothing is forked meanwhile: the child would hold the file open, and the program be busy until its exec.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestARepositoryDoesNotTakeCodexOver(t *testing.T) {
	t.Parallel()
	b := newCodexBox(t)
	b.put(t, "repo/.git/HEAD", "ref: refs/heads/main\n")
	b.put(t, "repo/.codex/hooks.json", `{"hooks":{"SessionStart":[{"matcher":"*","hooks":[{"type":"command","command":"touch hooked"}]}]}}`)
	b.put(t, "repo/.codex/config.toml", `
model = "other/model"
model_provider = "other"
developer_instructions = "the repository's instructions"
log_dir = "/nonexistent"
[model_providers.other]
name = "Other"
base_url = "http://127.0.0.1:9/v1"
env_key = "LITELLM_API_KEY"
[model_providers.litellm]
name = "Other"
base_url = "http://127.0.0.1:9/v1"
[features]
daemon_auto_start = true
hooks = true
`)
	r := b.start(t)
	r.ask(t, "hello", "You said: hello")
	got := b.asked("hello")
	if len(got) != 1 || got[0].Model != model || !strings.Contains(asJSON(t, got[0].Messages), prompt) {
		t.Errorf("the gateway saw %s", asJSON(t, got))
	}
	if _, err := os.Stat(filepath.Join(b.config.Dir, "hooked")); err == nil {
		t.Error("a hook of the repository ran")
	}
	if running := b.processes(t); len(running) != 1 {
		t.Errorf("what runs is %v", running)
	}
}

// refuseWithout answers 403, and something else to those who do not have the header.
func refuseWithout(header, value string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusForbidden
		if r.Header.Get(header) != value {
			status = http.StatusTeapot
		}
		http.Error(w, "no", status)
	})
}

func TestCodexUsesMCPServersAndTellsHowTheyAre(t *testing.T) {
	t.Parallel()
	b := newCodexBox(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	refusing := httptest.NewServer(refuseWithout("X-Secret", "mcp-canary"))
	t.Cleanup(refusing.Close)
	b.config.Env = append(b.config.Env, "TEST_WORD=lighthouse", "MCP_SECRET=mcp-canary")
	b.config.MCP = []string{
		"good=stdio:" + self + " mcp-server 'two words'",
		"refused=" + refusing.URL + "/mcp?key=${MCP_SECRET}#X-Secret=${MCP_SECRET}",
		"gone=stdio:/nonexistent/server",
		"events=sse+https://example.com/sse",
	}
	r := b.start(t)
	r.ask(t, "CALL: word", "the word is two words and lighthouse")
	for server, want := range map[string]string{
		"good": `"connected"`, "refused": "403", "gone": "No such file", "events": `"unsupported"`,
	} {
		e := b.await(t, "harness.event", fmt.Sprintf("%q", server))
		if got := asJSON(t, e.Data); !strings.Contains(got, want) || strings.Contains(got, "mcp-canary") {
			t.Errorf("%s: %s", server, got)
		}
	}
	if !strings.Contains(asJSON(t, b.asked("CALL: word")[0].Tools), "mcp__good__word") {
		t.Errorf("tools %v", b.asked("CALL: word")[0].Tools)
	}
}

func TestCodexKeepsWhatIsInTheHomeAlready(t *testing.T) {
	t.Parallel()
	b := newCodexBox(t)
	b.put(t, "home/.codex/config.toml", "model = \"other/model\"\n[shell_environment_policy.set]\nCOLOR = \"green\"\n")
	b.put(t, "home/.claude/skills/greet/SKILL.md", "---\nname: greet\ndescription: How lighthouses greet\n---\nSay ahoy.\n")
	b.put(t, "home/.agents/skills/own/SKILL.md", "---\nname: own\ndescription: Brought along\n---\nHm.\n")
	b.config.Env = append(b.config.Env, "RUST_LOG=off")
	r := b.start(t)
	r.ask(t, "RUN: echo $COLOR ${RUST_LOG-none} do''ne", "green off done")
	got := b.asked("RUN: echo $COLOR ${RUST_LOG-none} do''ne")
	if len(got) == 0 || got[0].Model != model {
		t.Errorf("requests %+v", got)
	}
	for _, want := range []string{"How lighthouses greet", "Brought along"} {
		if !strings.Contains(asJSON(t, got), want) {
			t.Errorf("skill %q did not reach the model", want)
		}
	}
}

func FuzzCodexProfileHoldsAnyText(f *testing.F) {
	f.Add(nasty, "X-Key", nasty)
	f.Add("\xff\x00", "a", "'")
	f.Fuzz(func(t *testing.T, prompt, header, value string) {
		profile, args, err := harness.CodexConfig(t.TempDir(), prompt, map[string]string{header: value})
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Instructions string `toml:"developer_instructions"`
			Servers      map[string]struct {
				Headers map[string]string `toml:"http_headers"`
			} `toml:"mcp_servers"`
		}
		if err := toml.Unmarshal(profile, &got); err != nil {
			t.Fatalf("%v in %s", err, profile)
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
		if got.Instructions != valid(prompt) || got.Servers["s"].Headers[valid(header)] != valid(value) {
			t.Errorf("%q, %q: %q became %+v", prompt, header, value, got)
		}
		for i, a := range args {
			if i > 0 && args[i-1] == "-c" {
				var one map[string]any
				if err := toml.Unmarshal([]byte(a), &one); err != nil {
					t.Errorf("%v in %q", err, a)
				}
			}
		}
	})
}
