package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/server/cli"
	"github.com/litellm-agent-platform/lap/server/cli/clitest"
)

func TestAPanicRestoresTheTerminal(t *testing.T) {
	t.Parallel()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if raw, fault := cli.PanicWhileRaw(slave); !raw || fault != "a fault" {
		t.Fatalf("raw %v, fault %v", raw, fault)
	}
	if after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the mode is %+v, it was %+v (%v)", after, before, err)
	}
}

const turnID = "01932c07-9a6b-7d21-8a55-1c2b3a4d5e6f"

// script is a session that is ready and whose next turn is a list of events. Its streams break when they are told to.
type script struct {
	events []string
	refuse int   // so many messages are answered 503 first
	cuts   []int // how many bytes each stream brings; those after the last come whole

	mu      sync.Mutex // guards what follows
	keys    []string   // Idempotency-Key of each message that came
	aborted int
	parked  chan struct{} // the rest of a turn waits until it is closed
}

// seen is what came so far.
func (s *script) seen() (messages, aborts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys), s.aborted
}

func event(seq int, kind string, data map[string]any) string {
	b, _ := json.Marshal(map[string]any{"type": kind, "seq": seq, "turn_id": turnID, "time": "2026-11-23T10:00:03.000Z", "data": data})
	return fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", seq, kind, b)
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/message_stream"):
		s.message(w, r)
	case strings.HasSuffix(r.URL.Path, "/abort"):
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.aborted++; s.aborted == 1 && s.parked != nil {
			close(s.parked)
		}
		_, _ = io.WriteString(w, `{"aborted":true}`)
	default:
		_, _ = fmt.Fprintf(w, `{"id":%q,"status":"ready","supports_tui":false,"response":"the answer before"}`, sessionID)
	}
}

