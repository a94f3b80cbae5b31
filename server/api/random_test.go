package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/contract"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const (
	marker = "mrk7q" // in every text that is sent; errors and logs must not have it
	secret = "scr9z" // in every value of an environment; nothing must have it that was not asked to
)

// Environment variables of a longer run, or of one again.
const (
	randomCount = "LAP_RANDOM"      // requests to each database
	randomSeed  = "LAP_RANDOM_SEED" // which requests
)

// random is a run of random requests.
type random struct {
	*server
	gen    *contract.Generator
	world  *world
	http   *http.Client
	faults *faults
	counts map[int]int
	pairs  map[string]bool // operations with statuses
	n      int
}

func TestRandomRequestsGetTheAnswersThatTheyMust(t *testing.T) {
	t.Parallel()
	seed := uint64(number(t, randomSeed, int(rand.Uint32())))
	t.Logf("%s=%d", randomSeed, seed)
	storetest.EachKind(t, func(t *testing.T, kind string) {
		n := map[string]int{storetest.KindSQLite: 3000, storetest.KindPostgres: 1500}[kind]
		o := storetest.Options(t, kind)
		leaks := &leaks{}
		log := slog.New(slog.NewJSONHandler(leaks, &slog.HandlerOptions{Level: slog.LevelDebug}))
		r := &random{counts: map[int]int{}, pairs: map[string]bool{}, world: newWorld()}
		r.server = serveOn(t, storetest.OpenWith(t, o), func(ao *api.Options, so *session.Options) { ao.Logger, so.Logger = log, log })
		doc, err := gen.GetSpec()
		if err != nil {
			t.Fatal(err)
		}
		n = number(t, randomCount, n)
		r.gen = contract.NewGenerator(doc, rand.New(rand.NewPCG(seed, 0)), contract.GeneratorOptions{
			Key: masterKey, Marker: marker, Secret: secret, Large: n >= 50_000,
			// No controller runs here that would end a turn.
			Ends: func(q *contract.Request) bool { return q.Operation != "streamMessage" || r.world.refusal(q) != success },
		})
		r.faults = &faults{TB: t}
		r.http = apitest.HTTPClient(r.faults, "")
		start := time.Now()
		for bad := 0; r.n < n && bad < 20; r.n++ {
			if !r.next(t) {
				bad++
			}
		}
		t.Logf("%d requests in %v, %d pairs of operation and status, by status: %v", r.n, time.Since(start).Round(time.Millisecond), len(r.pairs), r.counts)
		r.world.compare(t, r.server, o)
		for _, line := range leaks.found {
			t.Errorf("logged: %s", line)
		}
	})
}

// number reads a number from the environment.
func number(t *testing.T, name string, unset int) int {
	t.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return unset
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// next sends one request and reports all that is wrong with its answer; it returns false if something is.
func (r *random) next(t *testing.T) bool {
	t.Helper()
	q := r.gen.Next()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.Method, r.url+q.Path, bytes.NewReader(q.Body))
	if err != nil {
		t.Fatalf("%s %q: %v", q.Method, q.Path, err)
	}
	req.Header = q.Header.Clone()
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", requestLine(q), err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatalf("%s: %v", requestLine(q), err)
	}
	r.counts[resp.StatusCode]++
	if q.Operation != "" {
		r.pairs[fmt.Sprint(q.Operation, " ", resp.StatusCode)] = true
	}
	x := &contract.Exchange{Request: q, Status: resp.StatusCode, Header: resp.Header, Body: body}
	wrong := append(append(r.faults.take(), r.world.check(x)...), r.gen.Wrong(x)...)
	if len(wrong) > 0 {
		t.Errorf("request %d: %s\nits flaws: %+v\nanswered %d %s- %s", r.n, requestLine(q), q.Flaws, resp.StatusCode, cut(body, 2000), strings.Join(wrong, "\n- "))
	}
	r.world.learn(q, resp, body)
	r.gen.Learn(q, resp.StatusCode, resp.Header, body)
	return len(wrong) == 0
}

func requestLine(q *contract.Request) string {
	h := q.Header.Clone()
	if len(q.Flaws) == 0 || q.Flaws[0].Rule != "key" {
		h.Del("Authorization")
	}
	return fmt.Sprintf("%s %s %q %s", q.Method, q.Path, h, cut(q.Body, 3000))
}

func cut(b []byte, n int) []byte { return b[:min(n, len(b))] }

// faults keeps what the checking client finds wrong with an answer.
type faults struct {
	testing.TB
	list []string
}

func (f *faults) Errorf(format string, args ...any) {
	f.list = append(f.list, fmt.Sprintf(format, args...))
}

func (f *faults) take() []string {
	list := f.list
	f.list = nil
	return list
}

// leaks is a log that keeps only lines that should not have been written.
type leaks struct {
	mu    sync.Mutex // guards found
	found []string
}

func (l *leaks) Write(line []byte) (int, error) {
	for _, s := range []string{marker, secret, masterKey, `"level":"ERROR"`} {
		if bytes.Contains(line, []byte(s)) {
			l.mu.Lock()
			l.found = append(l.found, string(cut(line, 3000)))
			l.mu.Unlock()
		}
	}
	return len(line), nil
}
