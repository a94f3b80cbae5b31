package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const boxID = "0b0f1d2c-box"

// box is a runtime with one sandbox, of which tests say everything. Methods of sandbox.Runtime that requests do not use are nil.
type box struct {
	sandbox.Runtime
	status sandbox.Status
	err    error // of Get and Logs
	log    string
	more   chan string // what a follower gets after log; closed when the sandbox ends
	asked  chan sandbox.LogOptions
	addr   string // of sandboxd; empty: it hangs
}

func (b *box) KeepsWorkspaces() bool { return true }

func (b *box) Get(context.Context, sandbox.ID) (sandbox.Status, error) { return b.status, b.err }

func (b *box) Logs(ctx context.Context, _ sandbox.ID, o sandbox.LogOptions) (io.ReadCloser, error) {
	if b.err != nil {
		return nil, b.err
	}
	select {
	case b.asked <- o:
	default:
	}
	if !o.Follow {
		return io.NopCloser(strings.NewReader(b.log)), nil
	}
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, b.log)
		for {
			select {
			case s, ok := <-b.more:
				if ok {
					_, _ = io.WriteString(w, s)
					continue
				}
			case <-ctx.Done():
			}
			_ = w.Close()
			return
		}
	}()
	return r, nil
}

func (b *box) Dial(ctx context.Context, _ sandbox.ID) (net.Conn, error) {
	if b.addr == "" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
}

// answer makes a sandboxd that says how it is.
func (b *box) answer(t *testing.T, h sandboxd.Health) {
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/health" || r.Header.Get(sandbox.TokenHeader) == "" || r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(h)
	}))
	t.Cleanup(hs.Close)
	b.addr = strings.TrimPrefix(hs.URL, "http://")
}

// serveBox is the API over a database with a session that the box belongs to.
func serveBox(t *testing.T, st *store.Store, b *box, agent, create string, change ...func(*session.Options)) (*server, string) {
	t.Helper()
	s := serveOn(t, st, func(_ *api.Options, o *session.Options) {
		o.Runtime = b
		for _, c := range change {
			c(o)
		}
	})
	a := s.newAgent(t, agent)
	resp, err := s.client.CreateSessionWithBodyWithResponse(t.Context(), a.ID, nil, "application/json", strings.NewReader(create))
	if err != nil || resp.JSON200 == nil {
		t.Fatalf("%v %s", err, resp.Body)
	}
	s.change(t, resp.JSON200.ID, func(tx *store.SessionTx) {
		now := tx.Now()
		tx.Session.SandboxID, tx.Session.Status, tx.Session.SandboxState, tx.Session.ReadyAt = boxID, session.Ready, "running", &now
	})
	return s, resp.JSON200.ID
}

// change plays the controller's part.
func (s *server) change(t *testing.T, id string, fn func(tx *store.SessionTx)) {
	t.Helper()
	err := s.store.Session(t.Context(), id, func(tx *store.SessionTx) error { fn(tx); return nil })
	if err != nil {
		t.Fatal(err)
	}
}

func (s *server) diagnose(t *testing.T, id string) client.Diagnosis {
	t.Helper()
	resp, err := s.client.DiagnoseSessionWithResponse(t.Context(), id)
	if err != nil || resp.JSON200 == nil {
		t.Fatalf("%v %s", err, resp.Body)
	}
	return *resp.JSON200
}

func codes(d client.Diagnosis) (out []string) {
	for _, i := range d.DetectedIssues {
		if i.Message == "" || i.RecommendedAction == "" {
			out = append(out, "an empty text in "+i.Code)
		}
		out = append(out, i.Code)
	}
	return out
}

func holds(d client.Diagnosis) (out []string) {
	for _, c := range d.Conditions {
		out = append(out, c.Status)
	}
	return out
}

