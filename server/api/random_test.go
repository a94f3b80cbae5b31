package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
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
	gen    *apitest.Generator
	world  *world
	http   *http.Client
	faults *faults
	counts map[int]int
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
		r := &random{counts: map[int]int{}, world: newWorld()}
		r.server = serveOn(t, storetest.OpenWith(t, o), func(ao *api.Options, so *session.Options) { ao.Logger, so.Logger = log, log })
		doc, err := gen.GetSpec()
		if err != nil {
			t.Fatal(err)
		}
		n = number(t, randomCount, n)
		r.gen = apitest.NewGenerator(doc, rand.New(rand.NewPCG(seed, 0)), apitest.GeneratorOptions{
			Key: masterKey, Marker: marker, Secret: secret, Large: n >= 50_000,
			// No controller runs here that would end a turn.
			Ends: func(q *apitest.Request) bool { return q.Operation != "streamMessage" || r.world.refusal(q) != success },
		})
		r.faults = &faults{TB: t}
		r.http = apitest.HTTPClient(r.faults, "")
		start := time.Now()
		for bad := 0; r.n < n && bad < 20; r.n++ {
			if !r.next(t) {
				bad++
			}
		}
		t.Logf("%d requests in %v, by status: %v", r.n, time.Since(start).Round(time.Millisecond), r.counts)
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
	wrong := append(r.faults.take(), r.world.check(q, resp, body)...)
	wrong = append(append(wrong, leaked(q, resp, body)...), checkHeaders(q, resp)...)
	if resp.StatusCode >= 400 {
		wrong = append(wrong, checkError(q, resp, body)...)
	}
	if len(wrong) > 0 {
		t.Errorf("request %d: %s\nits flaws: %+v\nanswered %d %s- %s", r.n, requestLine(q), q.Flaws, resp.StatusCode, cut(body, 2000), strings.Join(wrong, "\n- "))
	}
	r.world.learn(q, resp, body)
	r.gen.Learn(q, resp.StatusCode, resp.Header, body)
	return len(wrong) == 0
}

func requestLine(q *apitest.Request) string {
	h := q.Header.Clone()
	if len(q.Flaws) == 0 || q.Flaws[0].Rule != "key" {
		h.Del("Authorization")
	}
	return fmt.Sprintf("%s %s %q %s", q.Method, q.Path, h, cut(q.Body, 3000))
}

func cut(b []byte, n int) []byte { return b[:min(n, len(b))] }

// leaked finds what an answer says and must not.
func leaked(q *apitest.Request, resp *http.Response, body []byte) (wrong []string) {
	for name, values := range resp.Header {
		if strings.Contains(strings.Join(values, ""), marker) && name != "X-Request-Id" {
			wrong = append(wrong, "header "+name+" holds what was sent")
		}
	}
	if resp.StatusCode >= 400 && bytes.Contains(body, []byte(marker)) {
		wrong = append(wrong, "the error holds what was sent")
	}
	if bytes.Contains(body, []byte(masterKey)) {
		wrong = append(wrong, "the answer holds the key")
	}
	if bytes.Contains(body, []byte(secret)) && !strings.Contains(q.Query["expand"], "env_vars") {
		wrong = append(wrong, "the answer holds a secret")
	}
	return wrong
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// checkHeaders checks the headers that any answer may have.
func checkHeaders(q *apitest.Request, resp *http.Response) (wrong []string) {
	if id := q.Header.Get("X-Request-Id"); requestID.MatchString(id) != (resp.Header.Get("X-Request-Id") == id) {
		wrong = append(wrong, "want the caller's request id if, and only if, it is sane")
	}
	if q.Repeats == nil && resp.Header.Get("Idempotency-Replayed") != "" {
		wrong = append(wrong, "nothing was replayed")
	}
	return wrong
}

// checkError checks that an error says what is wrong with the request, all of it and nothing else.
func checkError(q *apitest.Request, resp *http.Response, body []byte) (wrong []string) {
	var e gen.Error
	if err := json.Unmarshal(body, &e); err != nil {
		return []string{err.Error()}
	}
	replayed := resp.Header.Get("Idempotency-Replayed") == "true" // then it has the id of the first request
	if e.Error == "" || e.RequestID != resp.Header.Get("X-Request-Id") && !replayed {
		wrong = append(wrong, "the error has no sentence or another request's id")
	}
	if len(q.Flaws) == 0 || e.Code != q.Flaws[0].Code || resp.StatusCode != http.StatusBadRequest {
		return wrong
	}
	if e.Code == "invalid_json" {
		if len(e.Details) != 1 {
			wrong = append(wrong, "there is not one detail")
		}
		return wrong
	}
	for _, f := range q.Flaws {
		if !slices.ContainsFunc(e.Details, func(d gen.ErrorDetail) bool { return d.Field == f.Field }) {
			wrong = append(wrong, fmt.Sprintf("%s at %q is not listed", f.Rule, f.Field))
		}
	}
	for _, d := range e.Details {
		about := func(f apitest.Flaw) bool {
			return strings.HasPrefix(d.Field, f.Field) || strings.HasPrefix(f.Field, d.Field)
		}
		if d.Message == "" || !slices.ContainsFunc(q.Flaws, about) {
			wrong = append(wrong, fmt.Sprintf("%q is not wrong", d.Field))
		}
	}
	return wrong
}

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
