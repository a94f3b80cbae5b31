package harness_test

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/server/demo"
)

func (b *claudeBox) startCode(t *testing.T) tuiRun {
	t.Helper()
	return startTUI(t, harness.NewClaudeCode(), b.config)
}

func TestClaudeCodeIsReadyAtItsPromptAndSendsWhatWasTyped(t *testing.T) {
	t.Parallel()
	b := newClaudeBox(t)
	b.put(t, "home/.claude/skills/greet/SKILL.md", "---\nname: greet\ndescription: How lighthouses greet\n---\nSay ahoy.\n")
	b.put(t, "home/.claude.json", `{"kept":[1]}`)
	b.put(t, "repo/CLAUDE.md", "words of the repository\n")
	b.put(t, "repo/.git/HEAD", "ref: refs/heads/main\n")
	b.put(t, "repo/.mcp.json", `{"mcpServers":{"intruder":{"type":"stdio","command":"sleep","args":["7391"]}}}`)
	b.config.Prompt = nasty
	b.config.Typed = "first message\n\twith a second line; " + strings.Repeat("and more ", 60) + "the end"
	r := b.startCode(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *claudeBox, tuiRun)
	}{
		{"what was to be typed arrives whole", func(t *testing.T, b *claudeBox, r tuiRun) {
			r.shows(t, "[demo] This is the demo gateway, not a model.")
			if !b.typed(b.config.Typed) {
				t.Errorf("the gateway saw %s", asJSON(t, b.gateway.Requests()))
			}
		}},
		{"everything goes to the gateway with model, key and prompt", claudeCodeGatewaySees},
		{"the phases of the start are told", func(t *testing.T, b *claudeBox, _ tuiRun) { phasesAreTold(t, b.box, nil) }},
		{"its shell tool runs in the workspace with the environment", func(t *testing.T, _ *claudeBox, r tuiRun) {
			r.ask(t, "RUN: pwd | tail -c 5; echo [$LITELLM_DEFAULT_MODEL] [$ANTHROPIC_AUTH_TOKEN] do''ne", "repo ["+model+"] [] done")
		}},
		{"a turn is interrupted with Esc, and its tool ends", claudeCodeIsInterrupted},
		{"files are private and nothing shows the key", claudeCodeSecretsStay},
		{"a restart goes on with the conversation", claudeCodeGoesOn},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, b, r) })
	}
}

// typed tells whether a message reached the gateway, whatever claude made of its white space.
func (b *claudeBox) typed(text string) bool {
	want := strings.Join(strings.Fields(text), " ")
	return slices.ContainsFunc(b.gateway.Requests(), func(r demo.Request) bool {
		return slices.ContainsFunc(r.Messages, func(m demo.Message) bool {
			return m.Role == "user" && strings.Contains(strings.Join(strings.Fields(m.Text), " "), want)
		})
	})
}

func claudeCodeGatewaySees(t *testing.T, b *claudeBox, _ tuiRun) {
	conversations := 0
	for _, req := range b.gateway.Requests() {
		if !req.KeyOK || req.Model != model {
			t.Errorf("request with key ok %t, model %q", req.KeyOK, req.Model)
		}
		if !slices.Contains(req.Tools, "Bash") {
			continue
		}
		conversations++
		all := ""
		for _, m := range req.Messages {
			all += m.Text + "\n"
		}
		for _, want := range []string{prompt + "\nline \"two\"", "words of the repository", "How lighthouses greet"} {
			if !strings.Contains(all, want) {
				t.Errorf("%q did not reach the model", want)
			}
		}
		if slices.ContainsFunc(req.Tools, func(name string) bool { return strings.HasPrefix(name, "mcp__") }) {
			t.Errorf("tools %v", req.Tools)
		}
	}
	if conversations == 0 {
		t.Error("the gateway saw no conversation")
	}
}

