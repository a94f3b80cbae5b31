package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// emit appends events to a session, as the controller does.
func (s *server) emit(t *testing.T, sessionID string, texts ...string) {
	t.Helper()
	err := s.store.Session(t.Context(), sessionID, func(tx *store.SessionTx) error {
		for _, text := range texts {
			tx.Append(store.NewEvent{Type: "harness.event", Data: map[string]any{"text": text}})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// follow opens a stream. It is read with apitest.ReadEvents and ended with its context.
func (s *server) follow(ctx context.Context, t *testing.T, path string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func until(n int) func(client.Event) bool {
	return func(client.Event) bool { n--; return n == 0 }
}

func words(events []client.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprint(&b, e.Data["text"], " ")
	}
	return strings.TrimSpace(b.String())
}

func TestEventsAreReplayedAndThenFollowedLive(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		s.emit(t, sess.ID, "a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		resp := s.follow(ctx, t, sessionPath(sess.ID)+"/events")
		for header, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
			if got := resp.Header.Get(header); got != want {
				t.Errorf("%s: %q", header, got)
			}
		}
		events, err := apitest.ReadEvents(ctx, resp.Body, until(3))
		if err != nil || events[0].Type != "session.status" || words(events[1:]) != "a b" {
			t.Fatalf("replay %+v, %v", events, err)
		}
		s.emit(t, sess.ID, "c", "two\nlines", "d")
		live, err := apitest.ReadEvents(ctx, resp.Body, until(3))
		if err != nil || words(live) != "c two\nlines d" {
			t.Fatalf("live %+v, %v", live, err)
		}
		last := fmt.Sprint(events[2].Seq)
		for name, resumed := range map[string]*http.Response{
			"after":            s.follow(ctx, t, sessionPath(sess.ID)+"/events?after="+last),
			"header":           s.follow(ctx, t, sessionPath(sess.ID)+"/events", "Last-Event-ID", last),
			"header and after": s.follow(ctx, t, sessionPath(sess.ID)+"/events?after=0", "Last-Event-ID", last),
		} {
			again, err := apitest.ReadEvents(ctx, resumed.Body, until(3))
			if err != nil || words(again) != words(live) || again[0].Seq != live[0].Seq {
				t.Errorf("resumed by %s: %+v, %v", name, again, err)
			}
		}
	})
}

func TestEventsComeInPagesWithoutFollowing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		s.emit(t, sess.ID, "a", "b", "c", "d")
		no, limit, after := false, 2, int64(1)
		var got []client.Event
		for {
			page, err := s.client.StreamEventsWithResponse(t.Context(), sess.ID, &client.StreamEventsParams{Follow: &no, Limit: &limit, After: &after})
			if err != nil || page.JSON200 == nil {
				t.Fatalf("page: %s, %v", page.Body, err)
			}
			got = append(got, page.JSON200.Data...)
			after = page.JSON200.NextAfter
			if !page.JSON200.HasMore {
				break
			}
		}
		if words(got) != "a b c d" || after != got[3].Seq {
			t.Errorf("got %+v, next after %d", got, after)
		}
		page, err := s.client.StreamEventsWithResponse(t.Context(), sess.ID, &client.StreamEventsParams{Follow: &no, After: &after})
		if err != nil || page.JSON200.Data == nil || len(page.JSON200.Data) != 0 || page.JSON200.NextAfter != after {
			t.Errorf("after the end: %s, %v", page.Body, err)
		}
		for query, field := range map[string]string{"after=-1": "query/after", "after=x": "query/after", "follow=2": "query/follow", "limit=x": "query/limit"} {
			resp, _, e := s.call(t, http.MethodGet, sessionPath(sess.ID)+"/events?"+query, "")
			refused(t, resp, e, 400, "invalid_request", field)
		}
		resp, _, e := s.call(t, http.MethodGet, sessionPath(sess.ID)+"/events", "", "Last-Event-ID", "x")
		refused(t, resp, e, 400, "invalid_request", "header/Last-Event-ID")
		for query, want := range map[string]int{"limit=0": 1, "limit=9999": 5} {
			_, body, _ := s.call(t, http.MethodGet, sessionPath(sess.ID)+"/events?follow=false&"+query, "")
			if n := strings.Count(string(body), `"seq"`); n != want {
				t.Errorf("%s: %d events", query, n)
			}
		}
	})
}

func TestAStreamOfAnEndedSessionStaysOpenAndEndsWithTheServer(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	if err := s.service.Delete(t.Context(), sess.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp := s.follow(ctx, t, sessionPath(sess.ID)+"/events")
	if _, err := apitest.ReadEvents(ctx, resp.Body, until(2)); err != nil {
		t.Fatal(err)
	}
	s.close()
	if more, err := apitest.ReadEvents(ctx, resp.Body, until(1)); !errors.Is(err, io.EOF) || len(more) > 0 {
		t.Errorf("got %v, %v", more, err)
	}
}

func TestAConnectionOutlivesItsStream(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	ask := func(path string) *http.Response {
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, masterKey); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	stream := ask(sessionPath(sess.ID) + "/events")
	if _, err := apitest.ReadEvents(t.Context(), stream.Body, until(1)); err != nil {
		t.Fatal(err)
	}
	s.close()
	if _, err := io.Copy(io.Discard, stream.Body); err != nil {
		t.Fatal(err)
	}
	if resp := ask("/healthz"); resp.StatusCode != 200 {
		t.Errorf("health: %d", resp.StatusCode)
	}
}

func TestAStreamEndsWithItsClient(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.follow(ctx, t, sessionPath(sess.ID)+"/events")
	if got := inFlight(t, s.metrics); got != 1 {
		t.Errorf("%v requests in flight", got)
	}
	cancel()
	eventually(t, "the stream has ended", func() bool { return inFlight(t, s.metrics) == 0 })
	if log := s.logs.String(); !strings.Contains(log, `/events","status":200`) || strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("log: %s", log)
	}
}

func TestAReaderThatStopsReadingIsDropped(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *api.Options, _ *session.Options) { o.StreamTimeout = 200 * time.Millisecond })
	sess := s.newSession(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "GET %s/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", sessionPath(sess.ID), masterKey); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is open", func() bool { return inFlight(t, s.metrics) == 1 })
	large := strings.Repeat("x", 1<<20)
	eventually(t, "the reader is dropped", func() bool {
		s.emit(t, sess.ID, large)
		return inFlight(t, s.metrics) == 0
	})
	if log := s.logs.String(); strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("log: %s", log)
	}
}
