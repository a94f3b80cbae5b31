package harness

import (
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	retryWait = 2 * time.Minute // a gateway that asks for a longer pause than this is not waited for
	retryFor  = 5 * time.Minute // nor one that has failed one request for so long
	silentFor = 5 * time.Minute // the gateway may say nothing for so long, before an answer and within one
)

// retries knows how long the gateway has failed. opencode itself gives up after five repetitions, which take about a minute, but
// waits for as long as the gateway asks it to, and each repetition may take as long as the gateway is silent.
type retries struct {
	since time.Time // when the request failed first
}

// spent tells whether a request that is to be repeated at next should be given up, and why.
func (r *retries) spent(attempt int, now, next time.Time) (why string) {
	if attempt <= 1 || r.since.IsZero() {
		r.since = now
	}
	switch {
	case next.Sub(now) > retryWait:
		return fmt.Sprintf("it asks to wait for %s", next.Sub(now).Round(time.Second))
	case now.Sub(r.since) > retryFor:
		return fmt.Sprintf("it has failed for %s", now.Sub(r.since).Round(time.Second))
	}
	return ""
}

type retryEvent struct {
	Kind    string    `json:"kind"`
	Attempt int       `json:"attempt"`
	Message string    `json:"message"`
	RetryAt time.Time `json:"retry_at"`
}

// retry shows that opencode will repeat a request to the gateway, and ends the turn if there is no sense in that.
func (t *openCodeTurn) retry(s openCodeStatus) {
	now, next := time.Now(), time.UnixMilli(int64(s.Next)).UTC()
	words := t.run.words(s.Message)
	t.transcript.abandon()
	t.emit("harness.event", retryEvent{"retry", s.Attempt, words, next})
	if why := t.retries.spent(s.Attempt, now, next); why != "" && !t.aborting {
		t.gaveUp = &sandboxd.TurnError{Name: gatewayFailed, Message: words + " (the model gateway is not waited for: " + why + ")"}
		t.abortOnce.Do(func() { close(t.abort) })
	}
}
