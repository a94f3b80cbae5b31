package harness_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// nasty is a prompt with everything that a configuration file may take for its own.
const nasty = prompt + "\nline \"two\" \\ '''three''' \"\"\" = [x] # $HOME ${PATH} \t\u007f\u0001 é 😀\r\n}\n"

func TestCodexIsReadyAtItsPromptAndSendsWhatWasTyped(t *testing.T) {
	t.Parallel()
	b := newCodexBox(t)
	b.put(t, "home/.claude/skills/greet/SKILL.md", "---\nname: greet\ndescription: How lighthouses greet\n---\nSay ahoy.\n")
	b.put(t, "repo/AGENTS.md", "words of the repository\n")
	b.config.Prompt = nasty
	b.config.Env = append(b.config.Env, "CODEX_HOME=/nonexistent")
	b.config.Typed = "first message\n\twith a second line; " + strings.Repeat("and more ", 200) + "the end"
	r := b.start(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *codexBox, tuiRun)
	}{
		{"what was to be typed arrives whole", typedArrives},
		{"everything goes to the gateway with model, key and prompt", codexGatewaySees},
		{"the phases of the start are told", func(t *testing.T, b *codexBox, _ tuiRun) { phasesAreTold(t, b.box, nil) }},
		{"its shell tool runs in the workspace with the environment", codexToolRuns},
		{"it takes no turns", codexTakesNoTurns},
		{"files are private and nothing shows the key", codexSecretsStay},
		{"a restart goes on with the conversation", codexGoesOn},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, b, r) })
	}
}

func typedArrives(t *testing.T, b *codexBox, r tuiRun) {
	r.shows(t, "[demo] This is the demo gateway, not a model.")
	if len(b.asked(b.config.Typed)) != 1 {
		t.Errorf("the gateway saw %s", asJSON(t, b.gateway.Requests()))
	}
}

func codexGatewaySees(t *testing.T, b *codexBox, r tuiRun) {
	requests := b.gateway.Requests()
	for _, req := range requests {
		if !req.KeyOK || req.Model != model {
			t.Errorf("request with key ok %t, model %q", req.KeyOK, req.Model)
		}
	}
	got := b.asked(b.config.Typed)[0]
	if slices.ContainsFunc(got.Tools, func(name string) bool { return strings.Contains(name, "__") }) || !slices.Contains(got.Tools, "exec_command") {
		t.Errorf("tools %v", got.Tools)
	}
	for role, want := range map[string]string{"developer": nasty, "user": "words of the repository"} {
		if !slices.ContainsFunc(got.Messages, func(m demoMessage) bool { return m.Role == role && strings.Contains(m.Text, want) }) {
			t.Errorf("no %s message with %q in %s", role, want, asJSON(t, got.Messages))
		}
	}
	if !strings.Contains(asJSON(t, got.Messages), "How lighthouses greet") {
		t.Error("the skill did not reach the model")
	}
}

func codexToolRuns(t *testing.T, b *codexBox, r tuiRun) {
	r.ask(t, "RUN: echo $(pwd | tail -c 5) [${RUST_LOG-none}] $LITELLM_DEFAULT_MODEL; ls ~/.agents/skills; echo do''ne", "done Worked for")
	r.shows(t, "repo [none] "+model+" greet done")
}

func codexTakesNoTurns(t *testing.T, b *codexBox, r tuiRun) {
	status, _, err := r.Turn(t.Context(), sandboxd.Turn{ID: newID(t)})
	if status != harness.Failed || err == nil || r.Abort(t.Context()) != nil {
		t.Errorf("%q, %v", status, err)
	}
}

func codexSecretsStay(t *testing.T, b *codexBox, r tuiRun) {
	path := filepath.Join(b.home, ".codex", "lap.config.toml")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if content, err := os.ReadFile(path); err != nil || strings.Contains(string(content), gatewayKey) {
		t.Errorf("the profile has the key, or: %v", err)
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
	if strings.Contains(b.log.String(), gatewayKey) || strings.Contains(asJSON(t, b.events), gatewayKey) {
		t.Error("the log or an event has the key")
	}
}

func codexGoesOn(t *testing.T, b *codexBox, r tuiRun) {
	id := r.SessionID()
	if uuid.Validate(id) != nil {
		t.Fatalf("its id is %q", id)
	}
	if got := harness.ConversationOf(r.Terminal, b.config); got != harness.ConversationNew {
		t.Errorf("the conversation is %s", got)
	}
	r.Close()
	b.checkEmpty(t)
	again := *b
	again.config.Resume = id
	next := again.start(t)
	if got := harness.ConversationOf(next.Terminal, again.config); got != harness.ConversationResumed || next.SessionID() != id {
		t.Errorf("conversation %s is %s", next.SessionID(), got)
	}
	next.ask(t, "what was before?", "You said: what was before?")
	got := b.asked("what was before?")
	if len(got) != 1 || len(b.asked(b.config.Typed)) < 2 {
		t.Errorf("the gateway saw %s", asJSON(t, got))
	}
	if n := strings.Count(asJSON(t, got), "first message"); n != 2 { // and the answer that repeats it
		t.Errorf("the first message is there %d times", n)
	}
}

func TestCodexStartsAConversationAnewIfNothingWasSaidInIt(t *testing.T) {
	t.Parallel()
	b := newCodexBox(t)
	r := b.start(t)
	id := r.SessionID()
	r.Close()
	b.config.Resume, b.config.Typed = id, "hello"
	next := b.start(t)
	if got := harness.ConversationOf(next.Terminal, b.config); got != harness.ConversationNew || next.SessionID() == id || next.SessionID() == "" {
		t.Errorf("conversation %q after %q is %s", next.SessionID(), id, got)
	}
	next.shows(t, "You said: hello")
}

func TestCodexTellsHowItEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(*testing.T, *codexBox, tuiRun)
		want string
	}{
		"a person leaves": {func(t *testing.T, _ *codexBox, r tuiRun) {
			r.ask(t, "hello", "You said: hello")
			if err := r.Terminal.Terminal().Paste(t.Context(), "/quit"); err != nil {
				t.Fatal(err)
			}
		}, "^codex exited with code 0; its last screen: .*codex resume [0-9a-f-]{36}"},
		"it is killed": {func(t *testing.T, b *codexBox, _ tuiRun) {
			for pid, command := range b.processes(t) {
				if strings.HasPrefix(command, b.config.Bin) {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}, "^codex was ended by signal 9; its last screen: .*OpenAI Codex"},
		"it is closed": {func(_ *testing.T, _ *codexBox, r tuiRun) { r.Close() }, "^codex was ended by signal 15"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newCodexBox(t)
			if name != "a person leaves" { // whose first message would wait for it
				b.config.MCP = []string{"stays=stdio:sleep 7397"}
			}
			r := b.start(t)
			eventually(t, "MCP server", func() bool { return len(b.processes(t)) == 1+len(b.config.MCP) })
			if r.ExitReason() != "" {
				t.Errorf("it lives, and its end is %q", r.ExitReason())
			}
			c.end(t, b, r)
			<-r.Done()
			if got := r.ExitReason(); !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("reason %q", got)
			}
			r.Close()
		})
	}
}
