package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/server/cli/clitest"
)

const sessionID = "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a"

// ttyServer has one session with a terminal, whose other end is the test.
type ttyServer struct {
	t    *testing.T
	url  string
	conn chan *websocket.Conn // those that were opened

	mu      sync.Mutex // guards what follows
	refuse  func(w http.ResponseWriter) bool
	status  string
	queries []string
}

func newTTYServer(t *testing.T) *ttyServer {
	s := &ttyServer{t: t, conn: make(chan *websocket.Conn, 16), status: "ready"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/managed_agents/sessions/{id}", s.session)
	mux.HandleFunc("GET /api/v1/managed_agents/sessions/{id}/tty", s.tty)
	h := httptest.NewServer(mux)
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func (s *ttyServer) session(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+testKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": sessionID, "status": s.status, "supports_tui": true, "failure_reason": "it was \x1b[31mred",
	})
}

func (s *ttyServer) tty(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	refuse := s.refuse
	s.queries = append(s.queries, r.URL.RawQuery)
	s.mu.Unlock()
	if refuse != nil && refuse(w) {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+testKey {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"lap.tty.v1"}})
	if err != nil {
		return
	}
	s.conn <- c
}

// set changes how the server behaves.
func (s *ttyServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func refusal(status int, code, text string) func(http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": text, "code": code, "request_id": "r", "details": []any{}})
		return true
	}
}

// link is one connection of a client.
type link struct {
	t    *testing.T
	conn *websocket.Conn
}

func (s *ttyServer) accepted() link {
	s.t.Helper()
	select {
	case c := <-s.conn:
		s.t.Cleanup(func() { _ = c.CloseNow() })
		return link{s.t, c}
	case <-time.After(clitest.Patience):
		s.t.Fatal("nobody attached")
		panic("unreachable")
	}
}

func (l link) send(kind websocket.MessageType, text string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), clitest.Patience)
	defer cancel()
	if err := l.conn.Write(ctx, kind, []byte(text)); err != nil {
		l.t.Fatal(err)
	}
}

// expect waits for a message; binary ones may come in pieces.
func (l link) expect(kind websocket.MessageType, want string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), clitest.Patience)
	defer cancel()
	for got := ""; got != want; {
		k, b, err := l.conn.Read(ctx)
		if err != nil || k != kind || !strings.HasPrefix(want, got+string(b)) || kind == websocket.MessageText && string(b) != want {
			l.t.Fatalf("%v %q (%v), want %v %q", k, b, err, kind, want)
		}
		got += string(b)
	}
}

func (l link) expectSize(cols, rows int) {
	l.t.Helper()
	l.expect(websocket.MessageText, fmt.Sprintf(`{"type":"resize","cols":%d,"rows":%d}`, cols, rows))
}

// attached is a client at a terminal of 100×30 that is connected.
func attached(t *testing.T) (*ttyServer, *clitest.Terminal, link) {
	t.Helper()
	s := newTTYServer(t)
	x := clitest.Start(t, 100, 30, lap(t, s.url, "attach", sessionID))
	l := s.accepted()
	l.expectSize(100, 30)
	x.AwaitMode(true)
	return s, x, l
}

func TestKeysAndBytesPassAsTheyAre(t *testing.T) {
	t.Parallel()
	s, x, l := attached(t)
	if s.queries[0] != "cols=100&rows=30" {
		t.Errorf("query %q", s.queries[0])
	}
	l.send(websocket.MessageText, `{"type":"ready","cols":100,"rows":30}`)
	l.send(websocket.MessageBinary, "\x1b[?1049h\x1b[31mred\xff\r\n")
	x.Expect("\x1b[?1049h\x1b[31mred\xff\r\n")
	const keys = "ls\r\x03\x04\x1a\x1b[A日"
	x.Type(keys)
	l.expect(websocket.MessageBinary, keys)
	x.Resize(120, 40)
	l.expectSize(120, 40)
	x.Type("last\x1d never")
	l.expect(websocket.MessageBinary, "last")
	if code := x.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	x.Expect("\x1b[?1049l") // the screen is given back
	x.Expect("Detached; back with: lap attach " + sessionID)
	if strings.Contains(x.Output(), testKey) {
		t.Error("the key is shown")
	}
}

