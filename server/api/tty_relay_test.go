package api_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// says reads one message and checks it.
func says(t *testing.T, c *websocket.Conn, typ websocket.MessageType, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if got, b, err := c.Read(ctx); err != nil || got != typ || string(b) != want {
		t.Fatalf("got %v %.200q %v, want %v %.200q", got, b, err, typ, want)
	}
}

func send(t *testing.T, c *websocket.Conn, typ websocket.MessageType, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Write(ctx, typ, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

const (
	text   = websocket.MessageText
	binary = websocket.MessageBinary
)

func TestTextOfAPlainClientIsKeystrokesUnlessItIsControl(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t)
	c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey)})
	end := <-ends
	for _, m := range []struct {
		typ  websocket.MessageType
		text string
	}{{binary, "\x1b[A\xff\x00"}, {text, "ls"}, {binary, `{"type":"ping"}`}, {text, `{"type":"hello"}`}, {text, `{"type":1}`}, {text, `{"type":"ping"`}, {text, `[]`}, {text, "7"}} {
		send(t, c, m.typ, m.text)
		says(t, end.Conn, binary, m.text)
	}
	send(t, c, text, `{ "rows": 24, "type": "resize", "cols": 80, "more": true }`)
	says(t, end.Conn, text, `{"type":"resize","cols":80,"rows":24}`)
	for _, nothing := range []string{
		`{"type":"ping"}`, `{"type":"resize"}`, `{"type":"resize","cols":0,"rows":24}`, `{"type":"resize","cols":80,"rows":1001}`,
		`{"type":"resize","cols":"80","rows":24}`, `{"type":"resize","cols":80.5,"rows":24}`, `{"type":"resize","cols":99999999999,"rows":24}`, "",
	} {
		send(t, c, text, nothing)
	}
	send(t, c, binary, "")
	long := strings.Repeat("paste ", 50_000)
	send(t, c, text, long)
	got := make([]byte, 0, len(long))
	for len(got) < len(long) {
		typ, b, err := end.Read(t.Context())
		if err != nil || typ != binary {
			t.Fatal(typ, err)
		}
		got = append(got, b...)
	}
	if string(got) != long {
		t.Error("a long text arrives changed")
	}

	send(t, end.Conn, text, `{"type":"ready","cols":80,"rows":24}`)
	send(t, end.Conn, text, `{"type":"pong"}`)
	send(t, end.Conn, binary, "$ ")
	says(t, c, binary, "$ ")
	send(t, end.Conn, binary, "")
	send(t, end.Conn, text, `{"type":"exit","code":3}`)
	_ = end.Close(websocket.StatusNormalClosure, "")
	if code, reason, rest := closed(t.Context(), t, c); code != 1000 || reason != "the program has ended with code 3" || len(rest) != 0 {
		t.Errorf("%d %q %q", code, reason, rest)
	}
}

func TestAStrictClientSendsControlAndGetsIt(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t)
	c := s.openTTY(t, id, ttyOptions{query: "?token=" + s.token(t, id), proto: terminalProto})
	end := <-ends
	if c.Subprotocol() != terminalProto {
		t.Fatalf("subprotocol %q", c.Subprotocol())
	}
	send(t, c, text, `{"type":"a later one"}`)
	send(t, c, text, `{"type":"ping"}`)
	says(t, end.Conn, text, `{"type":"ping"}`)
	send(t, c, text, `{"type":"resize","cols":1,"rows":1000}`)
	says(t, end.Conn, text, `{"type":"resize","cols":1,"rows":1000}`)
	send(t, c, binary, "x")
	says(t, end.Conn, binary, "x")
	for sent, want := range map[string]string{
		`{"type":"ready","cols":80,"rows":24,"code":7,"x":"y"}`: `{"type":"ready","cols":80,"rows":24}`,
		`{"type":"pong","cols":1}`:                              `{"type":"pong"}`,
	} {
		send(t, end.Conn, text, `{"type":"unknown"}`)
		send(t, end.Conn, text, `nonsense`)
		send(t, end.Conn, text, sent)
		says(t, c, text, want)
	}
	send(t, end.Conn, text, `{"type":"exit","code":130}`)
	_ = end.Close(websocket.StatusNormalClosure, "")
	says(t, c, text, `{"type":"exit","code":130}`)
	if code, reason, _ := closed(t.Context(), t, c); code != 1000 || reason != "the program has ended with code 130" {
		t.Errorf("%d %q", code, reason)
	}
	for _, wrong := range []string{"ls", "", "{}", `{"type":"resize","cols":80}`, `{"type":"resize","cols":0,"rows":1}`, `{"type":"ping"} ` + strings.Repeat(" ", 5000)} {
		c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey), proto: terminalProto})
		end := <-ends
		send(t, c, text, wrong)
		if code, _, _ := closed(t.Context(), t, c); code != websocket.StatusPolicyViolation {
			t.Errorf("%.40q: %d", wrong, code)
		}
		if _, b, err := end.Read(t.Context()); err == nil {
			t.Errorf("%.40q is typed as %.40q", wrong, b)
		}
	}
}

