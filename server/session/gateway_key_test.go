package session_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/gateway"
	"github.com/litellm-agent-platform/lap/server/session"
)

// keyed makes a rig's sessions have keys of a gateway of their own. What fail says comes instead of an answer: a status, or 0.
func (r *rig) keyed(fail func(path string) int) *demo.Gateway {
	g := demo.NewManaged("sk-gateway-master")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if status := fail(req.URL.Path); status != 0 {
			http.Error(w, `{"error":{"message":"no: `+strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")+`"}}`, status)
			return
		}
		g.ServeHTTP(w, req)
	}))
	r.t.Cleanup(server.Close)
	r.stop()
	r.o.Gateway = sandboxd.Gateway{BaseURL: server.URL + "/v1"}
	r.o.GatewayKeys = gateway.New(server.URL+"/v1/", "sk-gateway-master", 2.5)
	r.service = session.NewService(r.o)
	r.t.Cleanup(r.service.Close)
	r.lead()
	return g
}

// config is what the sandbox of a session was given.
func (r *rig) config(id string) sandboxd.SessionConfig {
	r.t.Helper()
	r.rt.mu.Lock()
	b := r.rt.boxes[sandbox.ID(r.session(id).SandboxID)]
	r.rt.mu.Unlock()
	if b == nil {
		r.t.Fatalf("session %s has no sandbox", id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return *b.bound
}

func TestASessionHasAKeyOfItsOwnWhileItHasASandbox(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var failing atomic.Int64
		g := r.keyed(func(path string) int {
			if path == "/key/delete" && failing.Add(-1) >= 0 {
				return http.StatusInternalServerError
			}
			return 0
		})
		one, two := r.open(session.CreateParams{AgentID: r.agent(nil)}), r.open(session.CreateParams{AgentID: r.agent(nil)})
		r.await(one, session.Ready)
		r.await(two, session.Ready)
		keys := map[string]bool{}
		for _, id := range []string{one, two} {
			cfg := r.config(id)
			keys[cfg.Gateway.APIKey] = true
			if cfg.Env["LITELLM_API_KEY"] != cfg.Gateway.APIKey || !strings.HasPrefix(cfg.Gateway.APIKey, "sk-lap-") {
				t.Errorf("%s has %+v and %q in its environment", id, cfg.Gateway, cfg.Env["LITELLM_API_KEY"])
			}
		}
		made := g.Keys()
		if len(keys) != 2 || len(made) != 2 {
			t.Fatalf("%d different keys, %+v", len(keys), made)
		}
		for _, k := range made {
			id := strings.TrimPrefix(k.Alias, "lap-session-")
			if (id != one && id != two) || len(k.Models) != 1 || k.Models[0] != "m" || k.MaxBudget != 2.5 || k.Metadata["session_id"] != id || k.Metadata["agent_id"] == "" {
				t.Errorf("key %+v", k)
			}
		}

		// A gateway that fails when a session ends is asked again, and what it is asked for does not hold up the truth.
		failing.Store(2)
		if _, err := r.service.Stop(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the key of the stopped session to be gone", func() bool { return len(g.Keys()) == 1 && r.session(one).Settled })
		if s := r.session(one); s.SandboxState != "none" || g.Keys()[0].Alias != "lap-session-"+two {
			t.Errorf("%+v, keys %+v", s, g.Keys())
		}
		first := r.config(two).Gateway.APIKey
		if _, err := r.service.Restart(t.Context(), two); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the second attempt", func() bool { s := r.session(two); return s.Attempt == 2 && s.Status == session.Ready })
		if got := r.config(two).Gateway.APIKey; got != first || len(g.Keys()) != 1 {
			t.Errorf("the second attempt has another key, or: %+v", g.Keys())
		}
		if err := r.service.Delete(t.Context(), two); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all keys to be gone", func() bool { return len(g.Keys()) == 0 })
	})
}

func TestAKeyThatTheGatewayRefusesFailsTheSession(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		status := http.StatusForbidden
		r.keyed(func(path string) int {
			if path == "/key/generate" {
				return status
			}
			return 0
		})
		failed := r.await(r.open(session.CreateParams{AgentID: r.agent(nil)}), session.Failed)
		if want := "the model gateway makes no key: it answers 403: no: ********"; failed.FailureReason == nil || !strings.Contains(*failed.FailureReason, want) {
			t.Errorf("reason %v, want %q", failed.FailureReason, want)
		}
	})
}

func TestAGatewayThatIsAwayIsAskedAgain(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var failures atomic.Int64
		failures.Store(3)
		g := r.keyed(func(path string) int {
			if path == "/key/generate" && failures.Add(-1) >= 0 {
				return http.StatusBadGateway
			}
			return 0
		})
		r.await(r.open(session.CreateParams{AgentID: r.agent(nil)}), session.Ready)
		if len(g.Keys()) != 1 {
			t.Errorf("keys %+v", g.Keys())
		}
	})
}