func TestADiagnosisOfASessionThatWorks(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		b := &box{status: sandbox.Status{ID: boxID, State: sandbox.Running, CreatedAt: time.Now()}, log: "one\ntwo\n" + strings.Repeat("x", 5000) + "\n",
			asked: make(chan sandbox.LogOptions, 1)}
		b.answer(t, sandboxd.Health{SandboxID: boxID, Protocol: 1, Version: "v", State: "ready"})
		s, id := serveBox(t, st, b, `{"model":"m","allow_out":["a.example"],"mcp_servers":["docs=https://docs.example/mcp"]}`, `{}`)
		s.change(t, id, func(tx *store.SessionTx) {
			tx.Append(store.NewEvent{Type: "harness.event", Attempt: 1, N: 1, Data: map[string]string{"kind": "mcp", "server": "docs", "status": "failed", "message": "401"}})
			tx.Append(store.NewEvent{Type: "error", Attempt: 1, N: 2, Data: map[string]string{"message": strings.Repeat("x", 17<<10)}})
			tx.Append(store.NewEvent{Type: "message.delta", Attempt: 1, N: 3})
		})
		d := s.diagnose(t, id)
		if got := codes(d); !slices.Equal(got, []string{"mcp_server_down", "not_isolated", "egress_not_enforced"}) {
			t.Errorf("issues %v", got)
		}
		if got := holds(d); !slices.Equal(got, []string{"true", "true", "true", "true"}) {
			t.Errorf("conditions %v", got)
		}
		if len(d.Missing) > 0 || d.Session.ID != id || d.Agent.Model != "m" || d.Harness.MustGet().State.MustGet() != "ready" ||
			d.Sandbox.MustGet().State != "running" {
			t.Errorf("diagnosis = %+v", d)
		}
		if len(d.Logs) != 3 || d.Logs[1] != "two" || len(d.Logs[2]) > 2010 || (<-b.asked).Tail != 200 {
			t.Errorf("logs = %q", d.Logs)
		}
		if len(d.McpServers) != 1 || d.McpServers[0].Name != "docs" || d.McpServers[0].Status != "failed" || d.McpServers[0].Message.MustGet() != "401" {
			t.Errorf("MCP servers = %+v", d.McpServers)
		}
		if len(d.Events) != 1 || d.Events[0].Type != "session.status" {
			t.Errorf("events = %+v", d.Events)
		}
	})
}

// pod is a box of a runtime that knows more, on a cluster.
type pod struct {
	*box
	details sandbox.Description
	told    error
	report  sandbox.Report
}

func (p pod) Describe(context.Context, sandbox.ID) (sandbox.Description, error) {
	return p.details, p.told
}

func (p pod) Check(context.Context) sandbox.Report { return p.report }

func TestADiagnosisHoldsWhatTheClusterSays(t *testing.T) {
	t.Parallel()
	at, code := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 137
	p := pod{
		box: &box{status: sandbox.Status{ID: boxID, State: sandbox.Exited, Cause: sandbox.CauseOutOfMemory, Reason: "it was killed"}},
		details: sandbox.Description{
			Node: "n1", Conditions: []sandbox.Condition{{Type: "Ready", Status: "False", Reason: "ContainersNotReady", Message: "token s3cret-value", ChangedAt: at}, {Type: "x"}},
			Containers: []sandbox.Container{{Name: "harness", Image: "i:1", State: "terminated", Reason: "OOMKilled", Message: "with s3cret-value", ExitCode: &code}},
			Events:     []sandbox.Event{{At: at, Type: "Warning", Reason: "BackOff", Message: "s3cret-value", Count: 3}},
		},
		told: errors.New("10.0.0.1 does not answer"),
	}
	s, id := serveBox(t, storetest.Open(t, storetest.KindSQLite), p.box, `{"model":"m","env_vars":{"TOKEN":"s3cret-value"}}`, `{}`,
		func(o *session.Options) { o.Runtime = p })
	d := s.diagnose(t, id)
	box := d.Sandbox.MustGet()
	if box.Node.MustGet() != "n1" || len(box.Conditions) != 2 || !box.Conditions[0].ChangedAt.MustGet().Equal(at) ||
		!box.Conditions[1].ChangedAt.IsNull() || len(box.Containers) != 1 || box.Containers[0].ExitCode.MustGet() != 137 ||
		len(box.Events) != 1 || box.Events[0].Count != 3 || !box.Events[0].Time.Equal(at) {
		t.Errorf("sandbox = %+v", box)
	}
	text, err := json.Marshal(d)
	if err != nil || strings.Contains(string(text), "s3cret-value") || strings.Contains(string(text), "10.0.0.1") {
		t.Errorf("a secret or an address is in %s", text)
	}
	if !slices.Contains(codes(d), "out_of_memory") || !slices.Contains(codes(d), "sandbox_lost") {
		t.Errorf("issues = %v", codes(d))
	}
	if !slices.ContainsFunc(d.Missing, func(m client.MissingPart) bool { return m.Part == "sandbox.events" }) {
		t.Errorf("missing = %v", d.Missing)
	}
}