func (s *script) message(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.keys = append(s.keys, r.Header.Get("Idempotency-Key"))
	n := len(s.keys) - 1
	parked := s.parked
	s.mu.Unlock()
	if n < s.refuse {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"error":"the database does not answer","code":"database_unavailable","request_id":"r","details":[]}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	text := ": hello\n\n" + strings.Join(s.events, "")
	if n -= s.refuse; n < len(s.cuts) {
		_, _ = io.WriteString(w, text[:s.cuts[n]])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, e := range s.events {
		if parked != nil && strings.Contains(e, "turn.aborted") {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-parked:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, e)
	}
}

func (s *script) start(t *testing.T) string {
	t.Helper()
	h := httptest.NewUnstartedServer(s)
	h.Config.ErrorLog = nil
	h.Start()
	t.Cleanup(h.Close)
	return h.URL
}

var longTurn = []string{
	event(3, "turn.queued", map[string]any{}),
	event(4, "turn.started", map[string]any{}),
	event(5, "message.delta", map[string]any{"part_id": "p1", "offset": 0, "text": "Zwölf "}),
	event(7, "message.delta", map[string]any{"part_id": "p1", "offset": 6, "text": "Boxkämpfer 日本"}),
	event(9, "message.part", map[string]any{"part_id": "p1", "part": map[string]any{"id": "p1", "type": "text", "text": "Zwölf Boxkämpfer 日本 jagen"}}),
	event(10, "tool.started", map[string]any{"part_id": "t1", "part": map[string]any{"id": "t1", "type": "tool", "tool": "bash", "input": map[string]any{"command": "echo hi"}}}),
	event(11, "tool.completed", map[string]any{"part_id": "t1", "part": map[string]any{"id": "t1", "type": "tool", "tool": "bash", "status": "completed", "output": "hi\n\x1b[31mred"}}),
	event(12, "message.part", map[string]any{"part_id": "r1", "part": map[string]any{"id": "r1", "type": "reasoning", "text": "a thought"}}),
	event(13, "message.delta", map[string]any{"part_id": "p2", "offset": 3, "text": "after a gap"}),
	event(14, "message.part", map[string]any{"part_id": "p2", "part": map[string]any{"id": "p2", "type": "text", "text": "now after a gap\n"}}),
	event(15, "turn.completed", map[string]any{"info": map[string]any{"error": nil}}),
}

const longAnswer = "Zwölf Boxkämpfer 日本 jagen\nnow after a gap\n"

func TestAnAnswerIsWholeHoweverItsStreamBreaks(t *testing.T) {
	t.Parallel()
	whole := len(": hello\n\n" + strings.Join(longTurn, ""))
	for _, cuts := range [][]int{nil, {0, 5}, {400, 300, 900}, {whole - 1}, {whole - 20, 700}, {620, 650, 701}} {
		t.Run(fmt.Sprint(cuts), func(t *testing.T) {
			t.Parallel()
			s := &script{events: longTurn, cuts: cuts, refuse: len(cuts)}
			stdout, stderr, code := clitest.Run(t, lap(t, s.start(t), "attach", sessionID, "-m", "x"))
			if code != 0 || stdout != longAnswer {
				t.Errorf("%d %q\n%s", code, stdout, stderr)
			}
			if n := strings.Count(stderr, "● bash echo hi"); n != 1 {
				t.Errorf("the tool is shown %d times: %s", n, stderr)
			}
			for _, key := range s.keys {
				if key == "" || key != s.keys[0] {
					t.Errorf("keys %q", s.keys)
				}
			}
		})
	}
}

func TestHowATurnEndsIsTheExitCode(t *testing.T) {
	t.Parallel()
	fault := map[string]any{"info": map[string]any{"error": map[string]any{"name": "model_error", "message": "no \x1b[31mcredit"}}}
	for kind, want := range map[string]int{"turn.completed": 0, "turn.failed": 1, "turn.aborted": 130} {
		data := fault
		if kind == "turn.completed" {
			data = map[string]any{"info": map[string]any{"error": nil}}
		}
		s := &script{events: []string{event(3, kind, data)}}
		if _, stderr, code := clitest.Run(t, lap(t, s.start(t), "attach", sessionID, "-m", "x")); code != want {
			t.Errorf("%s: %d %s", kind, code, stderr)
		}
	}
	s := &script{events: []string{event(3, "turn.completed", fault)}}
	if _, stderr, code := clitest.Run(t, lap(t, s.start(t), "attach", sessionID, "-m", "x")); code != 1 || !strings.Contains(stderr, "model_error: no \x1b[31mcredit") {
		t.Errorf("%d %s", code, stderr)
	}
}

// The end of an attempt may be told twice, the second time when its restart is under way.
func TestARestartIsNotTakenForTheEndBeforeIt(t *testing.T) {
	t.Parallel()
	status := func(seq int, status string) string {
		return event(seq, "session.status", map[string]any{"status": status, "failure_reason": "stopped"})
	}
	var mu sync.Mutex
	now, log := "dead", []string{status(1, "dead")}
	turn := &script{events: longTurn}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case strings.HasSuffix(r.URL.Path, "/message_stream"):
			turn.ServeHTTP(w, r)
			return
		case strings.HasSuffix(r.URL.Path, "/restart"):
			now, log = "creating", append(log, status(2, "dead"), status(3, "creating"))
		case strings.HasSuffix(r.URL.Path, "/events") && r.URL.Query().Get("follow") == "false":
			_, _ = fmt.Fprintf(w, `{"data":[{"type":"session.status","seq":%d,"turn_id":null,"time":"2026-11-23T10:00:03.000Z","data":{}}],"has_more":false,"next_after":%[1]d}`, len(log))
			return
		case strings.HasSuffix(r.URL.Path, "/events"):
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, strings.Join(append(log, status(4, "ready")), ""))
			return
		}
		_, _ = fmt.Fprintf(w, `{"id":%q,"status":%q,"supports_tui":false}`, sessionID, now)
	}))
	t.Cleanup(h.Close)
	if stdout, stderr, code := clitest.Run(t, lap(t, h.URL, "attach", sessionID, "-restart", "-m", "back")); code != 0 || stdout != longAnswer {
		t.Errorf("%d %q %s", code, stdout, stderr)
	}
}

func TestStandardInputIsOneMessage(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 1)
	s := &script{events: longTurn}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, _ := io.ReadAll(r.Body)
			bodies <- string(b)
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	cmd := lap(t, h.URL, "attach", sessionID)
	cmd.Stdin = strings.NewReader("two\nlines\n\n")
	if stdout, stderr, code := clitest.Run(t, cmd); code != 0 || stdout != longAnswer {
		t.Errorf("%d %q %s", code, stdout, stderr)
	}
	if got := <-bodies; got != `{"text":"two\nlines"}`+"\n" && got != `{"text":"two\nlines"}` {
		t.Errorf("body %q", got)
	}
	for input, want := range map[string]string{"": "empty", "\xff": "not UTF-8"} {
		cmd := lap(t, h.URL, "attach", sessionID)
		cmd.Stdin = strings.NewReader(input)
		if _, stderr, code := clitest.Run(t, cmd); code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("%q: %d %s", input, code, stderr)
		}
	}
}