func claudeCodeIsInterrupted(t *testing.T, b *claudeBox, r tuiRun) {
	if err := r.Terminal.Terminal().Paste(t.Context(), "RUN: tail -f /dev/null"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tool runs", func() bool { return b.runs(t, "tail -f") })
	if _, err := r.Terminal.Terminal().Write([]byte{0x1b}); err != nil {
		t.Fatal(err)
	}
	r.shows(t, "Interrupted")
	eventually(t, "the tool to end", func() bool { return !b.runs(t, "tail -f") })
}

func claudeCodeSecretsStay(t *testing.T, b *claudeBox, _ tuiRun) {
	for _, name := range []string{"mcp.json", "settings.json", "prompt.md"} {
		info, err := os.Stat(filepath.Join(b.config.StateDir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	err := filepath.WalkDir(filepath.Dir(b.home), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // files of the running claude come and go
		}
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), gatewayKey) {
			t.Errorf("%s has the key", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	running := b.processes(t)
	for _, command := range running {
		if strings.Contains(command, gatewayKey) || strings.Contains(command, prompt) {
			t.Errorf("arguments %q", command)
		}
	}
	if len(running) != 1 {
		t.Errorf("what runs is %v", running)
	}
	if state, err := os.ReadFile(filepath.Join(b.home, ".claude.json")); err != nil || !strings.Contains(string(state), `"kept"`) {
		t.Errorf("what was in ~/.claude.json is gone: %v %s", err, state)
	}
	if strings.Contains(b.log.String(), gatewayKey) || strings.Contains(asJSON(t, b.events), gatewayKey) {
		t.Error("the log or an event has the key")
	}
}

func claudeCodeGoesOn(t *testing.T, b *claudeBox, r tuiRun) {
	id := r.SessionID()
	if uuid.Validate(id) != nil {
		t.Fatalf("its id is %q", id)
	}
	if got := harness.ConversationOf(r.Terminal, b.config); got != harness.ConversationNew {
		t.Errorf("the conversation is %s", got)
	}
	r.Close()
	b.checkEmpty(t)
	again := *b.homeBox
	again.config.Resume = id
	next := startTUI(t, harness.NewClaudeCode(), again.config)
	if got := harness.ConversationOf(next.Terminal, again.config); got != harness.ConversationResumed || next.SessionID() != id {
		t.Errorf("conversation %s is %s", next.SessionID(), got)
	}
	next.ask(t, "what was before?", "You said: what was before?")
	requests := b.gateway.Requests()
	if got := asJSON(t, requests[len(requests)-1].Messages); !strings.Contains(got, "first message") || !strings.Contains(got, "what was before?") {
		t.Errorf("the gateway saw %s", got)
	}

	// A person begins another conversation, which is then the one to go on with.
	next.insist(t, "/clear", func() bool { return !strings.Contains(next.Terminal.Terminal().Screen(), "what was before?") })
	next.insist(t, "something new", func() bool { return b.typed("something new") })
	eventually(t, "the new conversation", func() bool { return next.SessionID() != id })
	other := next.SessionID()
	next.Close()
	again.config.Resume = other
	last := startTUI(t, harness.NewClaudeCode(), again.config)
	last.shows(t, "something new")
	if got := last.SessionID(); got != other {
		t.Errorf("conversation %s, want %s", got, other)
	}
}

// insist types a message until it has its effect: what is typed while claude clears its screen is lost.
func (r tuiRun) insist(t *testing.T, text string, done func() bool) {
	t.Helper()
	for range 6 {
		if err := r.Terminal.Terminal().Paste(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		for !done() && pauseFor(ctx, 50*time.Millisecond) {
		}
		cancel()
		if done() {
			return
		}
	}
	t.Fatalf("%q has no effect; the screen:\n%s", text, r.Terminal.Terminal().Screen())
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func TestClaudeCodeStartsAConversationAnewIfNothingWasSaidInIt(t *testing.T) {
	t.Parallel()
	b := newClaudeBox(t)
	b.put(t, "home/.claude.json", `{"cut sho`)
	r := b.startCode(t)
	id := r.SessionID()
	r.Close()
	b.config.Resume, b.config.Typed = id, "hello"
	next := b.startCode(t)
	if got := harness.ConversationOf(next.Terminal, b.config); got != harness.ConversationNew {
		t.Errorf("the conversation is %s", got)
	}
	next.shows(t, "You said: hello")
}

func TestClaudeCodeTellsHowItEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(*testing.T, *claudeBox, tuiRun)
		want string
	}{
		"a person leaves": {func(t *testing.T, _ *claudeBox, r tuiRun) {
			if err := r.Terminal.Terminal().Paste(t.Context(), "/exit"); err != nil {
				t.Fatal(err)
			}
		}, "^claude exited with code 0"},
		"it is killed": {func(t *testing.T, b *claudeBox, _ tuiRun) {
			for pid, command := range b.processes(t) {
				if strings.HasPrefix(command, b.config.Bin) {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}, "^claude was ended by signal 9; its last screen: .*Claude Code"},
		"it is closed": {func(_ *testing.T, _ *claudeBox, r tuiRun) { r.Close() }, "^claude (exited with code 143|was ended by signal 15)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newClaudeBox(t)
			b.config.MCP = []string{"stays=stdio:sleep 7398"}
			r := b.startCode(t)
			eventually(t, "MCP server", func() bool { return b.runs(t, "sleep 7398") })
			if r.ExitReason() != "" {
				t.Errorf("it lives, and its end is %q", r.ExitReason())
			}
			c.end(t, b, r)
			<-r.Done()
			if got := r.ExitReason(); !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("reason %q", got)
			}
			r.Close()
			b.checkEmpty(t)
		})
	}
}

func TestClaudeCodeSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*testing.T, *claudeBox)
		want   string
	}{
		"the program exits": {func(t *testing.T, b *claudeBox) {
			b.config.Bin = script(t, "echo reading; echo the disk is $ANTHROPIC_AUTH_TOKEN full >&2; exit 7")
		}, "claude exited with code 7; its last screen: reading | the disk is ******** full"},
		"the program is missing": {func(t *testing.T, b *claudeBox) {
			b.config.Bin = filepath.Join(t.TempDir(), "none")
		}, "start "},
		"it asks something else": {func(t *testing.T, b *claudeBox) {
			b.config.Bin = script(t, "printf 'Do you trust it?\\n❯ No\\n'; exec sleep 7395")
		}, "claude did not start: wait for the screen: context deadline exceeded; its screen: Do you trust it?"},
		"the conversation's id is malformed": {func(_ *testing.T, b *claudeBox) {
			b.config.Resume = "../config"
		}, "claude knows no conversation"},
		"a variable of an MCP server is missing": {func(_ *testing.T, b *claudeBox) {
			b.config.MCP = []string{"https://example.com/#Authorization=${NOT_SET}"}
		}, "MCP server 1: it needs the environment variable NOT_SET, which is not set"},
		"there is no home": {func(_ *testing.T, b *claudeBox) {
			b.config.Env = []string{"HOME=here", "PATH=" + os.Getenv("PATH")}
		}, "HOME is not an absolute path"},
		"its file leads out of the home": {func(t *testing.T, b *claudeBox) {
			if err := os.Symlink(filepath.Join(t.TempDir(), "x"), filepath.Join(b.home, ".claude.json")); err != nil {
				t.Fatal(err)
			}
		}, "prepare claude: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newClaudeBox(t)
			c.change(t, b)
			limit := time.Minute
			if strings.Contains(c.want, "deadline") {
				limit = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			r, err := harness.NewClaudeCode().Start(ctx, b.config)
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

func TestClaudeCodeUsesMCPServersAndTellsHowTheyAre(t *testing.T) {
	t.Parallel()
	b := newClaudeBox(t)
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
	}
	r := b.startCode(t)
	for server, want := range map[string]string{"good": `"connected"`, "refused": "403", "gone": "ENOENT"} {
		e := b.await(t, "harness.event", `"`+server+`"`)
		if got := asJSON(t, e.Data); !strings.Contains(got, want) || strings.Contains(got, "mcp-canary") {
			t.Errorf("%s: %s", server, got)
		}
	}
	r.ask(t, "CALL: word", "the word is two words and lighthouse")
}
