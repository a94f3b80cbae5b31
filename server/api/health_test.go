package api_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// serveOnServer is the API over a Postgres server that the test may lose.
func serveOnServer(t *testing.T) (*server, *storetest.Server) {
	t.Helper()
	db := storetest.NewServer(t)
	o := store.Options{DatabaseURL: db.DSN(), Keyring: storetest.Keyring(t), MaxConns: 4}
	return serveOn(t, storetest.OpenWith(t, o)), db
}

func TestReadinessFollowsTheDatabase(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name       string
		lose, back func(*storetest.Server)
	}{
		{"stopped", (*storetest.Server).Stop, (*storetest.Server).Start},
		{"killed", (*storetest.Server).Kill, (*storetest.Server).Start},
		{"hung", (*storetest.Server).Pause, (*storetest.Server).Resume},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			s, db := serveOnServer(t)
			ready := func() (bool, client.Readiness, time.Duration) {
				t.Helper()
				begun := time.Now()
				resp, err := s.client.GetReadinessWithResponse(t.Context())
				took := time.Since(begun)
				if err != nil {
					t.Fatal(err)
				}
				if resp.JSON200 != nil {
					return true, *resp.JSON200, took
				}
				if resp.JSON503 == nil {
					t.Fatalf("%d %s", resp.StatusCode(), resp.Body)
				}
				return false, *resp.JSON503, took
			}
			if ok, r, _ := ready(); !ok || r.Database != "ok" {
				t.Fatalf("%+v", r)
			}
			how.lose(db)
			// More requests than there are connections, which may wait for much longer than readiness does.
			stuck := make(chan int, 10)
			for range cap(stuck) {
				go func() {
					resp, _, _ := s.call(t, http.MethodGet, agentsPath, "")
					stuck <- resp.StatusCode
				}()
			}
			for range 3 {
				// The bound is 2 s; what is above it is for a busy machine.
				if ok, r, took := ready(); ok || r.Status != "not ready" || r.Database != "unreachable" || took > 5*time.Second {
					t.Errorf("while lost, after %s: %+v", took, r)
				}
			}
			if resp, err := s.client.GetHealthWithResponse(t.Context()); err != nil || resp.JSON200 == nil {
				t.Errorf("health: %+v, %v", resp, err)
			}
			how.back(db)
			eventually(t, "ready again", func() bool {
				ok, r, _ := ready()
				return ok && r.Status == "ready" && r.Database == "ok"
			})
			for range cap(stuck) {
				if status := <-stuck; status != 503 && status != 200 {
					t.Errorf("a request that met the loss: %d", status)
				}
			}
			if resp, body, _ := s.call(t, http.MethodGet, agentsPath, ""); resp.StatusCode != 200 {
				t.Errorf("afterwards: %d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestNoAnswerIsStoredWhenTheDatabaseIsLostInTheMiddle(t *testing.T) {
	t.Parallel()
	s, db := serveOnServer(t)
	path := agentsPath + "/" + s.newAgent(t, `{"model":"m"}`).ID + "/session"
	s.settings.onPut = func(context.Context) { db.Kill() }
	body := `{"env_vars":{"A":"b"}}`
	if a := s.post(t, path, body, "key"); a.status != 503 || a.code != "database_unavailable" {
		t.Errorf("%+v", a)
	}
	s.settings.onPut = nil
	if kept := s.settings.all(); len(kept) != 0 {
		t.Errorf("settings are kept: %v", kept)
	}
	if a := s.post(t, path, body, "key"); a.status != 503 || a.replayed != "" {
		t.Errorf("while lost: %+v", a)
	}
	db.Start()
	var first answer
	eventually(t, "the database answers again", func() bool {
		first = s.post(t, path, body, "key")
		return first.status != 503
	})
	if first.status != 200 || first.replayed != "" {
		t.Errorf("%+v", first)
	}
	s.repeat(t, path, body, "key", first)
	if n := s.total(t, sessionsPath); n != 1 || len(s.settings.all()) != 1 {
		t.Errorf("%d sessions, settings %v", n, s.settings.all())
	}
}
