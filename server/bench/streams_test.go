package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var (
	readers     = flag.Int("readers", 1000, "subscribers of one session")
	reconnects  = flag.Int("reconnects", 20, "how often each of half as many clients reconnects")
	mixed       = flag.Int("mixed", 20, "sessions at once, of all harnesses in turn")
	streamWords = flag.Int("words", 300, "words of the turn that is followed, ten a second")
)

// BenchmarkStreams follows one session of the real server, with a real harness, from many clients at once.
func BenchmarkStreams(b *testing.B) {
	program := build(b)
	out := newReport(os.Stdout)
	for _, kind := range strings.Split(*databases, ",") {
		crowd{*readers, *readers / 2, *reconnects, *streamWords}.measure(b, program, kind, out)
	}
}

func TestTheStreamsAreMeasured(t *testing.T) {
	t.Parallel()
	crowd{20, 10, 4, 30}.measure(t, build(t), storetest.KindSQLite, newReport(io.Discard))
}

// crowd is how many clients follow a session.
type crowd struct{ readers, restless, reconnects, words int }

func (c crowd) measure(t testing.TB, program, kind string, out *report) {
	t.Helper()
	s := newServer(t, program, kind)
	gateway := httptest.NewServer(demo.New("sk-bench"))
	defer gateway.Close()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	s.env = []string{"LITELLM_API_BASE=" + gateway.URL, "LITELLM_API_KEY=sk-bench", "HARNESS_DIR=" + filepath.Join(cache, "lap-test", "harnesses")}
	s.start()
	defer s.stop()
	session := s.session()
	s.message(session, "hello")

	idle, _ := s.memory()
	var all sync.WaitGroup
	logs := make([]*listener, c.readers)
	opened := make(chan struct{}, c.readers)
	for i := range logs {
		logs[i] = &listener{addr: s.addr, path: session + "/events", until: "You said: first end"}
		all.Go(func() { logs[i].follow(opened) })
	}
	for range logs {
		<-opened
	}
	s.message(session, fmt.Sprintf("SLOW: %d", c.words))
	full, high := s.memory()
	s.message(session, "first end")
	all.Wait()
	c.report(t, kind, out, logs)
	out.figure(kind, fmt.Sprintf("memory for each of %d readers", c.readers), fmt.Sprintf("%d KiB, %d at the highest", (full-idle)<<10/c.readers, (high-idle)<<10/c.readers), "32 KiB")
	c.storm(t, s, session, out)
}

// report wants every reader to have seen the same, and tells how late.
func (c crowd) report(t testing.TB, kind string, out *report, logs []*listener) {
	t.Helper()
	var late []time.Duration
	for i, l := range logs {
		if l.err != nil || l.sum() != logs[0].sum() {
			t.Errorf("reader %d: %d parts, the first one %d, or others; %v", i, len(l.order), len(logs[0].order), l.err)
		}
		late = append(late, l.late...)
	}
	if len(late) == 0 {
		t.Fatal("nothing was seen")
	}
	slices.Sort(late)
	at := func(q float64) time.Duration { return late[int(q*float64(len(late)-1))].Round(time.Millisecond) }
	out.figure(kind, fmt.Sprintf("delivery to %d readers", len(logs)), fmt.Sprintf("p50 %v, p99 %v, max %v of %d", at(.5), at(.99), at(1), len(late)), "p99 50 ms")
}

// storm has clients come and go while a turn runs; none may miss anything.
func (c crowd) storm(t testing.TB, s *server, session string, out *report) {
	t.Helper()
	logs := make([]*listener, c.restless)
	var all sync.WaitGroup
	begun := time.Now()
	for i := range logs {
		logs[i] = &listener{addr: s.addr, path: session + "/events", until: "You said: last end"}
		all.Go(func() { logs[i].reconnect(c.reconnects, time.Duration(c.words)*90*time.Millisecond) })
	}
	s.message(session, fmt.Sprintf("SLOW: %d", c.words))
	s.message(session, "last end")
	all.Wait()
	for i, l := range logs {
		if l.err != nil || l.sum() != logs[0].sum() || !l.over {
			t.Errorf("client %d: %d parts, the first one %d, or others; over %t, %v", i, len(l.order), len(logs[0].order), l.over, l.err)
		}
	}
	_, high := s.memory()
	out.figure(s.kind, fmt.Sprintf("%d clients reconnect %d times", c.restless, c.reconnects), fmt.Sprintf("nothing lost in %v, %d MB at the highest", time.Since(begun).Round(time.Second), high), "nothing lost")
}

