package chaos_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/server/demo"
)

const gatewayKey = "sk-chaos-gateway"

// slowly makes the gateway take its time for an answer to a message that says so.
const slowly = "slowly"

// gateway is the demo gateway, made to fail when it is told to, with a memory of what it was asked.
type gateway struct {
	demo *demo.Gateway

	mu    sync.Mutex // guards the rest
	mood  string     // how it answers now: empty, a status, slow or cut
	asked map[int]asked
	total int
}

func newGateway() *gateway { return &gateway{demo: demo.New(gatewayKey), asked: map[int]asked{}} }

func (g *gateway) set(mood string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mood = mood
}

func (g *gateway) saw() map[int]asked {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[int]asked, len(g.asked))
	for n, a := range g.asked {
		out[n] = a
	}
	return out
}

func (g *gateway) change(n int, fn func(*asked)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.asked[n]
	fn(&a)
	g.asked[n] = a
}

// question is what a request for a completion is about.
type question struct {
	last  int // number of the last message of a user, -1: none
	fresh bool
	slow  bool
}

// read takes note of how often each message is in the conversation. Only requests with tools are of turns; others want a title.
func (g *gateway) read(text []byte) question {
	q := question{last: -1}
	var r struct {
		Messages []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
		Tools []json.RawMessage `json:"tools"`
	}
	if json.Unmarshal(text, &r) != nil || len(r.Tools) == 0 {
		return q
	}
	times := map[int]int{}
	for i, m := range r.Messages {
		found := marker.FindSubmatch(m.Content)
		if m.Role != "user" || found == nil {
			continue
		}
		n, _ := strconv.Atoi(string(found[2]))
		times[n]++
		q = question{last: n, fresh: i == len(r.Messages)-1, slow: bytes.Contains(m.Content, []byte(slowly))}
	}
	for n, t := range times {
		g.change(n, func(a *asked) { a.most = max(a.most, t) })
	}
	return q
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(text))
	g.mu.Lock()
	mood := g.mood
	g.total++
	g.mu.Unlock()
	q := g.read(text)
	if status, err := strconv.Atoi(mood); err == nil {
		g.change(q.last, func(a *asked) { a.failed++ })
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":{"message":"chaos says %d","type":"chaos","code":%d}}`, status, status)
		return
	}
	out := &pacedWriter{ResponseWriter: w, request: r}
	if q.slow {
		out.pace = 60 * time.Millisecond
	}
	switch mood {
	case "slow":
		out.pace += 300 * time.Millisecond
	case "cut":
		g.change(q.last, func(a *asked) { a.failed++ })
		out.cutAfter = 4
	}
	g.demo.ServeHTTP(out, r)
	if q.fresh && r.Context().Err() == nil {
		g.change(q.last, func(a *asked) { a.whole++ })
	}
}

// pacedWriter waits before each piece of a streamed answer, and may break the connection after some.
type pacedWriter struct {
	http.ResponseWriter
	request  *http.Request
	pace     time.Duration
	cutAfter int
	pieces   int
}

func (p *pacedWriter) FlushError() error {
	p.pieces++
	if p.cutAfter > 0 && p.pieces > p.cutAfter {
		panic(http.ErrAbortHandler)
	}
	err := http.NewResponseController(p.ResponseWriter).Flush()
	if p.pace > 0 && !strings.Contains(p.Header().Get("Content-Type"), "json") {
		pause(p.request.Context(), p.pace)
	}
	return err
}