func TestTheHealthOfTheClusterIsThatOfItsChecks(t *testing.T) {
	t.Parallel()
	st := storetest.Open(t, storetest.KindSQLite)
	report := sandbox.Report{Namespace: "boxes", Version: "v1", Checks: []sandbox.Check{{Name: "api_server"}, {Name: "watch"}}}
	for name, c := range map[string]struct {
		runtime sandbox.Runtime
		status  int
		says    string
	}{
		"local": {&box{}, http.StatusOK, "not used"},
		"well":  {pod{report: report}, http.StatusOK, "ok"},
		"ill": {pod{report: sandbox.Report{Checks: []sandbox.Check{{Name: "api_server", Fault: "it does not answer"}, {Name: "watch"}}}},
			http.StatusServiceUnavailable, "failing"},
	} {
		s := serveOn(t, st, func(_ *api.Options, o *session.Options) { o.Runtime = c.runtime })
		resp, err := s.client.GetClusterHealthWithResponse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		answer := resp.JSON200
		if c.status != http.StatusOK {
			answer = resp.JSON503
		}
		if resp.StatusCode() != c.status || answer == nil || answer.Status != c.says {
			t.Fatalf("%s: %d %s", name, resp.StatusCode(), resp.Body)
		}
		if name == "well" && (answer.Version.MustGet() != "v1" || answer.Namespace.MustGet() != "boxes" || answer.Checks[1].Status != "ok") {
			t.Errorf("%+v", answer)
		}
		if name == "ill" && (answer.Checks[0].Message.MustGet() != "it does not answer" || answer.Checks[0].Status != "failed" || answer.Checks[1].Status != "ok") {
			t.Errorf("%+v", answer)
		}
	}
}

