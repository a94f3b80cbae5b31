package servertest

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// Sessions uses a server's sessions as a client does. What it opens has values in it that must not be seen: Canaries.
type Sessions struct {
	T   *testing.T
	API *client.ClientWithResponses
}

// Canaries are the values of Open's sessions.
var Canaries = []string{"agent-canary", "session-canary", "prompt-canary"}

// Eventually fails the test if something does not come true within three minutes.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(3 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// Open opens a session of a new agent with a harness.
func (s Sessions) Open(harness client.AgentCreateHarnessID) string {
	s.T.Helper()
	return s.OpenWith(harness, client.SessionCreate{EnvVars: nullable.NewNullableWithValue(map[string]string{"SESSION_SECRET": "session-canary"})})
}

// OpenWith is Open with other settings of the session.
func (s Sessions) OpenWith(harness client.AgentCreateHarnessID, with client.SessionCreate) string {
	s.T.Helper()
	a, err := s.API.CreateAgentWithResponse(s.T.Context(), nil, client.AgentCreate{
		Model: "demo/echo", HarnessID: nullable.NewNullableWithValue(harness), Prompt: nullable.NewNullableWithValue("prompt-canary"),
		EnvVars: nullable.NewNullableWithValue(map[string]string{"AGENT_SECRET": "agent-canary"}),
	})
	if err != nil || a.JSON200 == nil {
		s.T.Fatalf("create agent: %v", err)
	}
	o, err := s.API.CreateSessionWithResponse(s.T.Context(), a.JSON200.ID, nil, with)
	if err != nil || o.JSON200 == nil {
		s.T.Fatalf("open session: %v", err)
	}
	return o.JSON200.ID
}

// Get returns a session.
func (s Sessions) Get(id string) client.Session {
	s.T.Helper()
	r, err := s.API.GetSessionWithResponse(s.T.Context(), id)
	if err != nil || r.JSON200 == nil {
		s.T.Fatalf("get session: %v", err)
	}
	return *r.JSON200
}

// Await waits for a status and fails if the session ends before.
func (s Sessions) Await(id string, status client.SessionStatus) client.Session {
	s.T.Helper()
	var got client.Session
	Eventually(s.T, "the session is "+string(status), func() bool {
		got = s.Get(id)
		if got.Status != status && got.Status == client.SessionStatusFailed {
			s.T.Fatalf("the session failed: %v", got.FailureReason)
		}
		return got.Status == status
	})
	return got
}

// Say sends a message and returns what the tools and texts of the answer say.
func (s Sessions) Say(id, text string) string {
	s.T.Helper()
	r, err := s.API.SendMessageWithResponse(s.T.Context(), id, nil, client.MessageCreate{Text: nullable.NewNullableWithValue(text)})
	if err != nil || r.JSON200 == nil {
		s.T.Fatalf("send message: %v %s", err, r.Body)
	}
	said := ""
	for _, p := range r.JSON200.Parts {
		if p.Output != nil {
			said += *p.Output
		}
		if p.Text != nil {
			said += *p.Text
		}
	}
	return said
}

// LooksWell looks at what operators look at, while a session is ready: none of it shows a canary.
func (s Sessions) LooksWell(id, namespace string, canaries []string) {
	s.T.Helper()
	health, err := s.API.GetClusterHealthWithResponse(s.T.Context())
	if err != nil || health.JSON200 == nil || health.JSON200.Status != "ok" || health.JSON200.Namespace.MustGet() != namespace {
		s.T.Errorf("health: %v %s", err, health.Body)
	}
	d, err := s.API.DiagnoseSessionWithResponse(s.T.Context(), id)
	if err != nil || d.JSON200 == nil {
		s.T.Fatalf("diagnose: %v", err)
	}
	box := d.JSON200.Sandbox.MustGet()
	if len(box.Containers) != 2 || box.Containers[1].State != "running" || len(d.JSON200.Missing) > 0 || len(d.JSON200.DetectedIssues) > 0 {
		s.T.Errorf("diagnosis: %s", d.Body)
	}
	logs, err := s.API.GetSandboxLogsWithResponse(s.T.Context(), id, nil)
	if err != nil || logs.StatusCode() != http.StatusOK || len(logs.Body) == 0 {
		s.T.Errorf("logs: %v %s", err, logs.Body)
	}
	for _, canary := range canaries {
		if canary == "prompt-canary" {
			continue // the agent is part of a diagnosis, and its prompt is no secret
		}
		if strings.Contains(string(d.Body), canary) || strings.Contains(string(logs.Body), canary) {
			s.T.Errorf("%s is in the diagnosis or the log", canary)
		}
	}
}