func TestControlCAbortsTheAnswerAndASecondOneLeaves(t *testing.T) {
	t.Parallel()
	s := &script{parked: make(chan struct{}), events: append(longTurn[:8:8], event(20, "turn.aborted", map[string]any{"info": map[string]any{"error": nil}}))}
	x := clitest.Start(t, 80, 24, lap(t, s.start(t), "attach", sessionID))
	x.Expect("the answer before")
	x.Expect("> ")
	x.AwaitMode(true)
	x.Type("hello\x03") // what was typed is dropped
	x.Expect("Ctrl-C again leaves")
	x.Expect("> ")
	x.Type("hello\r")
	x.Expect("● bash")
	x.Expect(`\x1b[31mred`)
	x.AwaitMode(false)
	x.Type("\x03")
	x.Expect("Aborted.")
	x.Expect("> ")
	x.AwaitMode(true)
	x.Type("\x03")
	x.Expect("Ctrl-C again leaves")
	x.Expect("> ")
	x.Type("\x03")
	code := x.Wait()
	if messages, aborts := s.seen(); code != 130 || aborts != 1 || messages != 1 {
		t.Errorf("exit code %d, %d aborts, %d messages", code, aborts, messages)
	}
	x.Expect("Left; back with: lap attach " + sessionID)
}

func TestASecondControlCLeavesATurnThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	s := &script{parked: stuck, aborted: 1, events: append(longTurn[:8:8], event(20, "turn.aborted", map[string]any{}))} // an abort has no effect
	x := clitest.Start(t, 80, 24, lap(t, s.start(t), "attach", sessionID, "-m", "x"))
	x.Expect("● bash")
	x.Type("\x03")
	x.Await("the abort", func() bool { _, aborts := s.seen(); return aborts == 2 })
	x.Type("\x03")
	if code := x.Wait(); code != 130 {
		t.Errorf("exit code %d", code)
	}
}

func TestAPastedTextIsOneMessageAndControlDLeaves(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, 1)
	s := &script{events: longTurn}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, _ := io.ReadAll(r.Body)
			bodies <- string(b)
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	x := clitest.Start(t, 80, 24, lap(t, h.URL, "attach", sessionID))
	x.Expect("> ")
	x.AwaitMode(true)
	x.Type("\x1b[200~one\rtwo\r\x1b[201~three\r")
	if got := strings.TrimSpace(<-bodies); got != `{"text":"one\ntwo\nthree"}` {
		t.Errorf("body %q", got)
	}
	x.Expect("now after a gap")
	x.Expect("> ")
	x.AwaitMode(true)
	x.Type("\x04")
	if code := x.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestSignalsRestoreTheTerminalOfAChat(t *testing.T) {
	t.Parallel()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			x := clitest.Start(t, 80, 24, lap(t, (&script{}).start(t), "attach", sessionID))
			x.Expect("> ")
			x.AwaitMode(true)
			x.Signal(sig)
			if code := x.Wait(); code != 130 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestTheKeyIsAskedForWithoutEcho(t *testing.T) {
	t.Parallel()
	cmd := lap(t, lists(t, nil), "login")
	x := clitest.Start(t, 80, 24, cmd)
	x.Expect("Key for http://")
	x.AwaitEcho(false)
	x.Type("typed-key\r")
	x.Expect("Logged in")
	if code := x.Wait(); code != 0 || strings.Contains(x.Output(), "typed-key") {
		t.Errorf("exit code %d: %q", code, x.Output())
	}
	for _, leave := range []func(x *clitest.Terminal){
		func(x *clitest.Terminal) { x.Type("\x03") },
		func(x *clitest.Terminal) { x.Signal(unix.SIGTERM) },
	} {
		x := clitest.Start(t, 80, 24, lap(t, "http://127.0.0.1:1", "login"))
		x.Expect("Key for http://")
		x.AwaitEcho(false)
		leave(x)
		if code := x.Wait(); code != 130 {
			t.Errorf("exit code %d", code)
		}
	}
}