func TestWhatIsWrongWithASessionIsFound(t *testing.T) {
	t.Parallel()
	st := storetest.Open(t, storetest.KindSQLite)
	healthy := sandboxd.Health{SandboxID: boxID, State: "ready"}
	isolated := func(o *session.Options) { o.Isolated, o.EgressEnforced, o.StartTimeout = true, true, time.Minute }
	failed := func(name string) func(tx *store.SessionTx) {
		return func(tx *store.SessionTx) {
			turn := store.Turn{Input: json.RawMessage(`[]`)}
			if err := tx.AddTurn(&turn); err != nil {
				t.Error(err)
			}
			now := tx.Now()
			turn.Status, turn.ErrorName, turn.ErrorMessage, turn.EndedAt = "failed", &name, new("because"), &now
			if err := tx.SaveTurn(&turn); err != nil {
				t.Error(err)
			}
		}
	}
	ended := func(status, reason string) func(tx *store.SessionTx) {
		return func(tx *store.SessionTx) {
			now := tx.Now()
			tx.Session.Status, tx.Session.FailureReason, tx.Session.StoppedAt, tx.Session.SandboxID = status, &reason, &now, ""
		}
	}
	for _, tt := range []struct {
		name   string
		box    box
		health sandboxd.Health
		change func(tx *store.SessionTx)
		option func(o *session.Options)
		issues []string
	}{
		{name: "nothing", box: box{status: sandbox.Status{State: sandbox.Running}}, health: healthy},
		{name: "its sandbox ended", box: box{status: sandbox.Status{State: sandbox.Exited, Reason: "exit status 1"}}, health: healthy, issues: []string{"sandbox_lost"}},
		{name: "its sandbox vanished", box: box{err: sandbox.ErrNotFound}, issues: []string{"sandbox_lost"}},
		{name: "another answers", box: box{status: sandbox.Status{State: sandbox.Running}}, health: sandboxd.Health{SandboxID: "other", State: "ready"}, issues: []string{"sandbox_not_answering"}},
		{name: "the harness failed", box: box{status: sandbox.Status{State: sandbox.Running}}, health: sandboxd.Health{SandboxID: boxID, State: "failed"}, issues: []string{"harness_not_ready"}},
		{name: "it starts slowly", box: box{status: sandbox.Status{State: sandbox.Starting, Detail: "installing"}}, change: func(tx *store.SessionTx) {
			tx.Session.Status, tx.Session.AttemptStartedAt = session.Creating, tx.Now().Add(-31*time.Second)
		}, issues: []string{"start_slow"}},
		{name: "it starts", box: box{status: sandbox.Status{State: sandbox.Starting}}, change: func(tx *store.SessionTx) {
			tx.Session.Status, tx.Session.AttemptStartedAt = session.Creating, tx.Now()
		}},
		{name: "the gateway fails", box: box{status: sandbox.Status{State: sandbox.Running}}, health: healthy, change: failed("APIError"), issues: []string{"gateway_errors"}},
		{name: "a turn was interrupted", box: box{status: sandbox.Status{State: sandbox.Running}}, health: healthy, change: failed("turn_interrupted"), issues: []string{"turns_interrupted"}},
		{name: "a turn is slow", box: box{status: sandbox.Status{State: sandbox.Running}}, health: healthy, change: func(tx *store.SessionTx) {
			turn, at := store.Turn{Input: json.RawMessage(`[]`)}, tx.Now().Add(-time.Hour)
			if err := tx.AddTurn(&turn); err != nil {
				t.Error(err)
			}
			turn.Status, turn.HandedAt = "handed", &at
			if err := tx.SaveTurn(&turn); err != nil {
				t.Error(err)
			}
		}, issues: []string{"turn_slow"}},
		{name: "it failed", change: ended("failed", "no such branch"), issues: []string{"session_failed"}},
		{name: "it died", change: ended("dead", "its sandbox is gone"), issues: []string{"sandbox_lost"}},
		{name: "it was stopped", change: ended("dead", "stopped")},
		{name: "it expired", change: func(tx *store.SessionTx) {
			ended("dead", "expired: it was suspended for 7 days")(tx)
			tx.Session.ExpiredAt = tx.Session.StoppedAt
		}, issues: []string{"session_expired"}},
		{name: "it does not wake", change: func(tx *store.SessionTx) {
			tx.Session.Desired, tx.Session.SandboxState, tx.Session.SandboxID, tx.Session.FailureReason = "suspended", "suspended", "", new("full disk")
		}, issues: []string{"wake_failed"}},
		{name: "there is no gateway", option: func(o *session.Options) { o.Gateway.BaseURL = "" }, change: ended("dead", "stopped"), issues: []string{"gateway_not_configured"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.health.SandboxID != "" {
				tt.box.answer(t, tt.health)
			} else {
				tt.box.addr = "127.0.0.1:1"
			}
			if tt.change == nil {
				tt.change = func(*store.SessionTx) {}
			}
			s, id := serveBox(t, st, &tt.box, `{"model":"m","deny_out":["a.example"]}`, `{}`, isolated)
			s.change(t, id, tt.change)
			if tt.option != nil { // the session was opened before
				s = serveOn(t, st, func(_ *api.Options, o *session.Options) { isolated(o); o.Runtime = &tt.box; tt.option(o) })
			}
			if got := codes(s.diagnose(t, id)); !slices.Equal(got, tt.issues) {
				t.Errorf("issues %v, want %v", got, tt.issues)
			}
		})
	}
}

