package api_test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

func TestSessionsBeyondTheBoundsAreRefusedUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	s := serve(t, func(_ *api.Options, o *session.Options) { o.MaxSessions, o.SessionRate = 1, 3 })
	agent := s.newAgent(t, `{"model":"m"}`)
	create := func() (*http.Response, string) {
		resp, _, e := s.call(t, "POST", agentsPath+"/"+agent.ID+"/session", `{}`, "Idempotency-Key", "the-same-for-all")
		return resp, e.Code
	}
	first := s.newSession(t)
	resp, code := create()
	if resp.StatusCode != http.StatusServiceUnavailable || code != "too_many_sessions" || resp.Header.Get("Retry-After") != "10" {
		t.Errorf("without a place: %d %s", resp.StatusCode, code)
	}
	s.stop(t, first.ID)
	resp, code = create()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("with a place, and the key of the refused request: %d %s", resp.StatusCode, code)
	}
	path := sessionPath(first.ID) + "/restart"
	if resp, _, e := s.call(t, "POST", path, ""); resp.StatusCode != http.StatusServiceUnavailable || e.Code != "too_many_sessions" {
		t.Errorf("restart without a place: %d %s", resp.StatusCode, e.Code)
	}
	list, err := s.client.ListSessionsWithResponse(t.Context(), nil)
	if err != nil || len(list.JSON200.Data) != 2 {
		t.Fatalf("%v %s", err, list.Body)
	}
	s.stop(t, list.JSON200.Data[0].ID)
	s.stop(t, s.newSession(t).ID)
	resp, _, e := s.call(t, "POST", agentsPath+"/"+agent.ID+"/session", `{}`)
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != http.StatusTooManyRequests || e.Code != "session_rate_exceeded" || after < 1 || after > 60 {
		t.Errorf("the fourth within a minute: %d %s, retry after %d", resp.StatusCode, e.Code, after)
	}
	s.change(t, first.ID, func(tx *store.SessionTx) {
		now := tx.Now()
		tx.Session.ExpiredAt, tx.Session.HasSettings = &now, true
	})
	if resp, _, e := s.call(t, "POST", path, ""); resp.StatusCode != http.StatusConflict || e.Code != "session_expired" {
		t.Errorf("restart of a session whose env_vars have expired: %d %s", resp.StatusCode, e.Code)
	}
}

func (s *server) stop(t *testing.T, id string) {
	t.Helper()
	resp, err := s.client.StopSessionWithResponse(t.Context(), id, nil)
	if err != nil || resp.JSON200 == nil {
		t.Fatalf("%v %s", err, resp.Body)
	}
}
