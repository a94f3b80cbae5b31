package api_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestLogsAreAskedForAsTheQuerySays(t *testing.T) {
	t.Parallel()
	b := &box{log: "one\ntwo \xff\nthree", asked: make(chan sandbox.LogOptions, 1)}
	s, id := serveBox(t, storetest.Open(t, storetest.KindSQLite), b, `{"model":"m"}`, `{}`)
	path := sessionPath(id) + "/sandbox_logs"
	for query, want := range map[string]sandbox.LogOptions{
		"":                              {Tail: 1000},
		"?tailLines=5&sinceSeconds=90":  {Tail: 5, Since: 90 * time.Second},
		"?follow=false&tailLines=10000": {Tail: 10000},
	} {
		resp, body, _ := s.call(t, "GET", path+query, "")
		if got := <-b.asked; got != want || string(body) != "one\ntwo \uFFFD\nthree" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%q: asked for %+v, got %q", query, got, body)
		}
	}
	resp, _, e := s.call(t, "GET", path+"?tailLines=0&sinceSeconds=-1&follow=maybe", "")
	refused(t, resp, e, http.StatusBadRequest, "invalid_request", "query/tailLines", "query/sinceSeconds", "query/follow")
	b.err = sandbox.ErrNotFound
	resp, _, e = s.call(t, "GET", path, "")
	refused(t, resp, e, http.StatusNotFound, "sandbox_not_found")
	s.change(t, id, func(tx *store.SessionTx) { tx.Session.SandboxID = "" })
	resp, _, e = s.call(t, "GET", path, "")
	refused(t, resp, e, http.StatusNotFound, "sandbox_not_found")
	resp, _, e = s.call(t, "GET", sessionPath("01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a")+"/sandbox_logs", "")
	refused(t, resp, e, http.StatusNotFound, "not_found")
}

// follow reads lines of a log that goes on.
func follow(t *testing.T, s *server, id string) (lines *bufio.Scanner, leave context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+sessionPath(id)+"/sandbox_logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return bufio.NewScanner(resp.Body), cancel
}

func TestAFollowedLogGoesOnUntilItsSandboxTheServerOrTheClientEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(s *server, b *box, leave func()){
		"the sandbox ends":       func(_ *server, b *box, _ func()) { close(b.more) },
		"the server shuts down":  func(s *server, _ *box, _ func()) { s.close() },
		"the client disconnects": func(_ *server, _ *box, leave func()) { leave() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &box{log: "first\n", more: make(chan string)}
			s, id := serveBox(t, storetest.Open(t, storetest.KindSQLite), b, `{"model":"m"}`, `{"env_vars":{"S":"canary-5f2c"}}`)
			lines, leave := follow(t, s, id)
			if !lines.Scan() || lines.Text() != "first" {
				t.Fatalf("first line %q, %v", lines.Text(), lines.Err())
			}
			b.more <- "half of canary"
			b.more <- "-5f2c\nand "
			if !lines.Scan() || lines.Text() != "half of ********" {
				t.Fatalf("second line %q, %v", lines.Text(), lines.Err())
			}
			end(s, b, leave)
			for lines.Scan() {
				if strings.TrimSpace(lines.Text()) != "and" {
					t.Errorf("line %q", lines.Text())
				}
			}
		})
	}
}