func TestPartsThatFailAreNamedInADiagnosisInTime(t *testing.T) {
	t.Parallel()
	b := &box{err: errors.New("dial unix /secret/place: refused")} // and sandboxd hangs
	s, id := serveBox(t, storetest.Open(t, storetest.KindSQLite), b, `{"model":"m"}`, `{}`)
	began := time.Now()
	d := s.diagnose(t, id)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	var parts []string
	for _, m := range d.Missing {
		parts = append(parts, m.Part)
		if strings.Contains(m.Message, "secret") {
			t.Errorf("%s: %s", m.Part, m.Message)
		}
	}
	slices.Sort(parts)
	if !slices.Equal(parts, []string{"logs", "sandbox"}) || !d.Sandbox.IsNull() || d.Harness.MustGet().Error.MustGet() != "it did not answer in time" {
		t.Errorf("diagnosis = %+v", d)
	}
	if got := holds(d); !slices.Equal(got, []string{"true", "unknown", "false", "unknown"}) {
		t.Errorf("conditions %v", got)
	}
}

func TestDiagnosisAndLogsShowNoSecret(t *testing.T) {
	t.Parallel()
	const own, agents, operator, gateway, git = "canary-own-1a", "canary-agent-2b", "canary-operator-3c", "canary-gateway-4d", "canary-git-5e"
	const key = "-----BEGIN\ncanary-line-6f\ncanary+line/7g\n-----END"
	all := strings.Join([]string{own, agents, operator, gateway, git, "canary-line-6f", "canary%2Bline%2F7g"}, " and ")
	b := &box{status: sandbox.Status{State: sandbox.Running, Detail: all, Reason: all}, log: all + "\n" + strings.Repeat("canary-own-", 7000) + "\n"}
	b.answer(t, sandboxd.Health{SandboxID: boxID, State: "failed " + own, Version: own})
	quoted, _ := json.Marshal(key)
	s, id := serveBox(t, storetest.Open(t, storetest.KindSQLite), b, `{"model":"m","prompt":"use `+agents+`","mcp_servers":["https://docs.example/mcp?k=canary-8h#X=canary-9i","stdio:run canary-0j"],
		"env_vars":{"A":"`+agents+`","K":`+string(quoted)+`}}`,
		`{"title":"`+own+`","env_vars":{"S":"`+own+`"}}`, func(o *session.Options) {
			o.Env, o.GitToken, o.Gateway.APIKey = map[string]string{"O": operator}, git, gateway
		})
	s.change(t, id, func(tx *store.SessionTx) {
		tx.Append(store.NewEvent{Type: "harness.event", Attempt: 1, N: 1, Data: map[string]string{"kind": "mcp", "server": own, "status": agents, "message": all}})
		tx.Append(store.NewEvent{Type: "error", Attempt: 1, N: 2, Data: map[string]string{"name": "x", "message": all}})
		turn, now := store.Turn{Input: json.RawMessage(`[]`)}, tx.Now()
		if err := tx.AddTurn(&turn); err != nil {
			t.Error(err)
		}
		turn.Status, turn.ErrorName, turn.ErrorMessage, turn.EndedAt = "failed", new("APIError"), new(all), &now
		if err := tx.SaveTurn(&turn); err != nil {
			t.Error(err)
		}
	})
	_, bundle, _ := s.call(t, "GET", sessionPath(id)+"/diagnose", "")
	_, log, _ := s.call(t, "GET", sessionPath(id)+"/sandbox_logs", "")
	for what, text := range map[string]string{"diagnosis": string(bundle), "log": string(log), "server's log": s.logs.String()} {
		if at := strings.Index(text, "canary"); at >= 0 {
			t.Errorf("a secret is in the %s: …%s…", what, text[max(0, at-100):min(len(text), at+50)])
		}
	}
	if n := strings.Count(string(log), "********"); n != 7 || !strings.Contains(string(log), "a line of more than 65536 bytes is left out") {
		t.Errorf("the log is %q", log)
	}
	if n := strings.Count(string(bundle), "********"); n < 20 {
		t.Errorf("only %d secrets are masked: %s", n, bundle)
	}
}