const sessions = "/api/v1/managed_agents/sessions/"

func (s *server) session() string {
	s.t.Helper()
	var made struct{ ID string }
	for _, ask := range []func() []byte{
		func() []byte { return request("POST", agents, `{"model":"m"}`) },
		func() []byte { return request("POST", agents+"/"+made.ID+"/session", `{}`) },
	} {
		if err := json.Unmarshal(once(s.t, s.addr, ask()), &made); err != nil {
			s.t.Fatal(err)
		}
	}
	return sessions + made.ID
}

// message sends a message and waits for the end of its turn.
func (s *server) message(session, text string) {
	s.t.Helper()
	body := once(s.t, s.addr, request("POST", session+"/message", `{"text":"`+text+`"}`))
	if !bytes.Contains(body, []byte(`"error":null`)) {
		s.t.Fatalf("message: %s", body)
	}
}

// listener is a client of an event stream. What it keeps is the fold of what it saw: replay or live makes no difference.
type listener struct {
	addr, path string
	conn       *wire
	mu         sync.Mutex // guards conn
	last       int64
	parts      map[string]string
	order      []string
	late       []time.Duration
	until      string // end of the last part
	over       bool   // it was seen
	err        error
}

func (l *listener) sum() uint64 {
	h := fnv.New64()
	for _, id := range l.order {
		_, _ = io.WriteString(h, id+l.parts[id])
	}
	return h.Sum64()
}

func (l *listener) open() (*bufio.Reader, error) {
	w, err := dial(l.addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.conn = w
	l.mu.Unlock()
	w.in = bufio.NewReaderSize(w.Conn, 4<<10)
	if err := w.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return nil, err
	}
	if _, err := w.Write(request("GET", l.path, "", fmt.Sprintf("Last-Event-ID: %d", l.last))); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("stream: %s", resp.Status)
	}
	return bufio.NewReader(resp.Body), nil
}

func (l *listener) quit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.conn.Close()
}

func (l *listener) follow(opened chan<- struct{}) {
	in, err := l.open()
	opened <- struct{}{}
	if err != nil {
		l.err = err
		return
	}
	defer l.quit()
	live := time.Now()
	for !l.over && l.err == nil {
		if err := l.next(in, live); err != nil {
			l.err = err
		}
	}
}

func (l *listener) reconnect(times int, within time.Duration) {
	for i := range times + 1 {
		in, err := l.open()
		if err != nil {
			l.err = err
			return
		}
		leave := time.AfterFunc(rand.N(2*within/time.Duration(times)), l.quit)
		if i == times {
			leave.Stop() // the last time it stays to the end
		}
		for !l.over && l.next(in, time.Time{}) == nil {
		}
		leave.Stop()
		l.quit()
	}
}

// next takes one event.
func (l *listener) next(in *bufio.Reader, live time.Time) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	data, ok := bytes.CutPrefix(line, []byte("data: "))
	if !ok {
		return nil
	}
	now := time.Now()
	var e struct {
		Seq  int64
		Type string
		Time time.Time
		Data struct {
			PartID string `json:"part_id"`
			Offset int
			Text   string
			Part   struct{ Text string }
		}
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	if e.Seq <= l.last {
		l.err = fmt.Errorf("seq %d after %d", e.Seq, l.last)
	}
	l.last = e.Seq
	if !live.IsZero() && e.Time.After(live) {
		l.late = append(l.late, now.Sub(e.Time))
	}
	l.fold(e.Type, e.Data.PartID, e.Data.Text, e.Data.Part.Text, e.Data.Offset)
	return nil
}

func (l *listener) fold(kind, part, delta, whole string, offset int) {
	if l.parts == nil {
		l.parts = map[string]string{}
	}
	if _, known := l.parts[part]; !known && part != "" {
		l.order = append(l.order, part)
	}
	switch kind {
	case "message.delta":
		if offset != len(l.parts[part]) {
			l.err = fmt.Errorf("a delta at %d after %d", offset, len(l.parts[part]))
		}
		l.parts[part] += delta
	case "message.part":
		l.parts[part] = whole
		l.over = l.over || strings.HasSuffix(whole, l.until)
	}
}
