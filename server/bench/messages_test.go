package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var (
	turns   = flag.Int("turns", 1000, "turns of the long conversation with a stand-in for a harness")
	talks   = flag.Int("talks", 200, "messages to OpenCode, directly and through the server in turn")
	talkers = flag.Int("talkers", 32, "sessions that take messages at once")
	crowded = flag.Int("crowded", 100, "sessions that there are at once")
)

// BenchmarkMessages says what a message costs beyond what its harness takes, with the real OpenCode and with a stand-in that answers
// at once, and how many sessions and messages one server carries.
func BenchmarkMessages(b *testing.B) {
	program := build(b)
	for _, kind := range strings.Split(*databases, ",") {
		messages{*turns, *talks, *talkers, *crowded, *duration}.measure(b, program, kind, newReport(os.Stdout))
	}
}

func TestTheMessagesAreMeasured(t *testing.T) {
	t.Parallel()
	messages{12, 4, 2, 3, 100 * time.Millisecond}.measure(t, build(t), storetest.KindSQLite, newReport(io.Discard))
}

// messages is how much is measured.
type messages struct {
	turns, talks, talkers, crowded int
	duration                       time.Duration
}

func (m messages) measure(t testing.TB, program, kind string, out *report) {
	t.Helper()
	gateway := httptest.NewServer(demo.New("sk-bench"))
	defer gateway.Close()
	m.beside(t, program, kind, gateway.URL, out)
	s := newServer(t, program, kind)
	metrics := servertest.FreeAddr(t)
	s.env = []string{"LITELLM_API_BASE=" + gateway.URL, "LITELLM_API_KEY=sk-bench", "HARNESS_DIR=" + standInDir(t), "METRICS_ADDR=" + metrics,
		fmt.Sprint("MAX_SESSIONS=", m.crowded+m.talkers+m.turns+10), "SESSION_RATE=0"}
	s.start()
	defer s.stop()
	m.long(s, out)
	m.rate(s, out)
	m.many(s, metrics, out)
}

// beside speaks to OpenCode directly and through the server, in turn, both with the same gateway and configuration.
func (m messages) beside(t testing.TB, program, kind, gateway string, out *report) {
	t.Helper()
	s := newServer(t, program, kind)
	s.env = []string{"LITELLM_API_BASE=" + gateway, "LITELLM_API_KEY=sk-bench", "HARNESS_DIR=" + servertest.HarnessDir(t)}
	s.start()
	defer s.stop()
	session := s.session()
	s.message(session, "hello")
	direct := startOpenCode(t, s.dir)
	direct.message("hello")
	w, err := dial(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var own, through, ownFirst, throughFirst []time.Duration
	for i := range m.talks {
		text := fmt.Sprintf("message %d", i)
		own = append(own, direct.message(text))
		through = append(through, s.timed(w, session, text))
		ownFirst = append(ownFirst, direct.first(text+" streamed"))
		throughFirst = append(throughFirst, s.first(w, session, text+" streamed"))
	}
	compare := func(what, budget string, own, through []time.Duration) {
		out.figure(kind, fmt.Sprintf("%s, OpenCode, %d", what, len(own)), fmt.Sprintf("directly p50 %s p99 %s, through the server p50 %s p99 %s, added p50 %s",
			ms(at(own, .5)), ms(at(own, .99)), ms(at(through, .5)), ms(at(through, .99)), ms(at(through, .5)-at(own, .5))), budget)
	}
	half := m.talks / 2
	compare("message", "3 ms", own, through)
	compare("message, first half", "flat", own[:half], through[:half])
	compare("message, second half", "flat", own[half:], through[half:])
	compare("first streamed byte", "2 ms", ownFirst, throughFirst)
}

// long compares the messages of a conversation that becomes long with those of one that has just begun.
func (m messages) long(s *server, out *report) {
	s.t.Helper()
	w, err := dial(s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	long, pairs := s.standIn(), max(m.turns/10, 1)
	s.timed(w, long, "warm up")
	for range m.turns - pairs {
		s.timed(w, long, "more")
	}
	var old, young, firsts []time.Duration
	for i := range pairs {
		if i%2 == 0 {
			firsts = append(firsts, s.first(w, long, "streamed"))
		}
		old = append(old, s.timed(w, long, "more"))
	}
	short := s.standIn()
	s.timed(w, short, "warm up")
	old = old[:0]
	for range pairs {
		young = append(young, s.timed(w, short, "more"))
		old = append(old, s.timed(w, long, "more"))
	}
	out.figure(s.kind, fmt.Sprintf("message, stand-in, turn %d", m.turns), fmt.Sprintf("p50 %s p99 %s, with turn 1 to %d p50 %s p99 %s: %.2fx",
		ms(at(old, .5)), ms(at(old, .99)), pairs, ms(at(young, .5)), ms(at(young, .99)), float64(at(old, .5))/float64(at(young, .5))), "3 ms, flat")
	own := firstOfStandIn(s.t, len(firsts))
	out.figure(s.kind, fmt.Sprintf("first streamed byte, stand-in, %d", len(firsts)), fmt.Sprintf("directly p50 %s, through the server p50 %s p99 %s, added p50 %s",
		ms(at(own, .5)), ms(at(firsts, .5)), ms(at(firsts, .99)), ms(at(firsts, .5)-at(own, .5))), "2 ms")
}

// rate has many sessions take messages at once, one after the other in each.
func (m messages) rate(s *server, out *report) {
	s.t.Helper()
	sessions := s.standIns(m.talkers)
	end := time.Now().Add(m.duration)
	began := time.Now()
	server, database := s.cpu()
	var all sync.WaitGroup
	took := make([][]time.Duration, len(sessions))
	for i, session := range sessions {
		all.Go(func() {
			w, err := dial(s.addr)
			if err != nil {
				s.t.Error(err)
				return
			}
			defer w.Close()
			for len(took[i]) == 0 || time.Now().Before(end) {
				took[i] = append(took[i], s.timed(w, session, "hello"))
			}
		})
	}
	all.Wait()
	wall, flat := time.Since(began), slices.Concat(took...)
	cpu, db := s.cpu()
	each := func(d time.Duration) time.Duration { return d / time.Duration(max(len(flat), 1)) }
	out.figure(s.kind, fmt.Sprintf("messages, stand-in, %d sessions", m.talkers), fmt.Sprintf("%.0f/s, p50 %s p99 %s; processor time each: server %s, database %s",
		float64(len(flat))/wall.Seconds(), ms(at(flat, .5)), ms(at(flat, .99)), ms(each(cpu-server)), ms(each(db-database))), "1000/s")
}

// many has many sessions at once and follows what they take of the server.
func (m messages) many(s *server, metrics string, out *report) {
	s.t.Helper()
	curve := func(n int) string {
		now, _ := s.memory()
		return fmt.Sprintf("%d: %d MB %d goroutines", n, now, goroutines(s.t, metrics))
	}
	points := []string{curve(0)}
	begun := time.Now()
	var all []string
	for step := 4; step > 0; step-- {
		all = append(all, s.standIns((m.crowded-len(all))/step)...)
		points = append(points, curve(len(all)))
	}
	ready := time.Since(begun)
	var failed atomic.Int64
	var talk sync.WaitGroup
	for _, session := range all {
		talk.Go(func() {
			w, err := dial(s.addr)
			if err != nil {
				failed.Add(1)
				return
			}
			defer w.Close()
			if status, err := w.do(request("POST", session+"/message", `{"text":"hello"}`)); err != nil || status != 200 {
				failed.Add(1)
			}
		})
	}
	talk.Wait()
	parts := memoryByPart(s.dir)
	out.figure(s.kind, fmt.Sprintf("%d more local sessions, %s until the last is ready", len(all), ready.Round(100*time.Millisecond)),
		strings.Join(points, ", ")+fmt.Sprintf("; all answer at once with %d errors", failed.Load()), "-")
	for part, mb := range parts {
		out.figure(s.kind, "memory of each "+part, fmt.Sprintf("median %d MB, max %d MB of %d", mb[len(mb)/2], mb[len(mb)-1], len(mb)), "-")
	}
	if failed.Load() > 0 {
		s.t.Errorf("%d messages failed", failed.Load())
	}
}

var goroutineCount = regexp.MustCompile(`(?m)^go_goroutines ([0-9]+)`)

func goroutines(t testing.TB, metrics string) int {
	t.Helper()
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	found := goroutineCount.FindSubmatch(text)
	if err != nil || found == nil {
		t.Fatalf("no goroutines in the metrics: %v", err)
	}
	n, _ := strconv.Atoi(string(found[1]))
	return n
}

// standIns opens sessions with the stand-in, a few at once, and waits until each has answered.
func (s *server) standIns(n int) []string {
	s.t.Helper()
	all := make([]string, n)
	var wait sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range all {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			all[i] = s.standIn()
			s.message(all[i], "hello")
		})
	}
	wait.Wait()
	return all
}

