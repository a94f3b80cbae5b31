package client_test

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

func TestEventsGoOnWhereTheirStreamBroke(t *testing.T) {
	t.Parallel()
	all := []string{event(1, "a", "{}"), event(2, "b", "{}"), event(4, "c", "{}"), event(7, "d", "{}")}
	cut := all[1][:len(all[1])-2] // the line has no end
	synctest.Test(t, func(t *testing.T) {
		lost := 0
		a, w := api(t, client.Options{Lost: func(error) { lost++ }},
			streams(false, ":\n\n", all[0], cut), // breaks in the middle of the second
			fails(errReset), refuses(http.StatusServiceUnavailable, "shutting_down", "Retry-After", "1"),
			streams(true, ":\n\n", all[0], all[1]), // repeats one, and then falls silent
			breaksOff(all[2]+all[3], "text/event-stream"))
		var seqs []int64
		for e, err := range a.Events(t.Context(), "s1", 0) {
			if err != nil {
				t.Fatal(err)
			}
			if seqs = append(seqs, e.Seq); e.Seq == 7 {
				break
			}
		}
		if len(seqs) != 4 || seqs[1] != 2 || lost != 2 {
			t.Errorf("events %v, lost %d times", seqs, lost)
		}
		var asked []string
		for _, r := range w.requests() {
			_, query, _ := strings.Cut(r.path, "?")
			asked = append(asked, query)
		}
		if got := strings.Join(asked, " "); got != "after=0 after=1 after=1 after=1 after=2" {
			t.Errorf("asked %s", got)
		}
	})
}

func TestAQuietStreamIsNoLostOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		a, w := api(t, client.Options{Patience: time.Minute}, streams(true), streams(true), streams(true), streams(true), streams(false, event(1, "a", "{}")))
		for e, err := range a.Events(t.Context(), "s1", 0) { // each is silent for longer than a server is, four times
			if err != nil || e.Seq != 1 {
				t.Errorf("%+v %v", e, err)
			}
			break
		}
		if took := time.Since(begun); len(w.requests()) != 5 || took < 3*time.Minute || took > 4*time.Minute {
			t.Errorf("%d requests in %v", len(w.requests()), took)
		}
	})
}

