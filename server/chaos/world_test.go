package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const (
	masterKey    = "chaos-master-key-0123456789"
	startTimeout = 90 * time.Second
)

// world is a server with all that it needs and all that is done to it. Faults come from the test's goroutine; clients,
// subscribers and the one who starts and ends sessions are goroutines of their own, which end before each judgement.
type world struct {
	t        *testing.T
	o        options
	kind     string
	seed     uint64
	begun    time.Time
	dir      string // of everything
	data     string // DATA_DIR
	tmpfs    bool   // data is a file system of its own
	srv      *process
	pg       *storetest.Server // nil on SQLite
	proxy    *proxy
	gw       *gateway
	http     *http.Client
	api      *client.ClientWithResponses
	agent    string
	random   *rand.Rand // of the faults
	randomMu sync.Mutex // guards random
	ids      []string   // of all sessions
	trace    *os.File

	mu       sync.Mutex // guards the rest
	subjects []*subject
	dropped  []*subject // deleted since the last judgement
	deeds    []deed
	counts   map[string]int
	messages int
	broken   int // violations
	streams  map[int]context.CancelFunc
	nstreams int
}

func newWorld(t *testing.T, o options, binary, kind string, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, o: o, kind: kind, seed: seed, begun: time.Now(), gw: newGateway(), counts: map[string]int{},
		random: rand.New(rand.NewPCG(seed, 0)), streams: map[int]context.CancelFunc{},
	}
	var err error
	if w.dir, err = newPlace(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.remove)
	w.data = filepath.Join(w.dir, "data")
	if err := os.Mkdir(w.data, 0o700); err != nil {
		t.Fatal(err)
	}
	w.tmpfs = w.mount()
	if w.trace, err = os.Create(filepath.Join(w.dir, "trace.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.trace.Close() })
	gw := httptest.NewServer(w.gw)
	t.Cleanup(gw.Close)
	addr := servertest.FreeAddr(t)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "DATA_DIR=" + w.data, "HARNESS_DIR=" + servertest.HarnessDir(t),
		"LISTEN_ADDR=" + addr, "METRICS_ADDR=off", "MASTER_KEY=" + masterKey, "ENCRYPTION_KEY=chaos-encryption-key-0123456789",
		"LITELLM_API_BASE=" + gw.URL, "LITELLM_API_KEY=" + gatewayKey, "LOG_LEVEL=debug", "START_TIMEOUT=" + startTimeout.String(),
	}
	if kind == storetest.KindPostgres {
		env = append(env, "DATABASE_URL="+w.postgres())
	}
	w.srv = newProcess(w, binary, env, "http://"+addr)
	base := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(base.CloseIdleConnections)
	w.http = &http.Client{Transport: apitest.NewTransport(t, masterKey, whole{base})}
	if w.api, err = client.NewClientWithResponses(w.srv.url, client.WithHTTPClient(w.http)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	return w
}

// postgres starts a server behind the proxy and returns its address.
func (w *world) postgres() string {
	w.pg = storetest.NewServer(w.t)
	dsn, err := url.Parse(w.pg.DSN())
	if err != nil {
		w.t.Fatal(err)
	}
	query := dsn.Query()
	w.proxy = newProxy(w.t, filepath.Join(query.Get("host"), ".s.PGSQL.5432"))
	w.t.Cleanup(w.proxy.close)
	query.Del("host")
	dsn.Host, dsn.RawQuery = w.proxy.l.Addr().String(), query.Encode()
	return dsn.String()
}

// note writes a line of the trace.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(w.trace, "%s %8.3f %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(w.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// violated fails the test. The first lines of a violation say where to look.
func (w *world) violated(session string, v violation) {
	w.note("VIOLATION %s session %s: %s", v.rule, session, v.text)
	w.mu.Lock()
	w.broken++
	w.mu.Unlock()
	if len(v.text) > 2000 {
		v.text = v.text[:2000] + "…"
	}
	w.t.Errorf("VIOLATION %s after %.1fs, database %s, seed %d, session %s: %s", v.rule, time.Since(w.begun).Seconds(), w.kind, w.seed, session, v.text)
}

// did remembers a deed that ends now.
func (w *world) did(what, session string, from time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deeds = append(w.deeds, deed{what: what, session: session, from: from, to: time.Now()})
}

// doing remembers a deed that goes on until the returned function is called.
func (w *world) doing(what, session string) func() {
	w.note("%s %s", what, session)
	w.mu.Lock()
	defer w.mu.Unlock()
	at := len(w.deeds)
	w.deeds = append(w.deeds, deed{what: what, session: session, from: time.Now(), to: time.Now().Add(time.Hour)})
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.deeds[at].to = time.Now()
	}
}

// remove keeps the files of a test that failed.
func (w *world) remove() {
	if w.t.Failed() {
		kept := filepath.Join(os.TempDir(), fmt.Sprintf("lap-chaos-kept-%s-%d", w.kind, w.seed))
		_ = os.RemoveAll(kept)
		if err := os.MkdirAll(kept, 0o700); err == nil {
			logs, _ := filepath.Glob(filepath.Join(w.dir, "*.log"))
			for _, path := range logs {
				_ = os.Rename(path, filepath.Join(kept, filepath.Base(path)))
			}
			w.t.Logf("the logs are kept in %s", kept)
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

// pause waits, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
