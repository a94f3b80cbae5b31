package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const masterKey = "test-master-key-0123456789"

func TestMain(m *testing.M) { goleak.VerifyTestMain(storetest.Runner(m)) }

// server is the API over a real store and the real session service. No controller runs: tests play its part.
type server struct {
	url      string
	store    *store.Store
	service  *session.Service
	settings *settings
	logs     *logs
	metrics  *prometheus.Registry
	client   *client.ClientWithResponses
	http     *http.Client
	close    func() // ends the session service, as a shutdown does; once
}

// serve is the API over SQLite, for what does not depend on the database.
func serve(t testing.TB, change ...func(*api.Options, *session.Options)) *server {
	t.Helper()
	return serveOn(t, storetest.Open(t, storetest.KindSQLite), change...)
}

// onEach runs a test over Postgres and over SQLite.
func onEach(t *testing.T, fn func(t *testing.T, s *server)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, st *store.Store) { fn(t, serveOn(t, st)) })
}

func serveOn(t testing.TB, st *store.Store, change ...func(*api.Options, *session.Options)) *server {
	t.Helper()
	s := &server{store: st, settings: &settings{env: map[string]map[string]string{}}, logs: &logs{}, metrics: prometheus.NewRegistry()}
	log := slog.New(slog.NewJSONHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	so := session.Options{
		Store: st, Settings: s.settings, Keyring: storetest.Keyring(t), Harnesses: []string{"opencode", "codex"},
		Gateway: sandboxd.Gateway{BaseURL: "http://gateway.invalid"}, Logger: log,
	}
	ao := api.Options{Store: st, MasterKey: masterKey, Version: "1.2.3", Gateway: "configured", Logger: log, Metrics: s.metrics}
	for _, c := range change {
		c(&ao, &so)
	}
	s.service = session.NewService(so)
	s.close = sync.OnceFunc(s.service.Close)
	t.Cleanup(s.close)
	ao.Sessions = s.service
	a, err := api.New(ao)
	if err != nil {
		t.Fatal(err)
	}
	hs := httptest.NewUnstartedServer(nil)
	hs.Config = api.NewServer(a.Handler())
	hs.Start()
	t.Cleanup(func() {
		if err := a.Wait(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(hs.Close)
	// Streams end before the server waits for its connections.
	t.Cleanup(s.close)
	s.url, s.client, s.http = hs.URL, apitest.Client(t, hs.URL, masterKey), apitest.HTTPClient(t, masterKey)
	return s
}

// settings keeps session settings in memory.
type settings struct {
	onPut func(ctx context.Context) // called before something is kept; changed only while no request runs
	mu    sync.Mutex                // guards env
	env   map[string]map[string]string
}

func (s *settings) Put(ctx context.Context, id string, env map[string]string) error {
	if s.onPut != nil {
		s.onPut(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env[id] = env
	return nil
}

func (s *settings) Get(_ context.Context, id string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	env, ok := s.env[id]
	if !ok {
		return nil, sandbox.ErrNotFound
	}
	return env, nil
}

func (s *settings) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.env, id)
	return nil
}

// all returns the ids of the sessions that have settings.
func (s *settings) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.env))
}

func (s *settings) List(context.Context) (map[string]time.Time, error) { return nil, nil }

// logs collects log output.
type logs struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// call sends a request that the generated client would not and returns the answer, its body and its error, if it is one.
func (s *server) call(t *testing.T, method, path, body string, headers ...string) (*http.Response, []byte, client.Error) {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var e client.Error
	if resp.StatusCode >= 400 {
		_ = json.Unmarshal(b, &e)
	}
	return resp, b, e
}

// refused checks status and code, and that exactly the given fields are wrong.
func refused(t *testing.T, resp *http.Response, e client.Error, status int, code string, fields ...string) {
	t.Helper()
	got := map[string]bool{}
	for _, d := range e.Details {
		got[d.Field] = true
	}
	ok := resp.StatusCode == status && e.Code == code && len(got) == len(fields)
	for _, f := range fields {
		ok = ok && got[f]
	}
	if !ok {
		t.Errorf("got %d %s %+v, want %d %s at %q", resp.StatusCode, e.Code, e.Details, status, code, fields)
	}
}

const agentsPath = "/api/v1/managed_agents/agents"

func sessionPath(id string) string { return "/api/v1/managed_agents/sessions/" + id }

// newAgent creates an agent from JSON.
func (s *server) newAgent(t *testing.T, body string) client.Agent {
	t.Helper()
	resp, err := s.client.CreateAgentWithBodyWithResponse(t.Context(), nil, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if resp.JSON200 == nil {
		t.Fatalf("create agent: %s", resp.Body)
	}
	return *resp.JSON200
}

// newSession opens a session of a new agent.
func (s *server) newSession(t *testing.T) client.Session {
	t.Helper()
	a := s.newAgent(t, `{"model":"m"}`)
	resp, err := s.client.CreateSessionWithResponse(t.Context(), a.ID, nil, client.SessionCreate{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.JSON200 == nil {
		t.Fatalf("create session: %s", resp.Body)
	}
	return *resp.JSON200
}

// eventually polls until ok or the test's patience ends.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}