func TestOutputArrivesWholeAndInOrderAtEachClient(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t)
	stream := make([]byte, 3<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range stream {
		stream[i] = byte(random.Uint32())
	}
	for _, proto := range []string{"", terminalProto} {
		c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey), proto: proto})
		end := <-ends
		go func() {
			for rest := stream; len(rest) > 0; {
				n := min(1+random.IntN(200_000), len(rest))
				if end.Write(context.Background(), binary, rest[:n]) != nil {
					return
				}
				rest = rest[n:]
			}
			_ = end.Close(websocket.StatusNormalClosure, "")
		}()
		if code, _, got := closed(t.Context(), t, c); code != 1000 || !bytes.Equal(got, stream) {
			t.Errorf("%q: closed with %d after %d bytes", proto, code, len(got))
		}
	}
}

func TestATooLongMessageIsRefusedWithItsCode(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t)
	c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey)})
	end := <-ends
	read := make(chan int, 1)
	go func() {
		n := 0
		for {
			_, b, err := end.Read(context.Background())
			n += len(b)
			if err != nil {
				read <- n
				return
			}
		}
	}()
	send(t, c, binary, strings.Repeat("x", 1<<20))
	send(t, c, binary, strings.Repeat("y", 1<<20+2))
	if code, _, _ := closed(t.Context(), t, c); code != websocket.StatusMessageTooBig {
		t.Errorf("closed with %d", code)
	}
	if n := <-read; n < 1<<20 || n > 2<<20+1 {
		t.Errorf("%d bytes arrived", n)
	}
}

// stalled is a client that attaches and reads nothing more.
func (s *server) stalled(t *testing.T, id string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	lines := []string{"GET " + ttyPath(id) + " HTTP/1.1", "Host: x", "Authorization: Bearer " + masterKey}
	for h := upgrade(); len(h) > 0; h = h[2:] {
		lines = append(lines, h[0]+": "+h[1])
	}
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestASlowClientHoldsUpItsOwnSandboxConnectionOnly(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t, func(o *api.Options, _ *session.Options) { o.StreamTimeout = time.Hour })
	s.stalled(t, id)
	slow := <-ends
	var sent atomic.Int64
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		chunk := make([]byte, 64<<10)
		for slow.Write(context.Background(), binary, chunk) == nil {
			sent.Add(int64(len(chunk)))
		}
	}()
	// What is sent stays in the buffers of the kernel: it stops growing long before this.
	const bound = 64 << 20
	last := int64(-1)
	eventually(t, "the sender to be held up", func() bool {
		now := sent.Load()
		still := now == last
		last = now
		return now > bound || still && now > 0 && quiet(s, t, id, ends)
	})
	if n := sent.Load(); n > bound {
		t.Errorf("%d bytes were taken for a client that reads nothing", n)
	}
	_ = slow.CloseNow()
	<-stuck
}

// quiet checks that another client of the session is served meanwhile.
func quiet(s *server, t *testing.T, id string, ends <-chan attached) bool {
	c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey)})
	end := <-ends
	for range 20 {
		send(t, c, binary, "k")
		says(t, end.Conn, binary, "k")
		send(t, end.Conn, binary, "K")
		says(t, c, binary, "K")
	}
	_ = c.CloseNow()
	return true
}

func TestAClientThatTakesNothingIsDropped(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t, func(o *api.Options, _ *session.Options) { o.StreamTimeout = 300 * time.Millisecond })
	s.stalled(t, id)
	end := <-ends
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// It answers no ping.
	if _, _, err := end.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a client that answers no ping stays: %v", err)
	}
	s.stalled(t, id)
	end = <-ends
	for chunk := make([]byte, 64<<10); ; {
		if err := end.Write(ctx, binary, chunk); err != nil {
			if ctx.Err() != nil {
				t.Error("a client that takes no output stays")
			}
			return
		}
	}
}

