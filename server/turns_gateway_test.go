package main_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestFailuresOfTheGatewayAreToldTruthfullyAndTheNextTurnWorks(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	var all sync.WaitGroup
	for _, c := range []struct {
		say, status, failure string
		retries              int
		least                int64 // of the duration, in ms
	}{
		{say: "FAIL: 401", status: "failed", failure: "[demo] the demo gateway fails with 401, as it was asked to (the model gateway answered 401)"},
		{say: "FAIL: 429 2", status: "completed", retries: 2, least: 2000},
		{say: "CUT: 5 1", status: "completed", retries: 1, least: 2000},
		{say: "FAIL: 500", status: "failed", failure: "[demo] the demo gateway fails with 500, as it was asked to (the model gateway answered 500)", retries: 5, least: 30_000},
	} {
		id := s.open(demoAgent(), client.SessionCreate{})
		s.await(id, client.SessionStatusReady)
		live := s.watch(id)
		all.Go(func() {
			turn := s.ended(id, s.post(id, c.say))
			if turn.Status != c.status || turn.Info.DurationMs < c.least {
				t.Errorf("%s: %s after %d ms", c.say, turn.Status, turn.Info.DurationMs)
			}
			if e, err := turn.Info.Error.Get(); c.failure != "" && (err != nil || e.Name != "APIError" || e.Message != c.failure) || c.failure == "" && err == nil {
				t.Errorf("%s: error %+v", c.say, e)
			}
			next := s.say(id, "better?")
			if e, err := next.Info.Error.Get(); err == nil || len(next.Parts) != 1 || !strings.HasSuffix(*next.Parts[0].Text, "You said: better?") {
				t.Errorf("%s: then %+v, %+v", c.say, next.Parts, e)
			}
			s.eventually("the end of the next turn to be seen", time.Minute, func() bool { return count(live.all(), "turn.completed", next.Info.TurnID) == 1 })
			seen := live.all()
			ends := count(seen, "turn.failed", turn.ID) + count(seen, "turn.completed", turn.ID) + count(seen, "turn.aborted", turn.ID)
			if ends != 1 || count(seen, `harness.event`, turn.ID) != c.retries {
				t.Errorf("%s: %d ends and %d retries were seen", c.say, ends, count(seen, "harness.event", turn.ID))
			}
		})
	}
	all.Wait()
}
