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
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
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

func TestAConnectionOutlivesTheStreamOfAMessage(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	conn := s.dial(t)
	in := bufio.NewReader(conn)
	ask := func(request string) *http.Response {
		if _, err := fmt.Fprintf(conn, "%s", request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	head := "Host: x\r\nAuthorization: Bearer " + masterKey + "\r\nContent-Type: application/json\r\nContent-Length: "
	stream := ask("POST " + sessionPath(sess.ID) + "/message_stream HTTP/1.1\r\n" + head + "12\r\n\r\n" + `{"text":"x"}`)
	if _, err := apitest.ReadEvents(t.Context(), stream.Body, until(1)); err != nil {
		t.Fatal(err)
	}
	s.close()
	if _, err := io.Copy(io.Discard, stream.Body); err != nil {
		t.Fatal(err)
	}
	if resp := ask("GET /healthz HTTP/1.1\r\n" + head + "0\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("health: %d", resp.StatusCode)
	}
}

// dial connects to the server for a test that speaks HTTP itself.
func (s *server) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestAnEventStreamIsWellFormedForEveryVersionOfHTTP(t *testing.T) {
	t.Parallel()
	for version, encoding := range map[string]string{"1.0": "", "1.1": "chunked"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(o *api.Options, _ *session.Options) { o.Origins = []string{"https://console.example.com"} })
			sess := s.newSession(t)
			s.emit(t, sess.ID, "stored", "too")
			conn := s.dial(t)
			_, err := fmt.Fprintf(conn, "GET %s/events HTTP/%s\r\nHost: x\r\nAuthorization: Bearer %s\r\nOrigin: https://console.example.com\r\n\r\n",
				sessionPath(sess.ID), version, masterKey)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(resp.TransferEncoding, " "); got != encoding || !resp.Close || resp.ContentLength != -1 {
				t.Errorf("transfer encoding %q, close %v, length %d", got, resp.Close, resp.ContentLength)
			}
			for header, want := range map[string]string{
				"Content-Type": "text/event-stream", "Access-Control-Allow-Origin": "https://console.example.com", "X-Content-Type-Options": "nosniff",
			} {
				if got := resp.Header.Get(header); got != want {
					t.Errorf("%s: %q", header, got)
				}
			}
			stored, err := apitest.ReadEvents(t.Context(), resp.Body, until(3))
			if err != nil || words(stored[1:]) != "stored too" {
				t.Fatalf("stored %+v, %v", stored, err)
			}
			s.emit(t, sess.ID, "live") // one, encoded for all
			s.emit(t, sess.ID, "two", "at once")
			live, err := apitest.ReadEvents(t.Context(), resp.Body, until(3))
			if err != nil || words(live) != "live two at once" {
				t.Fatalf("live %+v, %v", live, err)
			}
			s.close()
			rest, err := io.ReadAll(resp.Body)
			if err != nil || strings.Trim(string(rest), ":\n") != "" {
				t.Errorf("it ends with %q, %v", rest, err)
			}
		})
	}
}

func TestAStreamThatIsCutByAFaultDoesNotLookWhole(t *testing.T) {
	t.Parallel()
	options := storetest.Options(t, storetest.KindSQLite)
	s := serveOn(t, storetest.OpenWith(t, options))
	sess := s.newSession(t)
	for range 3 {
		s.emit(t, sess.ID, strings.Repeat("x", 4<<20)) // more than the connection holds: the store is needed again later
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp := s.follow(ctx, t, sessionPath(sess.ID)+"/events")
	if _, err := apitest.ReadEvents(ctx, resp.Body, until(1)); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, options, "ALTER TABLE events RENAME TO gone")
	if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v", err)
	}
	eventually(t, "the end to be logged", func() bool {
		return inFlight(t, s.metrics) == 0 && strings.Contains(s.logs.String(), `"request failed"`)
	})
}

func TestManyStreamsComeAndGoAndNoneIsLeft(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			resp := s.follow(ctx, t, sessionPath(sess.ID)+"/events")
			if _, err := apitest.ReadEvents(ctx, resp.Body, until(1+i%3)); err != nil {
				t.Error(err)
			}
		})
	}
	s.emit(t, sess.ID, "one")
	s.emit(t, sess.ID, "two")
	all.Wait()
	eventually(t, "all streams have ended", func() bool { return inFlight(t, s.metrics) == 0 })
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

func TestAPageOfLargeEventsEndsEarlyAndNothingIsLeftOut(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		for i := range 6 {
			s.emit(t, sess.ID, fmt.Sprint(i, strings.Repeat("x", 1<<20)))
		}
		var got []string
		limit, follow, after, pages := 1000, false, int64(0), 0
		for more := true; more && pages < 10; pages++ {
			r, err := s.client.StreamEventsWithResponse(t.Context(), sess.ID, &client.StreamEventsParams{Limit: &limit, Follow: &follow, After: &after})
			if err != nil || r.JSON200 == nil {
				t.Fatalf("%v, %s", err, r.Status())
			}
			if len(r.Body) > 6<<20 {
				t.Errorf("a page of %d bytes", len(r.Body))
			}
			for _, e := range r.JSON200.Data {
				if text, ok := e.Data["text"].(string); ok {
					got = append(got, text[:1])
				}
			}
			after, more = r.JSON200.NextAfter, r.JSON200.HasMore
		}
		if all := strings.Join(got, ""); all != "012345" || pages != 2 {
			t.Errorf("events %s on %d pages", all, pages)
		}
	})
}