func TestAStreamIsGivenUp(t *testing.T) {
	t.Parallel()
	last := func(seq func(yield func(client.Event, error) bool)) (err error) {
		for _, e := range seq {
			err = e
		}
		return err
	}
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		a, _ := api(t, client.Options{}, fails(errReset))
		if err := last(a.Events(t.Context(), "s1", 0)); !errors.Is(err, errReset) || time.Since(begun) < 5*time.Minute || time.Since(begun) > 6*time.Minute {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		a, w := api(t, client.Options{}, refuses(http.StatusNotFound, "not_found"))
		if err := last(a.Events(t.Context(), "s1", 0)); !errors.Is(err, client.CodeNotFound) || len(w.requests()) != 1 {
			t.Errorf("%v", err)
		}
		a, _ = api(t, client.Options{Patience: -1}, fails(errReset))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := last(a.Events(ctx, "s1", 0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestAMessageIsOneTurnHoweverOftenItIsSent(t *testing.T) {
	t.Parallel()
	queued, started := event(3, "turn.queued", "{}"), event(4, "turn.started", "{}")
	one := event(5, "message.delta", `{"part_id":"p","offset":0,"text":"Zwölf "}`)
	two := event(6, "message.delta", `{"part_id":"p","offset":6,"text":"Box"}`)
	gap := event(7, "message.delta", `{"part_id":"p","offset":10,"text":"日本"}`)
	part := event(9, "message.part", `{"part_id":"p","part":{"id":"p","type":"text","text":"Zwölf Boxkämpfer"}}`)
	thought := event(10, "message.part", `{"part_id":"r","part":{"id":"r","type":"reasoning","text":"hm"}}`)
	end := event(12, "turn.completed", `{"info":{"error":null}}`)
	synctest.Test(t, func(t *testing.T) {
		a, w := api(t, client.Options{},
			refuses(http.StatusTooManyRequests, "too_many_queued_turns", "Retry-After", "5"), fails(errReset),
			streams(false, queued, started, one, two), streams(false, queued, started, gap), streams(false, queued, started, part, thought, end, event(13, "never", "{}")))
		turn := a.Turn(t.Context(), "s1", nil, client.Text("hi"))
		var reply client.Reply
		var shown, kinds strings.Builder
		for e, err := range turn {
			if err != nil {
				t.Fatal(err)
			}
			d := reply.Add(e)
			if e.Seq == 6 && d != (client.Delta{Part: "p", Text: "Box"}) || d.Anew {
				t.Errorf("event %d brings %+v", e.Seq, d)
			}
			shown.WriteString(d.Text)
			kinds.WriteString(e.Type + " ")
		}
		if shown.String() != "Zwölf Boxkämpfer" || reply.Text() != shown.String() || reply.Err() != nil {
			t.Errorf("shown %q, reply %q, %v", shown.String(), reply.Text(), reply.Err())
		}
		if got := kinds.String(); got != "turn.queued turn.started message.delta message.delta message.delta message.part message.part turn.completed " {
			t.Errorf("events %s", got)
		}
		first := func(turn iter.Seq2[client.Event, error]) {
			for e, err := range turn {
				if err != nil || e.Seq != 3 {
					t.Errorf("%+v %v", e, err)
				}
				break
			}
		}
		first(turn) // once more, the same turn
		seen := w.requests()
		for _, r := range seen {
			if r != seen[0] || r.key == "" || r.body != `{"text":"hi"}` {
				t.Errorf("requests %+v", seen)
			}
		}
		if len(seen) != 6 {
			t.Errorf("%d requests", len(seen))
		}
		first(a.Turn(t.Context(), "s1", &client.StreamMessageParams{IdempotencyKey: new("mine")}, client.Text("hi")))
		first(a.Turn(t.Context(), "s1", nil, client.Text("hi")))
		if seen = w.requests(); seen[6].key != "mine" || seen[7].key == seen[0].key {
			t.Errorf("keys %+v", seen)
		}
	})
}

func TestHowAReplyEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, data string
		err        string
		aborted    bool
	}{
		"whole":               {"turn.completed", `{"info":{"error":null}}`, "", false},
		"with an error of it": {"turn.completed", `{"info":{"error":{"name":"model_error","message":"no credit"}}}`, "the turn failed: model_error: no credit", false},
		"failed":              {"turn.failed", `{"info":{"error":{"name":"turn_interrupted","message":"lost"}}}`, "the turn failed: turn_interrupted: lost", false},
		"aborted":             {"turn.aborted", `{"info":{"error":{"name":"aborted","message":"at your wish"}}}`, "the turn failed: aborted: at your wish", true},
		"without a word":      {"turn.failed", `{}`, "the turn failed", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reply client.Reply
			for e, err := range client.ReadEvents(strings.NewReader(event(1, "message.part", `{"part":{"id":"p","type":"text","text":"a"}}`) +
				event(2, "message.part", `{"part":{"id":"q","type":"text","text":"b"}}`) +
				event(3, "message.part", `{"part":{"id":"p","type":"text","text":"other"}}`) + event(4, c.kind, c.data))) {
				if err != nil || e.EndsTurn() != (e.Seq == 4) {
					t.Errorf("%+v %v", e, err)
				}
				if d := reply.Add(e); d.Anew != (e.Seq == 3) {
					t.Errorf("delta %+v", d)
				}
			}
			err := reply.Err()
			var fault *client.ReplyError
			switch {
			case c.err == "" && err == nil:
			case !errors.As(err, &fault), err.Error() != c.err, fault.Aborted != c.aborted:
				t.Errorf("%v", err)
			}
			if reply.Text() != "other\nb" {
				t.Errorf("%q", reply.Text())
			}
		})
	}
}
