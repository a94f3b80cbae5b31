package harness_test

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestClaudeLosesItsTurnWhenKilledAndRemembersTheConversation(t *testing.T) {
	t.Parallel()
	b := newClaudeBox(t)
	first := b.start(t)
	completed(t, b.turn(t, first, say("the password is albatross")))
	ended := b.begin(t, first, say("RUN: tail -f /dev/null"))
	b.await(t, "tool.started", "tail -f")
	eventually(t, "tool", func() bool { return b.runs(t, "tail -f") })
	b.kill(t)
	o := <-ended
	if o.err == nil || o.status != harness.Failed || !strings.Contains(o.err.Error(), "claude was ended by a signal (killed)") {
		t.Errorf("%q, %v", o.status, o.err)
	}
	if o.result.Error == nil || o.result.Error.Name != "turn_interrupted" {
		t.Errorf("result %s", asJSON(t, o.result))
	}
	<-first.Done()
	b.checkEmpty(t)

	b.config.Resume, b.config.Replay = first.SessionID(), "never told"
	second := b.start(t)
	if got := harness.ConversationOf(second, b.config); got != harness.ConversationResumed || second.SessionID() != first.SessionID() {
		t.Errorf("conversation %s is %s", second.SessionID(), got)
	}
	completed(t, b.turn(t, second, say("what was it?")))
	last := asJSON(t, b.last(t).Messages)
	if !strings.Contains(last, "the password is albatross") || !strings.Contains(last, "what was it?") || strings.Contains(last, "never told") {
		t.Errorf("the gateway was sent %s", last)
	}

	// A tool that made a session of its own and ignores SIGTERM ends with claude.
	ended = b.begin(t, second, say("RUN: trap '' TERM; setsid tail -f /dev/null & tail -F /dev/null"))
	eventually(t, "tools", func() bool { return b.runs(t, "tail -f") && b.runs(t, "tail -F") })
	second.Close()
	if o := <-ended; o.err == nil {
		t.Errorf("%q, %+v", o.status, o.result)
	}
	b.checkEmpty(t)
}

func TestClaudeIsToldWhatWasSaidIfItsConversationIsLost(t *testing.T) {
	t.Parallel()
	b := newClaudeBox(t)
	b.config.Resume, b.config.Replay = uuid.NewString(), "user: the password is albatross"
	r := b.start(t)
	if got := harness.ConversationOf(r, b.config); got != harness.ConversationReplayed {
		t.Errorf("the conversation is %s", got)
	}
	completed(t, b.turn(t, r, say("what was it?")))
	completed(t, b.turn(t, r, say("and now?")))
	if n := strings.Count(asJSON(t, b.last(t).Messages), "user: the password is albatross"); n != 2 { // and the answer that repeats it
		t.Errorf("what was said before was told %d times", n)
	}
}

func TestClaudeSaysWhatBecameOfTheGateway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		say     string
		status  string
		want    string
		retries int // at least
	}{
		"it asks to come again":    {say: "FAIL: 429 1", status: harness.Completed, retries: 1},
		"its answer is cut":        {say: "CUT: 3 1", status: harness.Completed, retries: 1},
		"it asks for patience":     {say: "FAIL: 429 0 7200", status: harness.Failed, want: "the model gateway answered 429"},
		"it refuses the key":       {say: "FAIL: 401", status: harness.Failed, want: "the model gateway answered 401"},
		"it does not like the ask": {say: "FAIL: 400", status: harness.Failed, want: "the model gateway answered 400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newClaudeBox(t)
			r := b.start(t)
			o := b.turn(t, r, say(c.say))
			if o.err != nil || o.status != c.status {
				t.Fatalf("%q, %+v, %v", o.status, o.result.Error, o.err)
			}
			if c.want != "" && (o.result.Error == nil || o.result.Error.Name != "APIError" || !strings.Contains(o.result.Error.Message, c.want)) {
				t.Errorf("error %+v, want %q", o.result.Error, c.want)
			}
			retries := 0
			for _, e := range o.events {
				if e.Type == "harness.event" && strings.Contains(asJSON(t, e.Data), `"retry"`) {
					retries++
				}
			}
			if retries < c.retries {
				t.Errorf("%d retries were told", retries)
			}
			if got := text(completed(t, b.turn(t, r, say("better?")))); !strings.HasSuffix(got, "You said: better?") {
				t.Errorf("the next reply is %q", got)
			}
		})
	}
}

func TestClaudeSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*testing.T, *claudeBox)
		want   string
	}{
		"the program exits": {func(t *testing.T, b *claudeBox) {
			b.config.Bin = script(t, "echo reading; echo the disk is $ANTHROPIC_AUTH_TOKEN full >&2; exit 7")
		}, "claude exited with code 7; its last output: "},
		"the program says nothing": {func(t *testing.T, b *claudeBox) {
			b.config.Bin = script(t, "echo '{}'; exec sleep 7394")
		}, "claude did not start: it does not answer: context deadline exceeded"},
		"the conversation's id is malformed": {func(_ *testing.T, b *claudeBox) {
			b.config.Resume = "../config"
		}, "claude knows no conversation"},
		"there is no home": {func(_ *testing.T, b *claudeBox) {
			b.config.Env = []string{"HOME=here", "PATH=" + os.Getenv("PATH")}
		}, "HOME is not an absolute path"},
		"the program is missing": {func(t *testing.T, b *claudeBox) {
			b.config.Bin = filepath.Join(t.TempDir(), "none")
		}, "start claude: "},
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
			r, err := harness.NewClaudeAgentSDK().Start(ctx, b.config)
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

func TestClaudeUsesMCPServersAndTellsHowTheyAre(t *testing.T) {
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
	r := b.start(t)
	if got := text(completed(t, b.turn(t, r, say("CALL: word {}")))); !strings.HasPrefix(got, "[demo] RESULT: the word is two words and lighthouse") {
		t.Errorf("reply %q", got)
	}
	for server, want := range map[string]string{"good": `"connected"`, "refused": `"needs-auth"`, "gone": `"failed"`} {
		e := b.await(t, "harness.event", `"`+server+`"`)
		if got := asJSON(t, e.Data); !strings.Contains(got, want) || strings.Contains(got, "mcp-canary") {
			t.Errorf("%s: %s", server, got)
		}
	}
}
