package main_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// The demo gateway counts for four seconds, long enough for a reader on a busy machine to see a piece before all of it is there.
const (
	slowly  = "SLOW: 40"
	counted = "[demo] 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 "
)

func TestATurnGoesOnWithoutItsClient(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	id := s.open(demoAgent(), client.SessionCreate{})
	s.await(id, client.SessionStatusReady)
	live := s.watch(id)
	s.eventually("a live reader", time.Minute, func() bool { return count(live.all(), "session.status", `"ready"`) == 1 }) // deltas are never replayed
	text := client.MessageCreate{Text: nullable.NewNullableWithValue(slowly)}
	started := func(n int) string {
		s.eventually("first words", 2*time.Minute, func() bool { return count(live.all(), "turn.started", "") == n && lastDelta(live.all()) != "" })
		return lastDelta(live.all())
	}

	// A client that waits for the answer goes in the middle of the turn.
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := s.api.SendMessageWithResponse(ctx, id, nil, text)
		left <- err
	}()
	turn := started(1)
	leave()
	if err := <-left; err == nil {
		t.Error("the answer was there already")
	}
	if got := s.ended(id, turn); got.Status != "completed" || *got.Parts[0].Text != counted {
		t.Errorf("turn %+v", got)
	}

	// A client that reads the turn's stream goes after its first words. Another one joins with the same key, and reads it whole.
	stream := func(ctx context.Context) *http.Response {
		r, err := s.api.StreamMessage(ctx, id, &client.StreamMessageParams{IdempotencyKey: ptr("once")}, text)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("stream: %v", err)
		}
		return r
	}
	ctx, leave = context.WithCancel(t.Context())
	defer leave()
	r := stream(ctx)
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() && lines.Text() != "event: message.delta" {
	}
	leave()
	_ = r.Body.Close()
	r = stream(t.Context())
	defer func() { _ = r.Body.Close() }()
	var events []string
	for lines = bufio.NewScanner(r.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events = append(events, data)
		}
	}
	if lines.Err() != nil || count(events, "turn.completed", "") != 1 || !strings.Contains(events[len(events)-1], "turn.completed") {
		t.Errorf("joined: %v, %d events", lines.Err(), len(events))
	}
	if all := s.folded(events); count(all, "message.part", counted) != 1 {
		t.Errorf("joined: %q", all)
	}
	if n := s.asked(slowly); n != 2 {
		t.Errorf("the model was asked %d times", n)
	}
}

// lastDelta is the turn of the last delta that was seen.
func lastDelta(events []string) string {
	for i := len(events) - 1; i >= 0; i-- {
		if _, rest, ok := strings.Cut(events[i], `"turn_id":"`); ok && strings.Contains(events[i], `"type":"message.delta"`) {
			id, _, _ := strings.Cut(rest, `"`)
			return id
		}
	}
	return ""
}

func TestAnAbortIsTruthfulWheneverItComes(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	id := s.open(demoAgent(), client.SessionCreate{})
	abort := func() bool {
		t.Helper()
		r, err := s.api.AbortTurnWithResponse(t.Context(), id, nil)
		if err != nil || r.JSON200 == nil {
			t.Fatalf("abort: %v %s", err, r.Body)
		}
		return r.JSON200.Aborted
	}
	live := s.watch(id)

	// Nothing runs while the session starts, and queued turns stay.
	waiting := s.post(id, "first")
	if s.session(id).Status == client.SessionStatusCreating && abort() {
		t.Error("a turn that waits was aborted")
	}
	if got := s.ended(id, waiting); got.Status != "completed" {
		t.Errorf("it ended as %s", got.Status)
	}

	// The one that runs ends; the one behind it runs.
	running, next := s.post(id, "SLOW: 300"), s.post(id, "second")
	s.eventually("first words", 2*time.Minute, func() bool { return count(live.all(), "message.delta", running) > 0 })
	if !abort() || s.ended(id, running).Status != "aborted" || s.ended(id, next).Status != "completed" {
		t.Errorf("turns are %s and %s", s.turn(id, running).Status, s.turn(id, next).Status)
	}

	// Around the hand-over, and around the end.
	for _, c := range []struct {
		say  string
		wait []time.Duration
	}{
		{"SLOW: 30", []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond}},
		{"SLOW: 3", []time.Duration{250 * time.Millisecond, 300 * time.Millisecond, 330 * time.Millisecond, 360 * time.Millisecond, 400 * time.Millisecond}},
	} {
		for _, d := range c.wait {
			turn := s.post(id, c.say)
			<-time.After(d)
			said := abort()
			got := s.ended(id, turn)
			if want := map[bool]string{true: "aborted", false: "completed"}[said]; got.Status != want {
				t.Errorf("abort %v after %q says %t, the turn is %s, %+v", d, c.say, said, got.Status, got.Info)
			}
			if _, err := got.Info.Error.Get(); (err == nil) != said {
				t.Errorf("abort %v after %q: error %v", d, c.say, err)
			}
			s.eventually("its end to be seen", time.Minute, func() bool {
				return count(live.all(), "turn.aborted", turn)+count(live.all(), "turn.completed", turn) > 0
			})
			if n := count(live.all(), "turn.aborted", turn) + count(live.all(), "turn.completed", turn) + count(live.all(), "turn.failed", turn); n != 1 {
				t.Errorf("%d ends", n)
			}
		}
	}
	if m := s.say(id, "still there?"); len(m.Parts) != 1 {
		t.Errorf("afterwards %+v", m.Parts)
	}
}
