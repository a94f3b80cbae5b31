package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// read gets one thing of a server that is whole again. It may fail a few times: connections of before may be dead.
func read[T any](w *world, what string, call func(ctx context.Context) (*T, *http.Response, []byte, error)) (v T, ok bool) {
	var failure string
	for range 5 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		got, res, body, err := call(ctx)
		cancel()
		if err == nil && got != nil {
			return *got, true
		}
		failure = fmt.Sprint(err)
		if err == nil {
			failure = res.Status + ": " + string(body)
		}
		<-time.After(200 * time.Millisecond)
	}
	w.violated("", violation{"unavailable", what + ": " + failure})
	return v, false
}

func (w *world) session(id string) (client.Session, bool) {
	return read(w, "session "+id, func(ctx context.Context) (*client.Session, *http.Response, []byte, error) {
		r, err := w.api.GetSessionWithResponse(ctx, id)
		if err != nil {
			return nil, nil, nil, err
		}
		return r.JSON200, r.HTTPResponse, r.Body, nil
	})
}

func (w *world) turn(session, id string) (client.Turn, bool) {
	return read(w, "turn "+id, func(ctx context.Context) (*client.Turn, *http.Response, []byte, error) {
		r, err := w.api.GetTurnWithResponse(ctx, session, id)
		if err != nil {
			return nil, nil, nil, err
		}
		return r.JSON200, r.HTTPResponse, r.Body, nil
	})
}

func (w *world) transcript(id string) (all []client.TranscriptMessage, ok bool) {
	limit := 200
	for params := (&client.ListMessagesParams{Limit: &limit}); ; {
		page, ok := read(w, "messages of "+id, func(ctx context.Context) (*client.TranscriptPage, *http.Response, []byte, error) {
			r, err := w.api.ListMessagesWithResponse(ctx, id, params)
			if err != nil {
				return nil, nil, nil, err
			}
			return r.JSON200, r.HTTPResponse, r.Body, nil
		})
		if !ok {
			return nil, false
		}
		all = append(all, page.Data...)
		next, err := page.NextCursor.Get()
		if err != nil {
			return all, true
		}
		params.Cursor = &next
	}
}

// replay reads the log of a session from the start.
func (w *world) replay(id string) (all []event, ok bool) {
	type page struct {
		events []event
		more   bool
		after  int64
	}
	follow, limit, after := false, 1000, int64(0)
	for {
		p, ok := read(w, "events of "+id, func(ctx context.Context) (*page, *http.Response, []byte, error) {
			r, err := w.api.StreamEventsWithResponse(ctx, id, &client.StreamEventsParams{Follow: &follow, Limit: &limit, After: &after})
			if err != nil || r.JSON200 == nil {
				return nil, r.HTTPResponse, r.Body, err
			}
			events, err := parsePage(r.Body)
			return &page{events, r.JSON200.HasMore, r.JSON200.NextAfter}, r.HTTPResponse, r.Body, err
		})
		if !ok {
			return nil, false
		}
		all, after = append(all, p.events...), p.after
		if !p.more {
			return all, true
		}
	}
}

func parsePage(text []byte) ([]event, error) {
	var page struct {
		Data []json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(text, &page); err != nil {
		return nil, err
	}
	events := make([]event, len(page.Data))
	for i, raw := range page.Data {
		var err error
		if events[i], err = parseEvent(string(raw)); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// settled waits until a session is neither creating nor has open turns.
func (w *world) settled(s *subject) bool {
	var open int
	var sess client.Session
	for deadline := time.Now().Add(startTimeout + 30*time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		var ok, listed bool
		var list []client.TranscriptMessage
		sess, ok = w.session(s.id)
		list, listed = w.transcript(s.id)
		if !ok || !listed {
			return false
		}
		open = 0
		for _, m := range list {
			if m.Info.Role == client.TranscriptInfoRoleUser {
				open++
			} else {
				open--
			}
		}
		if sess.Status != client.SessionStatusCreating && sess.SandboxState != "waking" && open == 0 {
			return true
		}
	}
	w.violated(s.id, violation{"stuck", fmt.Sprintf("status %s, sandbox %s, phase %s, %d turns open", sess.Status, sess.SandboxState, sess.Phase.MustGet(), open)})
	return false
}

// history gathers all that is known of a session, when its subscribers have read it to the end.
func (w *world) history(s *subject) (h history, ok bool) {
	for range 10 {
		if h, ok = w.collect(s); !ok {
			return h, false
		}
		now, ok := w.session(s.id)
		if ok && now.Status == h.session.Status && now.SandboxState == h.session.SandboxState {
			return h, true
		}
	}
	w.violated(s.id, violation{"restless", "it changes though nothing is done"})
	return h, false
}

// collect takes one thing after the other, so the session must not change meanwhile: an idle one is suspended at any time.
func (w *world) collect(s *subject) (h history, ok bool) {
	if h.session, ok = w.session(s.id); !ok {
		return h, false
	}
	if h.replay, ok = w.replay(s.id); !ok {
		return h, false
	}
	if h.transcript, ok = w.transcript(s.id); !ok {
		return h, false
	}
	h.turns = map[string]client.Turn{}
	for _, m := range h.transcript {
		if _, known := h.turns[m.Info.TurnID]; known {
			continue
		}
		if h.turns[m.Info.TurnID], ok = w.turn(s.id, m.Info.TurnID); !ok {
			return h, false
		}
	}
	w.catchUp(s, h.replay)
	h.asked = w.gw.saw()
	w.mu.Lock()
	h.deeds = append(h.deeds, w.deeds...)
	w.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	h.mustEnd, h.sent, h.streams = s.mustEnd, s.sent, s.stream
	for _, b := range s.subs {
		b.mu.Lock()
		h.subscriptions = append(h.subscriptions, subscription{b.manner, append([]event{}, b.seen...)})
		b.mu.Unlock()
	}
	return h, true
}

func (w *world) catchUp(s *subject, replay []event) {
	if len(replay) == 0 {
		return
	}
	last := replay[len(replay)-1].seq
	deadline := time.Now().Add(time.Minute)
	for _, b := range s.subs {
		for b.last() < last {
			if time.Now().After(deadline) {
				w.violated(s.id, violation{"missed", fmt.Sprintf("the %s subscriber is at %d and the log at %d", b.manner, b.last(), last)})
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	}
}
