package main_test

import (
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestAHarnessThatCrashesTwiceInARowEndsTheSessionTruthfully(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindPostgres)
	id := s.open(demoAgent(), client.SessionCreate{})
	before := s.await(id, client.SessionStatusReady)
	s.say(id, "remember the word marmalade")
	live := s.watch(id)
	turns := []string{s.post(id, "SLOW: 300 first"), s.post(id, "SLOW: 300 second"), s.post(id, "third")}
	for i, turn := range turns[:2] {
		s.eventually("first words", 2*time.Minute, func() bool { return count(live.all(), "message.delta", turn) > 0 })
		if last := s.gateway.Requests()[len(s.gateway.Requests())-1].Messages; last[1].Text != "remember the word marmalade" {
			t.Errorf("turn %d is in another conversation: %+v", i, last)
		}
		kill(t, s.dir, "opencode serve")
		got := s.ended(id, turn)
		if e := got.Info.Error.MustGet(); got.Status != "failed" || e.Name != "turn_interrupted" || !strings.Contains(e.Message, "opencode was ended by a signal (killed)") {
			t.Errorf("turn %d is %s: %+v", i, got.Status, e)
		}
	}
	got := s.ended(id, turns[2])
	// The second name is for one that was handed over just before the sandbox said that its harness is gone.
	if e := got.Info.Error.MustGet(); got.Status != "failed" || e.Name != "session_not_ready" && e.Name != "turn_interrupted" {
		t.Errorf("the turn behind them is %s: %+v", got.Status, e)
	}
	dead := s.await(id, client.SessionStatusDead)
	if reason := dead.FailureReason.MustGet(); !strings.Contains(reason, "opencode was ended by a signal (killed)") {
		t.Errorf("reason %q", reason)
	}
	s.eventually("its processes to end", time.Minute, func() bool { return len(processesWith(t, s.dir)) == 0 })

	// The conversation is still there.
	if r, err := s.api.RestartSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("restart: %v %s", err, r.Body)
	}
	after := s.await(id, client.SessionStatusReady)
	m := s.say(id, "what was it?")
	last := s.gateway.Requests()[len(s.gateway.Requests())-1].Messages
	if !equal(before.HarnessSessionID, after.HarnessSessionID) || last[1].Text != "remember the word marmalade" || len(m.Parts) != 1 {
		t.Errorf("afterwards %+v, the model was sent %+v", m.Parts, last)
	}
	events := live.all()
	for i, turn := range turns {
		if n := count(events, "turn.failed", turn); n != 1 || count(events, "turn.completed", turn) != 0 || s.asked([]string{"first", "second", "third"}[i]) > 1 {
			t.Errorf("turn %d failed %d times, the model was asked %d times", i, n, s.asked([]string{"first", "second", "third"}[i]))
		}
	}
}
