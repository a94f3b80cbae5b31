package sdk_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// faulty is a proxy in front of a server that breaks what a client must get over, always in the same way:
//   - the answer to a POST is lost the first time its Idempotency-Key comes, and that to a DELETE the first time it comes;
//     the server has done what was asked then;
//   - lists of skills are refused the first two times, with 503 and 429, and a second to wait;
//   - an event stream breaks in the middle of its fourth event, and every third one falls silent there instead;
//   - POST /cut ends all WebSockets.
type faulty struct {
	url    string
	server *httptest.Server

	mu       sync.Mutex // guards the rest
	tries    map[string]int
	replayed int // answers with Idempotency-Replayed
	streams  int
	refused  time.Time
	early    bool // a client came back sooner than it was asked to
	urls     []string
	sockets  map[net.Conn]struct{}
}

const eventsOfStream = 3

var errCut = errors.New("cut")

func newFaulty(t *testing.T, target string) *faulty {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &faulty{tries: map[string]int{}, sockets: map[net.Conn]struct{}{}}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	reverse := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		// A client that leaves is no news.
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: p.spoil,
		ErrorLog:       log.New(io.Discard, "", 0),
	}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/cut":
			p.cut()
		case !p.refuses(w, r):
			reverse.ServeHTTP(w, r)
		}
	}))
	p.server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateHijacked {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.sockets[c] = struct{}{}
		}
	}
	p.server.Start()
	p.url = p.server.URL
	t.Cleanup(func() {
		p.cut()
		p.server.Close()
		transport.CloseIdleConnections()
	})
	return p
}

func (p *faulty) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.sockets {
		_ = c.Close()
	}
	clear(p.sockets)
}

func (p *faulty) refuses(w http.ResponseWriter, r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.urls = append(p.urls, r.URL.String())
	if r.Method != http.MethodGet || r.URL.Path != "/api/v1/skills" {
		return false
	}
	p.early = p.early || time.Since(p.refused) < 900*time.Millisecond
	statuses := []int{http.StatusServiceUnavailable, http.StatusTooManyRequests}
	n := p.tries["skills"]
	if p.tries["skills"]++; n >= len(statuses) {
		return false
	}
	p.refused = time.Now()
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statuses[n])
	_, _ = io.WriteString(w, `{"error":"later","code":"server_busy","request_id":"r","details":[]}`)
	return true
}

// spoil loses an answer, or breaks the stream that it is.
func (p *faulty) spoil(res *http.Response) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if res.Header.Get("Idempotency-Replayed") != "" {
		p.replayed++
	}
	try := ""
	switch r := res.Request; r.Method {
	case http.MethodPost:
		try = r.Header.Get("Idempotency-Key")
	case http.MethodDelete:
		try = r.URL.Path
	}
	if try != "" {
		if p.tries[try]++; p.tries[try] == 1 && res.StatusCode < 300 {
			_ = res.Body.Close()
			return errCut
		}
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		p.streams++
		res.Body = &broken{ReadCloser: res.Body, lines: bufio.NewReader(res.Body), silent: p.streams%3 == 0}
	}
	return nil
}

// counts returns how often each change was sent.
func (p *faulty) counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.tries)
}

// broken is a stream that ends, or falls silent, in the middle of an event.
type broken struct {
	io.ReadCloser
	lines  *bufio.Reader
	silent bool
	events int
	rest   []byte
}

func (b *broken) Read(into []byte) (int, error) {
	if len(b.rest) == 0 {
		if b.events > eventsOfStream {
			if b.silent {
				_, _ = io.Copy(io.Discard, b.lines) // until the client has left
			}
			return 0, errCut
		}
		line, err := b.lines.ReadBytes('\n')
		if err != nil {
			return 0, err
		}
		if b.rest = line; bytes.HasPrefix(line, []byte("data: ")) {
			if b.events++; b.events > eventsOfStream {
				b.rest = line[:len(line)/2]
			}
		}
	}
	n := copy(into, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// check wants that the client has sent everything again that it had no answer to, and not sooner than it was asked to, and that
// no URL has the key.
func (p *faulty) check(t *testing.T) {
	t.Helper()
	for what, n := range p.counts() {
		if n < 2 {
			t.Errorf("%s was sent %d times", what, n)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.replayed == 0 || p.streams < 2*eventsOfStream || p.early {
		t.Errorf("%d answers were stored ones, %d streams; too early: "+strconv.FormatBool(p.early), p.replayed, p.streams)
	}
	for _, u := range p.urls {
		if strings.Contains(u, masterKey) {
			t.Errorf("the key is in %s", u)
		}
	}
}
