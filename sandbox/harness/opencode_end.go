package harness

import (
	"context"
	"fmt"
	"strings"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	gatewayFailed = "APIError" // opencode's name for a request to the gateway that failed
	maxReason     = 1000       // bytes of what the gateway said
)

// settled tells whether an idle opencode is idle because this turn is over. It says idle twice after an error, the first time
// before the message that failed is complete.
func (t *openCodeTurn) settled() bool {
	if !t.accepted {
		return false
	}
	last, answered := t.transcript.last()
	if !answered {
		return t.failure != nil
	}
	return last.Time.Completed != 0 && (last.final() || t.failure != nil || t.aborting)
}

// resync fetches what the event stream did not bring.
func (t *openCodeTurn) resync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	history, err := t.run.api.historySince(ctx, t.run.session, t.messageID)
	if err != nil {
		return err
	}
	t.merge(history)
	return nil
}

func (t *openCodeTurn) merge(history []openCodeMessage) {
	for _, m := range history {
		t.message(m.Info)
		for _, p := range m.Parts {
			t.transcript.part(p, true)
		}
	}
}

// outcome judges by the last message of the turn.
func (t *openCodeTurn) outcome() (string, *sandboxd.TurnError) {
	failure := t.failure
	if last, answered := t.transcript.last(); answered && (last.Error != nil || last.final()) {
		failure = last.Error
		if failure == nil {
			return Completed, nil
		}
	}
	switch {
	case t.gaveUp != nil:
		return Failed, t.gaveUp
	case failure != nil && failure.Name == "MessageAbortedError", t.aborting:
		return Aborted, &sandboxd.TurnError{Name: "MessageAbortedError", Message: "the turn was aborted"}
	case failure == nil:
		return Failed, &sandboxd.TurnError{Name: "NoAnswer", Message: "opencode ended the turn without an answer"}
	}
	return Failed, t.run.turnError(failure)
}

func (r *openCodeRun) turnError(e *openCodeError) *sandboxd.TurnError {
	message, name := r.words(e.Data.Message), e.Name
	if message == "" {
		message = "opencode gave no reason"
	}
	switch {
	case e.Data.StatusCode != 0:
		message = fmt.Sprintf("%s (the model gateway answered %d)", message, e.Data.StatusCode)
	case name == gatewayFailed:
		message += " (no whole answer came from the model gateway)"
	}
	if name == "" {
		name = "UnknownError"
	}
	return &sandboxd.TurnError{Name: name, Message: message}
}

// words is what somebody else said about a failure: its first line, without secrets, bounded.
func (r *openCodeRun) words(s string) string {
	s = r.redact(firstLine(s))
	if len(s) > maxReason {
		s = s[:maxReason] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

func (t *openCodeTurn) result(failure *sandboxd.TurnError) sandboxd.TurnResult {
	result := t.transcript.finish()
	result.Error, result.Model = failure, &t.run.config.Model
	return result
}
