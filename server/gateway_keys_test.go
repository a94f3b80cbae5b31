package main_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestASandboxHasNoKeyOfTheGatewayButItsSessions(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite, "LITELLM_MASTER_KEY=sk-master-canary", "LITELLM_API_KEY=", "SESSION_BUDGET=1.5")
	id := s.open(demoAgent(), client.SessionCreate{})
	s.await(id, client.SessionStatusReady)
	m := s.say(id, "RUN: env")
	if len(m.Parts) == 0 || m.Parts[0].Output == nil {
		t.Fatalf("answered %+v", m)
	}
	keys, alias := s.gateway.Keys(), "lap-session-"+id
	if len(keys) != 1 || keys[0].Alias != alias || keys[0].MaxBudget != 1.5 || len(keys[0].Models) != 1 || keys[0].Models[0] != "demo/echo" {
		t.Errorf("keys %+v", keys)
	}
	for _, r := range s.gateway.Requests() {
		if !r.KeyOK || r.Alias != alias {
			t.Errorf("a request came with the key %q", r.Alias)
		}
	}
	env, key := *m.Parts[0].Output, ""
	for line := range strings.Lines(env) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "LITELLM_API_KEY="); ok {
			key = v
		}
	}
	if strings.Contains(env, "sk-master-canary") {
		t.Error("the sandbox has the master key")
	}
	if r, err := s.api.StopSessionWithResponse(t.Context(), id, nil); err != nil || r.JSON200 == nil {
		t.Fatalf("stop: %v %s", err, r.Body)
	}
	s.eventually("the key to be deleted", time.Minute, func() bool { return len(s.gateway.Keys()) == 0 })
	req, err := http.NewRequest(http.MethodGet, s.gatewayURL+"/v1/models", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("the key of an ended session: %d", res.StatusCode)
	}
}