// standIn opens a session with the stand-in.
func (s *server) standIn() string {
	var made struct{ ID string }
	for _, ask := range []func() []byte{
		func() []byte { return request("POST", agents, `{"model":"m","harness_id":"claude-agent-sdk"}`) },
		func() []byte { return request("POST", agents+"/"+made.ID+"/session", `{}`) },
	} {
		if err := json.Unmarshal(once(s.t, s.addr, ask()), &made); err != nil {
			s.t.Error(err)
		}
	}
	return sessions + made.ID
}

// timed sends a message and returns how long its answer took.
func (s *server) timed(w *wire, session, text string) time.Duration {
	begun := time.Now()
	status, err := w.do(request("POST", session+"/message", `{"text":"`+text+`"}`))
	if err != nil || status != 200 {
		s.t.Errorf("message: %d, %v", status, err)
	}
	return time.Since(begun)
}

// first sends a message and returns how long the first piece of its answer took.
func (s *server) first(w *wire, session, text string) time.Duration {
	s.t.Helper()
	begun := time.Now()
	if _, err := w.Write(request("POST", session+"/message_stream", `{"text":"`+text+`"}`)); err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("stream: %v", err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	took := until(s.t, lines, begun, `"type":"message.`) // a whole part, if it is there before its pieces are read
	until(s.t, lines, begun, `"type":"turn.completed"`)
	if _, err := io.Copy(io.Discard, lines); err != nil {
		s.t.Fatalf("stream: %v", err)
	}
	return took
}

// until reads lines up to one that has a text and returns how long that took.
func until(t testing.TB, lines *bufio.Reader, begun time.Time, text string) time.Duration {
	t.Helper()
	for {
		line, err := lines.ReadBytes('\n')
		if bytes.Contains(line, []byte(text)) {
			return time.Since(begun)
		}
		if err != nil {
			t.Fatalf("no %s: %v", text, err)
		}
	}
}

// at is a quantile; the list need not be sorted.
func at(d []time.Duration, q float64) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[int(q*float64(len(d)-1))]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