func TestDetachingWorksWithTheKeyboardProtocolsOfPrograms(t *testing.T) {
	t.Parallel()
	for _, keys := range []string{"\x1b[93;5u", "\x1b[93;5:1u", "\x1b[93;133u", "\x1b[27;5;93~"} {
		t.Run(fmt.Sprintf("%q", keys), func(t *testing.T) {
			t.Parallel()
			_, x, l := attached(t)
			x.Type("a")
			l.expect(websocket.MessageBinary, "a")
			x.Type(keys)
			if code := x.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestSignalsRestoreTheTerminal(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			_, x, _ := attached(t)
			x.Signal(sig)
			if code := x.Wait(); code != 130 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestATerminalThatTakesNothingIsRestoredToo(t *testing.T) {
	t.Parallel()
	_, x, l := attached(t)
	x.Pause()
	// More than all buffers on the way hold, so the client waits in the middle of a write.
	ctx, cancel := context.WithTimeout(t.Context(), clitest.Patience)
	defer cancel()
	var flood sync.WaitGroup
	defer flood.Wait()
	var wrote atomic.Int64
	flood.Go(func() {
		for l.conn.Write(ctx, websocket.MessageBinary, make([]byte, 1<<20)) == nil {
			wrote.Add(1)
		}
	})
	for last := int64(0); last == 0 || last != wrote.Load(); {
		last = wrote.Load()
		<-time.After(500 * time.Millisecond)
	}
	x.Signal(syscall.SIGTERM)
	if code := x.Wait(); code != 130 {
		t.Errorf("exit code %d", code)
	}
}

func TestALostConnectionIsOpenedAgain(t *testing.T) {
	t.Parallel()
	s, x, first := attached(t)
	first.send(websocket.MessageBinary, "before")
	x.Expect("before")
	refused := make(chan struct{}, 16)
	s.set(func() {
		s.refuse = func(w http.ResponseWriter) bool {
			refused <- struct{}{}
			return refusal(http.StatusServiceUnavailable, "shutting_down", "the server is shutting down")(w)
		}
	})
	_ = first.conn.Close(websocket.StatusGoingAway, "")
	x.Expect("connection lost, trying again; Ctrl-] leaves")
	<-refused
	<-refused
	x.Resize(90, 20)
	s.set(func() { s.refuse = nil })
	second := s.accepted()
	second.expectSize(90, 20)
	second.send(websocket.MessageBinary, "after")
	x.Expect("after")
	x.Type("x")
	second.expect(websocket.MessageBinary, "x")
	_ = second.conn.CloseNow() // as a crash would
	s.accepted().send(websocket.MessageText, `{"type":"exit","code":0}`)
	if code := x.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	x.Expect("The program ended with exit code 0")
}

func TestDetachingWorksWhileThereIsNoConnection(t *testing.T) {
	t.Parallel()
	s, x, l := attached(t)
	s.set(func() {
		s.refuse = refusal(http.StatusServiceUnavailable, "shutting_down", "the server is shutting down")
	})
	_ = l.conn.CloseNow()
	x.Expect("connection lost")
	x.Type("lost\x1d")
	if code := x.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestTheEndOfTheProgramEndsTheCommand(t *testing.T) {
	t.Parallel()
	_, x, l := attached(t)
	l.send(websocket.MessageText, `{"type":"exit","code":3}`)
	if code := x.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	x.Expect("The program ended with exit code 3")
}

func TestTheEndOfTheSessionEndsTheCommand(t *testing.T) {
	t.Parallel()
	s, x, l := attached(t)
	s.set(func() {
		s.status, s.refuse = "dead", refusal(http.StatusConflict, "session_not_ready", "the session is not ready")
	})
	_ = l.conn.Close(websocket.StatusNormalClosure, "session stopped")
	if code := x.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	x.Expect(`lap: the session is dead: it was \x1b[31mred`) // foreign text cannot paint
}

func TestARefusedTerminalIsNeverRaw(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status     int
		code, want string
	}{
		"key":     {http.StatusUnauthorized, "unauthorized", "does not accept the key"},
		"gone":    {http.StatusNotFound, "not_found", `no \x1b[2Jsession`},
		"harness": {http.StatusConflict, "harness_has_no_terminal", `no \x1b[2Jsession`},
		"old":     {http.StatusNotImplemented, "", "the server answered 501"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTTYServer(t)
			s.set(func() { s.refuse = refusal(c.status, c.code, "no \x1b[2Jsession") })
			x := clitest.Start(t, 80, 24, lap(t, s.url, "attach", sessionID))
			if code := x.Wait(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			x.Expect(c.want)
		})
	}
}

func TestAnEndedSessionIsNotAttachedTo(t *testing.T) {
	t.Parallel()
	s := newTTYServer(t)
	s.set(func() { s.status = "failed" })
	x := clitest.Start(t, 80, 24, lap(t, s.url, "attach", sessionID))
	if code := x.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	x.Expect("-restart starts it again")
}

func TestATerminalNeedsATerminal(t *testing.T) {
	t.Parallel()
	s := newTTYServer(t)
	cmd := lap(t, s.url, "attach", sessionID)
	cmd.Stdin = io.LimitReader(nil, 0)
	if _, stderr, code := clitest.Run(t, cmd); code != 2 || !strings.Contains(stderr, "must be one") {
		t.Errorf("%d %q", code, stderr)
	}
}

func TestWaitingForTheFirstConnectionIsInterrupted(t *testing.T) {
	t.Parallel()
	s := newTTYServer(t)
	asked := make(chan struct{}, 64)
	s.set(func() {
		s.refuse = func(w http.ResponseWriter) bool {
			asked <- struct{}{}
			return refusal(http.StatusServiceUnavailable, "shutting_down", "the server is shutting down")(w)
		}
	})
	x := clitest.Start(t, 80, 24, lap(t, s.url, "attach", sessionID))
	<-asked
	x.Type("\x03")
	if code := x.Wait(); code != 130 {
		t.Errorf("exit code %d", code)
	}
}
