package harness_test

import (
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestOpenCodeIsToldOnceWhatWasSaidBeforeWhenItsConversationIsLost(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.config.Resume, b.config.Replay = "ses_0000000000000000", "<user>\nthe password is albatross\n</user>"
	first := b.start(t)
	if got := harness.ConversationOf(first, b.config); got != harness.ConversationReplayed || first.SessionID() == b.config.Resume {
		t.Errorf("the conversation is %s, %s", got, first.SessionID())
	}
	if n := len(b.gateway.Requests()); n != 0 {
		t.Errorf("%d requests to the model before the first turn", n)
	}
	heard := func(r harness.Running) {
		result := completed(t, b.turn(t, r, say("what was it?")))
		if got := text(result); !strings.HasSuffix(got, "You said: what was it?") {
			t.Errorf("reply %q", got)
		}
		requests := b.gateway.Requests()
		last := asJSON(t, requests[len(requests)-1].Messages)
		if n := strings.Count(last, "the password is albatross"); n != 1 {
			t.Errorf("the gateway was sent what was said before %d times: %s", n, last)
		}
	}
	heard(first)
	first.Close()
	b.config.Resume = first.SessionID() // and the record is still at hand
	second := b.start(t)
	if got := harness.ConversationOf(second, b.config); got != harness.ConversationResumed {
		t.Errorf("the conversation is %s", got)
	}
	heard(second)
	second.Close()
	b.config.Resume, b.config.Replay = "", ""
	if got := harness.ConversationOf(b.start(t), b.config); got != harness.ConversationNew {
		t.Errorf("the conversation is %s", got)
	}
}
