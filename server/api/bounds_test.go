package api_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// wire is a connection that a test speaks HTTP on by hand.
type wire struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func newWire(t *testing.T, c net.Conn) *wire {
	t.Cleanup(func() { _ = c.Close() })
	return &wire{t: t, Conn: c, in: bufio.NewReader(c)}
}

func dial(t *testing.T, url string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return newWire(t, c)
}

func (w *wire) send(format string, args ...any) {
	w.t.Helper()
	if _, err := fmt.Fprintf(w, format, args...); err != nil {
		w.t.Fatal(err)
	}
}

// status reads one answer and drops its body.
func (w *wire) status() int {
	w.t.Helper()
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		w.t.Fatalf("no answer: %v", err)
	}
	if resp.StatusCode != http.StatusContinue {
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			w.t.Fatal(err)
		}
	}
	return resp.StatusCode
}

func TestAFloodOfConnectionsWaitsWhileOthersAreServed(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	hs := httptest.NewUnstartedServer(nil)
	hs.Config = api.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	hs.Listener = api.Limit(hs.Listener, 3)
	hs.Start()
	defer hs.Close()
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	var open []*wire
	for range 3 {
		w := dial(t, hs.URL)
		w.send(get)
		w.status()
		open = append(open, w)
	}
	var flood []*wire
	for range 20 {
		w := dial(t, hs.URL)
		w.send(get)
		flood = append(flood, w)
	}
	for range 50 {
		open[0].send(get)
		open[0].status()
	}
	if n := served.Load(); n != 53 {
		t.Errorf("%d requests of more than 3 connections were served", n)
	}
	for _, w := range flood {
		_ = open[1].Close()
		if got := w.status(); got != 200 {
			t.Errorf("got %d", got)
		}
		_ = w.Close()
	}
}

// pipes is a listener of connections in memory, whose deadlines follow the clock of a bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.done); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(t *testing.T) *wire {
	client, server := net.Pipe()
	p.conns <- server
	return newWire(t, client)
}

// bubble runs a test over the API with its default bounds, under a clock that passes when everybody waits. An answer may take 30 s,
// a quarter of the time between two requests.
func bubble(t *testing.T, fn func(t *testing.T, p *pipes)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := storetest.Open(t, storetest.KindSQLite)
		service := session.NewService(session.Options{Store: st, Keyring: storetest.Keyring(t)})
		defer service.Close()
		a, err := api.New(api.Options{Store: st, Sessions: service, MasterKey: masterKey, AnswerTimeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		hs := api.NewServer(a.Handler())
		ended := make(chan error, 1)
		go func() { ended <- hs.Serve(p) }()
		defer func() {
			_ = hs.Close()
			if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}()
		fn(t, p)
	})
}

func TestSlowClientsAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T, p *pipes) {
		const health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
		for name, c := range map[string]struct {
			sent   string
			status int // of the answer before the end
			after  time.Duration
		}{
			"nothing sent":        {"", 0, 10 * time.Second},
			"half a header":       {"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", 0, 10 * time.Second},
			"nothing more":        {health, 200, 2 * time.Minute},
			"half a second one":   {health + "GET", 200, 2 * time.Minute},
			"half a body":         {post("Content-Length: 100\r\n") + "{", 400, 2 * time.Minute},
			"half a large body":   {post("Content-Length: 1000000\r\n") + "{", 400, 2 * time.Minute},
			"half a chunked body": {post("Transfer-Encoding: chunked\r\n") + "1\r\n{\r\n", 400, 2 * time.Minute},
		} {
			w, begun := p.dial(t), time.Now()
			go func() { _, _ = io.WriteString(w, c.sent) }()
			if c.status != 0 {
				if got := w.status(); got != c.status {
					t.Errorf("%s: %d", name, got)
				}
			}
			rest, _ := io.ReadAll(w.in)
			if took := time.Since(begun).Truncate(time.Second); took < c.after || took > c.after+time.Second || len(rest) > 0 {
				t.Errorf("%s: dropped after %s with %q", name, took, rest)
			}
		}
	})
}

func TestAClientThatDoesNotReadItsAnswerIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, p *pipes) {
		w, begun := p.dial(t), time.Now()
		w.send("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := w.in.ReadByte(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		resp, err := io.ReadAll(w.in)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if len(resp) > 8<<10 || time.Since(begun) > time.Minute {
			t.Errorf("the server held %d bytes for %s", len(resp), time.Since(begun))
		}
	})
}

func TestTheTimeOfAnAnswerEndsWithIt(t *testing.T) {
	bubble(t, func(t *testing.T, p *pipes) {
		w := p.dial(t)
		for range 3 { // each beyond the time of the answer to the last one
			w.send("%s", post("Expect: 100-continue\r\nContent-Length: 13\r\n"))
			if got := w.status(); got != http.StatusContinue {
				t.Fatalf("got %d", got)
			}
			time.Sleep(119 * time.Second)
			w.send(`{"model":"m"}`)
			if got := w.status(); got != 200 {
				t.Fatalf("got %d", got)
			}
			time.Sleep(119 * time.Second)
		}
	})
}

func TestWhatIsWaitedForDoesNotCountAsTimeOfTheAnswer(t *testing.T) {
	t.Parallel()
	const timeout = 50 * time.Millisecond
	s := serve(t, func(o *api.Options, _ *session.Options) { o.AnswerTimeout = timeout })
	sess := s.newSession(t)
	stream, err := s.client.StreamEvents(t.Context(), sess.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	status := make(chan int, 1)
	sent := time.Now()
	go func() {
		resp, _, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"x"}`)
		status <- resp.StatusCode
	}()
	eventually(t, "the answers' time is over", func() bool { return time.Since(sent) > 4*timeout })
	s.endTurn(t, sess.ID, session.TurnCompleted, reply)
	if got := <-status; got != 200 {
		t.Errorf("reply: %d", got)
	}
	ended := func(e client.Event) bool { return e.Type == "turn.completed" }
	if _, err := apitest.ReadEvents(t.Context(), stream.Body, ended); err != nil {
		t.Errorf("the stream did not go on: %v", err)
	}
}

func TestAmbiguousRequestsAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	const body = `{"model":"m"}`
	for name, lengths := range map[string]string{
		"two lengths":          "Content-Length: 13\r\nContent-Length: 14\r\n",
		"a list of lengths":    "Content-Length: 13, 14\r\n",
		"a signed length":      "Content-Length: +13\r\n",
		"a negative length":    "Content-Length: -13\r\n",
		"a hexadecimal length": "Content-Length: 0xd\r\n",
		"two encodings":        "Transfer-Encoding: gzip, chunked\r\n",
		"chunked twice":        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
		"a space in a name":    "Content-Length : 13\r\n",
		"a NUL":                "X-A: \x00\r\nContent-Length: 13\r\n",
		"a second host":        "Host: y\r\nContent-Length: 13\r\n",
	} {
		if got := raw(t, s.url, post(lengths)+body); got < 400 || got > 501 {
			t.Errorf("%s: %d", name, got)
		}
	}
	w := dial(t, s.url)
	w.send("%s", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")+"d\r\n"+body+"\r\n0\r\n\r\n")
	w.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if first, second := w.status(), w.status(); first != 200 || second != 200 {
		t.Errorf("chunks beside a length: %d, then %d", first, second)
	}
	for _, length := range []int{65 << 10, 1 << 20} {
		if got := raw(t, s.url, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("x", length+8<<10)+"\r\n\r\n"); got != 431 {
			t.Errorf("header of %d bytes: %d", length, got)
		}
	}
}
