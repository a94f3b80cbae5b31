package chaos_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// judge waits for quiet and checks all sessions. Those that were deleted, and one more, are forgotten after that.
func (w *world) judge() {
	w.note("QUIET")
	if !w.srv.start(time.Minute) {
		w.violated("", violation{"crash", "the server does not become ready"})
		return
	}
	w.mu.Lock()
	dropped := slices.Clone(w.dropped)
	all := append(slices.Clone(w.subjects), dropped...)
	w.dropped = nil
	w.mu.Unlock()
	for _, s := range all {
		if w.settled(s) {
			w.probe(s)
		}
	}
	var ids []string
	for _, s := range dropped {
		ids = append(ids, s.id)
	}
	w.nothingLeft(ids)
	for _, s := range all {
		h, ok := w.history(s)
		if !ok {
			continue
		}
		found := check(h)
		for _, v := range found {
			w.violated(s.id, v)
		}
		if len(found) > 0 {
			w.dump(s, h)
		}
		w.tally(h, slices.Contains(dropped, s))
	}
	for _, s := range dropped {
		s.unsubscribe()
	}
	w.known(all)
	w.note("JUDGED %d sessions", len(all))
}

// probe sends a message to a session that says it is ready.
func (w *world) probe(s *subject) {
	if got, ok := w.session(s.id); !ok || got.Status != client.SessionStatusReady {
		return
	}
	random := rand.New(rand.NewPCG(0, 0))
	m := w.newMessage(random, s)
	m.key = "chaos-probe-" + m.begin()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout+30*time.Second)
	defer cancel()
	for {
		err := w.attempt(ctx, 0, s, m)
		if err == nil {
			break
		}
		if !pause(ctx, 100*time.Millisecond) {
			w.violated(s.id, violation{"stuck", "it is ready and does not answer: " + err.Error()})
			return
		}
	}
	if m.refused || len(m.turns) == 0 {
		w.violated(s.id, violation{"untrue", "it is ready and refuses a message"})
		return
	}
	if t, ok := w.turn(s.id, m.turns[0]); ok && t.Status != "completed" {
		w.violated(s.id, violation{"untrue", fmt.Sprintf("it is ready and a message is %s: %+v", t.Status, t.Info.Error)})
	}
}

// known checks that the server has no session that nobody made.
func (w *world) known(all []*subject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range all {
		w.ids = append(w.ids, s.id)
	}
}

// dump keeps what a violation is about.
func (w *world) dump(s *subject, h history) {
	f, err := os.Create(filepath.Join(w.dir, "history-"+s.id+".log"))
	if err != nil {
		w.t.Error(err)
		return
	}
	defer f.Close()
	for _, e := range h.replay {
		fmt.Fprintln(f, e.raw.Value())
	}
}

func (w *world) tally(h history, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !last {
		return
	}
	for _, t := range h.turns {
		what := "turns " + t.Status
		if e, err := t.Info.Error.Get(); err == nil {
			what += " " + e.Name
			fmt.Fprintf(w.trace, "turn %s of session %s failed: %s: %s\n", t.ID, h.session.ID, e.Name, e.Message)
		}
		w.counts[what]++
	}
	for _, e := range h.replay {
		if e.typ == "session.status" {
			if state := e.body().Data.SandboxState; state == "suspended" || state == "waking" {
				w.counts["sandboxes "+state]++
			}
		}
	}
	w.counts["sessions judged"]++
}

// finish deletes all sessions, judges a last time and checks that nothing is left of anything.
func (w *world) finish() {
	life, end := context.WithTimeout(context.Background(), startTimeout+30*time.Second)
	defer end()
	w.mu.Lock()
	all := slices.Clone(w.subjects)
	w.mu.Unlock()
	for _, s := range all {
		w.drop(life, s)
	}
	w.judge()
	w.strangers()
	w.allGone()
	if !w.srv.kill(syscall.SIGTERM) {
		w.violated("", violation{"crash", "the server does not end after SIGTERM"})
	}
}

// strangers checks that the server has no session that no client knows.
func (w *world) strangers() {
	limit := 200
	for params := (&client.ListSessionsParams{Limit: &limit}); ; {
		page, ok := read(w, "sessions", func(ctx context.Context) (*client.SessionList, *http.Response, []byte, error) {
			r, err := w.api.ListSessionsWithResponse(ctx, params)
			if err != nil {
				return nil, nil, nil, err
			}
			return r.JSON200, r.HTTPResponse, r.Body, nil
		})
		if !ok {
			return
		}
		for _, s := range page.Data {
			if !slices.Contains(w.ids, s.ID) {
				w.violated(s.ID, violation{"unsent", "nobody created this session"})
			}
		}
		next, err := page.NextCursor.Get()
		if err != nil {
			return
		}
		params.Cursor = &next
	}
}

func (w *world) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s, seed %d, %s, %d violations\n", w.kind, w.seed, time.Since(w.begun).Round(time.Second), w.broken)
	for _, name := range slices.Sorted(maps.Keys(w.counts)) {
		fmt.Fprintf(&b, "  %-40s %d\n", name, w.counts[name])
	}
	w.t.Log(b.String())
}
