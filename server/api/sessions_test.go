package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestASessionIsCreatedListedReadAndDeleted(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, `{"model":"m","idle_timeout_ms":60000}`)
		resp, body, _ := s.call(t, http.MethodPost, agentsPath+"/"+a.ID+"/session",
			`{"title":"T","initial_prompt":"  do\n it ","env_vars":{"CI":"true"},"skill_ids":[]}`)
		if resp.StatusCode != 200 || !strings.Contains(string(body), `"status":"creating"`) {
			t.Fatalf("create: %d %s", resp.StatusCode, body)
		}
		other := s.newSession(t)
		list, err := s.client.ListSessionsWithResponse(t.Context(), &client.ListSessionsParams{AgentID: &a.ID})
		if err != nil || len(list.JSON200.Data) != 1 || list.JSON200.Total.MustGet() != 1 {
			t.Fatalf("list: %s, %v", list.Body, err)
		}
		sess := list.JSON200.Data[0]
		if sess.Title.MustGet() != "T" || sess.TitlePreview.MustGet() != "do it" || sess.TurnCount != 1 || sess.IdleTimeoutMs != 60000 ||
			sess.AgentVersion != 1 || sess.SandboxState != "starting" || !sess.SandboxURL.IsNull() || !sess.TtyToken.IsNull() {
			t.Errorf("session %+v", sess)
		}
		if env, err := s.settings.Get(t.Context(), sess.ID); err != nil || env["CI"] != "true" {
			t.Errorf("settings %v, %v", env, err)
		}
		for range 2 {
			if del, err := s.client.DeleteSessionWithResponse(t.Context(), sess.ID); err != nil || del.StatusCode() != 204 {
				t.Errorf("delete: %v, %v", del, err)
			}
		}
		got, err := s.client.GetSessionWithResponse(t.Context(), sess.ID)
		if err != nil || got.JSON200.Status != "dead" || got.JSON200.StoppedAt.IsNull() || got.JSON200.FailureReason.MustGet() != "deleted" {
			t.Errorf("deleted session: %s, %v", got.Body, err)
		}
		creating := client.SessionStatusCreating
		list, err = s.client.ListSessionsWithResponse(t.Context(), &client.ListSessionsParams{Status: &creating})
		if err != nil || len(list.JSON200.Data) != 1 || list.JSON200.Data[0].ID != other.ID {
			t.Errorf("by status: %s, %v", list.Body, err)
		}
		unknown := "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
		list, err = s.client.ListSessionsWithResponse(t.Context(), &client.ListSessionsParams{AgentID: &unknown})
		if err != nil || len(list.JSON200.Data) != 0 || list.JSON200.Data == nil {
			t.Errorf("of an unknown agent: %s, %v", list.Body, err)
		}
	})
}

func TestASessionIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sdk := s.newAgent(t, `{"model":"m","harness_id":"claude-agent-sdk"}`)
	resp, _, e := s.call(t, http.MethodPost, agentsPath+"/"+sdk.ID+"/session", "{}")
	refused(t, resp, e, 503, "harness_not_available")
	resp, _, e = s.call(t, http.MethodPost, agentsPath+"/"+sdk.ID+"/session", `{"skill_ids":["a/b"]}`)
	refused(t, resp, e, 404, "not_found")
	if e.Error != "skill '…' not found" {
		t.Errorf("error %q", e.Error)
	}
	resp, _, e = s.call(t, http.MethodPost, agentsPath+"/"+sdk.ID+"/session", `{"skill_ids":["1","2","3","4","5","6","7","8","9","10","11"],"title":3,"x":1}`)
	refused(t, resp, e, 400, "invalid_request", "/skill_ids", "/title", "/x")

	resp, _, e = s.call(t, http.MethodGet, "/api/v1/managed_agents/sessions?agent_id=7&status=asleep", "")
	refused(t, resp, e, 400, "invalid_request", "query/agent_id", "query/status")

	s = serve(t, func(_ *api.Options, o *session.Options) { o.Gateway.BaseURL = "" })
	a := s.newAgent(t, `{"model":"m"}`)
	resp, _, e = s.call(t, http.MethodPost, agentsPath+"/"+a.ID+"/session", "{}")
	refused(t, resp, e, 503, "gateway_not_configured")
}

func TestALostDatabaseIs503UntilItIsBack(t *testing.T) {
	t.Parallel()
	pg := storetest.NewServer(t)
	st := storetest.OpenWith(t, store.Options{DatabaseURL: pg.DSN(), Keyring: storetest.Keyring(t), Timeout: 2 * time.Second})
	s := serveOn(t, st)
	sess := s.newSession(t)
	pg.Stop()
	for _, call := range []struct{ method, path, body string }{
		{"GET", agentsPath, ""}, {"POST", agentsPath, `{"model":"m"}`}, {"GET", agentsPath + "/" + sess.AgentID, ""},
		{"DELETE", agentsPath + "/" + sess.AgentID, ""}, {"POST", agentsPath + "/" + sess.AgentID + "/session", "{}"},
		{"GET", sessionPath(sess.ID), ""}, {"GET", "/api/v1/managed_agents/sessions", ""}, {"DELETE", sessionPath(sess.ID), ""},
		{"POST", sessionPath(sess.ID) + "/message", `{"text":"x"}`}, {"GET", sessionPath(sess.ID) + "/events", ""},
		{"GET", sessionPath(sess.ID) + "/turns/" + sess.ID, ""},
	} {
		resp, body, e := s.call(t, call.method, call.path, call.body)
		refused(t, resp, e, 503, "database_unavailable")
		if resp.Header.Get("Retry-After") == "" || strings.Contains(string(body), "postgres") || strings.Contains(string(body), "/tmp") {
			t.Errorf("%s %s: %v %s", call.method, call.path, resp.Header, body)
		}
	}
	if resp, body, _ := s.call(t, http.MethodGet, "/readyz", ""); resp.StatusCode != 503 || !strings.Contains(string(body), "unreachable") {
		t.Errorf("readyz: %d %s", resp.StatusCode, body)
	}
	if resp, _, _ := s.call(t, http.MethodGet, "/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
	pg.Start()
	eventually(t, "the session is readable again", func() bool {
		resp, _, _ := s.call(t, http.MethodGet, sessionPath(sess.ID), "")
		return resp.StatusCode == 200
	})
}
