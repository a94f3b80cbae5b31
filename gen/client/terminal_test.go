package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// terminals is a server whose terminal is the test: it is creating at first, then ready, until it is dead.
type terminals struct {
	conns    chan *websocket.Conn
	statuses chan string // of the session, each asked for once
}

func (s *terminals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer the-key" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !strings.HasSuffix(r.URL.Path, "/tty") {
		_ = json.NewEncoder(w).Encode(map[string]any{"id": "s1", "status": <-s.statuses, "failure_reason": "as it was told"})
		return
	}
	if len(s.statuses) > 0 {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": "no", "code": "session_not_ready", "request_id": "r", "details": []any{}})
		return
	}
	if c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"lap.tty.v1"}}); err == nil {
		s.conns <- c
	}
}

func startTerminals(t *testing.T, statuses ...string) (*terminals, *client.API) {
	t.Helper()
	s := &terminals{conns: make(chan *websocket.Conn, 8), statuses: make(chan string, 8)}
	for _, status := range statuses {
		s.statuses <- status
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	a, err := client.New(client.Options{URL: h.URL, Key: "the-key", HTTPClient: &http.Client{Transport: base}})
	if err != nil {
		t.Fatal(err)
	}
	return s, a
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, c *websocket.Conn, kind websocket.MessageType, text string) {
	t.Helper()
	if err := c.Write(patient(t), kind, []byte(text)); err != nil {
		t.Error(err)
	}
}

func expect(t *testing.T, c *websocket.Conn, want string) {
	t.Helper()
	if _, b, err := c.Read(patient(t)); err != nil || string(b) != want {
		t.Errorf("%q, want %q (%v)", b, want, err)
	}
}

func TestATerminalComesBackUntilItsProgramEnds(t *testing.T) {
	t.Parallel()
	s, a := startTerminals(t, "creating", "creating")
	lost := 0
	x, err := a.Attach(patient(t), "s1", client.AttachOptions{Cols: 90, Rows: 20, Lost: func(error) { lost++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	first := <-s.conns
	write(t, first, websocket.MessageText, `{"type":"ready","cols":90,"rows":20}`)
	write(t, first, websocket.MessageBinary, "one")
	var seen strings.Builder
	for b, err := range x.Output(patient(t)) {
		if err != nil {
			t.Fatal(err)
		}
		switch seen.Write(b); seen.String() {
		case "one":
			expect(t, first, `{"type":"resize","cols":90,"rows":20}`)
			if n, err := x.Write([]byte("keys")); n != 4 || err != nil {
				t.Errorf("%d %v", n, err)
			}
			expect(t, first, "keys")
			x.Resize(100, 30)
			expect(t, first, `{"type":"resize","cols":100,"rows":30}`)
			_ = first.CloseNow()
			go func() {
				second := <-s.conns
				expect(t, second, `{"type":"resize","cols":100,"rows":30}`)
				write(t, second, websocket.MessageBinary, " two")
				write(t, second, websocket.MessageText, `{"type":"exit","code":7}`)
			}()
		case "one two":
			if _, ended := x.ExitCode(); ended {
				t.Error("it ended too early")
			}
		}
	}
	if code, ended := x.ExitCode(); code != 7 || !ended || seen.String() != "one two" || lost != 1 {
		t.Errorf("exit code %d, seen %q, lost %d times", code, seen.String(), lost)
	}
	if _, err := x.Write([]byte("x")); !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("%v", err)
	}
}

func TestATerminalEndsWithItsSessionOrItsReader(t *testing.T) {
	t.Parallel()
	s, a := startTerminals(t)
	x, err := a.Attach(patient(t), "s1", client.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := <-s.conns
	s.statuses <- "dead"
	_ = c.CloseNow()
	var last error
	for _, err := range x.Output(patient(t)) {
		last = err
	}
	var ended *client.EndedError
	if !errors.As(last, &ended) || ended.Session.ID != "s1" || last.Error() != "the session is dead: as it was told" {
		t.Errorf("%v", last)
	}

	x, err = a.Attach(patient(t), "s1", client.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c = <-s.conns
	go func() { _ = x.Close() }()
	for _, err := range x.Output(patient(t)) {
		t.Errorf("%v", err)
	}
	if _, _, err := c.Read(patient(t)); websocket.CloseStatus(err) == -1 && err == nil {
		t.Error("the connection is open")
	}

	x, err = a.Attach(patient(t), "s1", client.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-s.conns
	ctx, leave := context.WithCancelCause(patient(t))
	mine := errors.New("mine")
	leave(mine)
	for _, err := range x.Output(ctx) {
		last = err
	}
	if !errors.Is(last, mine) {
		t.Errorf("%v", last)
	}
}

func TestClosingATerminalEndsItsAttemptsToComeBack(t *testing.T) {
	t.Parallel()
	s := &terminals{conns: make(chan *websocket.Conn, 1)}
	h := httptest.NewServer(s)
	defer h.Close()
	a, err := client.New(client.Options{URL: h.URL, Key: "the-key"})
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan struct{}, 1)
	x, err := a.Attach(patient(t), "s1", client.AttachOptions{Lost: func(error) { lost <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	c := <-s.conns
	go func() {
		h.Listener.Close() // there is no server to come back to
		_ = c.CloseNow()
		<-lost
		_ = x.Close()
	}()
	for _, err := range x.Output(patient(t)) {
		t.Errorf("%v", err)
	}
	for _, err := range x.Output(patient(t)) {
		t.Errorf("a closed terminal shows something: %v", err)
	}
	if _, err := x.Write([]byte("x")); !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("%v", err)
	}
}

func TestARefusedTerminalIsAnError(t *testing.T) {
	t.Parallel()
	_, a := startTerminals(t, "failed")
	var ended *client.EndedError
	if _, err := a.Attach(patient(t), "s1", client.AttachOptions{}); !errors.As(err, &ended) {
		t.Errorf("%v", err)
	}
	_, a = startTerminals(t, "ready")
	if _, err := a.Attach(patient(t), "s1", client.AttachOptions{}); !errors.Is(err, client.CodeSessionNotReady) {
		t.Errorf("%v", err)
	}
}
