package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/contract"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// keyed is what a request with an Idempotency-Key is remembered by.
type keyed struct{ path, key string }

// FuzzIdempotencyKeysRememberAnswers sends sequences of requests, two bytes for each, and keeps beside the server what it must
// remember: the first answer that counts to each key and path.
func FuzzIdempotencyKeysRememberAnswers(f *testing.F) {
	st := storetest.Open(f, storetest.KindSQLite)
	service := session.NewService(session.Options{
		Store: st, Settings: &settings{env: map[string]map[string]string{}}, Keyring: storetest.Keyring(f), Harnesses: []string{"opencode"},
		Gateway: sandboxd.Gateway{BaseURL: "http://gateway.invalid"},
	})
	f.Cleanup(service.Close)
	a, err := api.New(api.Options{Store: st, Sessions: service, MasterKey: masterKey})
	if err != nil {
		f.Fatal(err)
	}
	h := a.Handler()
	agent := field(postJSON(h, agentsPath, "", `{"model":"m"}`, "").Body.Bytes(), "id").(string)
	other := field(postJSON(h, agentsPath, "", `{"model":"m","harness_id":"claude-code"}`, "").Body.Bytes(), "id").(string)
	paths := []string{
		agentsPath, "/api/v1/skills", agentsPath + "/" + agent + "/session", agentsPath + "/" + other + "/session", agentsPath + "/" + agent + "/skill", agentsPath + "/x/session", agentsPath + "/x/skill",
	}
	bodies := []string{`{"model":"m"}`, `{"model":"m","name":"n"}`, `{"name":"n","content":"c"}`, `{"content":"c"}`, `{}`, ` {}`, `{"title":"t"}`, `null`, `{`, ``}
	f.Add([]byte{0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 2, 4, 2, 4, 2, 5, 3, 4, 3, 4, 3, 4})
	f.Add([]byte{4, 3, 4, 3, 12, 3, 5, 4, 5, 4, 6, 9, 6, 9, 2, 9, 2, 9, 0, 8, 0, 0, 1, 7, 1, 7})
	run := 0
	f.Fuzz(func(t *testing.T, script []byte) {
		run++
		memory := map[keyed]*httptest.ResponseRecorder{}
		sent := map[keyed]string{}
		for i := 0; i+1 < len(script) && i < 60; i += 2 {
			path, body := paths[int(script[i]&7)%len(paths)], bodies[int(script[i+1])%len(bodies)]
			k := keyed{path, fmt.Sprintf("%d-%d", run, script[i]>>3&1)}
			w := postJSON(h, path, k.key, body, "application/json")
			first, known := memory[k]
			replayed := w.Header().Get("Idempotency-Replayed") == "true"
			switch {
			case known && sent[k] == body:
				if !replayed || w.Code != first.Code || w.Body.String() != first.Body.String() || w.Header().Get("Etag") != first.Header().Get("Etag") {
					t.Fatalf("%v %s: %d %s, first was %d %s", k, body, w.Code, w.Body, first.Code, first.Body)
				}
			case known:
				if replayed || w.Code != http.StatusUnprocessableEntity {
					t.Fatalf("%v %s after %s: %d %s", k, body, sent[k], w.Code, w.Body)
				}
			case replayed || w.Code == http.StatusUnprocessableEntity || w.Code == http.StatusInternalServerError:
				t.Fatalf("%v %s: %d %s", k, body, w.Code, w.Body)
			case contract.Stored(w.Code):
				memory[k], sent[k] = w, body
			}
		}
		checkWhatWasMade(t, h, memory)
	})
}

// checkWhatWasMade checks that what a stored answer says was made is there.
func checkWhatWasMade(t *testing.T, h http.Handler, memory map[keyed]*httptest.ResponseRecorder) {
	t.Helper()
	for k, w := range memory {
		var made struct{ ID string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code >= 300 || made.ID == "" {
			continue
		}
		path := k.path + "/" + made.ID
		if strings.HasSuffix(k.path, "/session") {
			path = sessionPath(made.ID)
		}
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer "+masterKey)
		got := httptest.NewRecorder()
		if h.ServeHTTP(got, r); got.Code != http.StatusOK {
			t.Errorf("%v made %s, which is %d", k, made.ID, got.Code)
		}
	}
}

// postJSON sends a request past the network.
func postJSON(h http.Handler, path, key, body, contentType string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+masterKey)
	if r.Header.Set("Content-Type", "application/json"); contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