func TestAClientThatAnswersPingsStaysHoweverQuietItIs(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t, func(o *api.Options, _ *session.Options) { o.StreamTimeout = 2 * time.Second })
	pings := make(chan struct{}, 10)
	c, _, err := websocket.Dial(t.Context(), s.url+ttyPath(id), &websocket.DialOptions{
		HTTPClient: s.http, OnPingReceived: func(context.Context, []byte) bool { pings <- struct{}{}; return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	end := <-ends
	go func() {
		for range 2 {
			<-pings
		}
		_ = end.Write(context.Background(), binary, []byte("still here"))
	}()
	says(t, c, binary, "still here")
}

func TestAProgramThatTakesNoKeysDoesNotLoseItsClient(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t, func(o *api.Options, _ *session.Options) { o.StreamTimeout = 500 * time.Millisecond })
	c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey)})
	end := <-ends
	const chunks = 40
	sent := make(chan error, 1)
	go func() {
		for range chunks {
			if err := c.Write(context.Background(), binary, make([]byte, 1<<20)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	// Keys back up to the client while the program shows that it lives, for longer than a client may be silent.
	for i := range 30 {
		word := strings.Repeat("o", i+1)
		send(t, end.Conn, binary, word)
		says(t, c, binary, word)
		<-time.After(50 * time.Millisecond)
	}
	for n := 0; n < chunks<<20; {
		_, b, err := end.Read(t.Context())
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		n += len(b)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestATerminalClosesWithTheReason(t *testing.T) {
	t.Parallel()
	path := func(id, action string) (string, string) { return "POST", sessionPath(id) + "/" + action }
	for name, tt := range map[string]struct {
		end    func(t *testing.T, s *server, id string, end attached)
		code   websocket.StatusCode
		reason string
	}{
		"the session is stopped": {func(t *testing.T, s *server, id string, _ attached) {
			method, p := path(id, "stop")
			s.call(t, method, p, "")
		}, 1000, "the session was stopped"},
		"the session is deleted": {func(t *testing.T, s *server, id string, _ attached) { s.call(t, "DELETE", sessionPath(id), "") }, 1000, "the session was deleted"},
		"the session is restarted": {func(t *testing.T, s *server, id string, _ attached) {
			method, p := path(id, "restart")
			s.call(t, method, p, "")
		}, 1012, "the session was restarted"},
		"the session is suspended": {func(t *testing.T, s *server, id string, _ attached) {
			s.change(t, id, func(tx *store.SessionTx) { tx.Session.Desired, tx.Session.SandboxState = "suspended", "suspended" })
		}, 1000, "the session was idle and is suspended"},
		"the session dies": {func(t *testing.T, s *server, id string, _ attached) {
			s.change(t, id, func(tx *store.SessionTx) { tx.Session.Status = session.Dead })
		}, 1000, "the session has ended"},
		"the sandbox is lost":   {func(_ *testing.T, _ *server, _ string, end attached) { _ = end.CloseNow() }, 1012, "the connection to the sandbox was lost"},
		"the server shuts down": {func(_ *testing.T, s *server, _ string, _ attached) { s.close() }, 1001, "the server is shutting down"},
		"the sandbox breaks the rules": {func(t *testing.T, _ *server, _ string, end attached) {
			send(t, end.Conn, text, strings.Repeat("x", 5000))
		}, 1012, "the connection to the sandbox was lost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, id, ends := serveTTY(t)
			c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey)})
			end := <-ends
			tt.end(t, s, id, end)
			// Nobody ends the sandbox here: it is the session's row that says so.
			if code, reason, _ := closed(t.Context(), t, c); code != tt.code || reason != tt.reason {
				t.Errorf("closed with %d %q", code, reason)
			}
			if _, _, err := end.Read(t.Context()); err == nil {
				t.Error("the sandbox's end stays open")
			}
		})
	}
}

func TestAClientThatLeavesLeavesTheSandbox(t *testing.T) {
	t.Parallel()
	s, id, ends := serveTTY(t)
	for _, leave := range []func(c *websocket.Conn){
		func(c *websocket.Conn) { _ = c.Close(websocket.StatusNormalClosure, "detached") },
		func(c *websocket.Conn) { _ = c.CloseNow() },
	} {
		c := s.openTTY(t, id, ttyOptions{header: bearer(masterKey)})
		end := <-ends
		leave(c)
		if _, _, err := end.Read(t.Context()); err == nil {
			t.Error("the sandbox's end stays open")
		}
	}
}
