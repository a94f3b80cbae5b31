package api_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// handler is the API over SQLite, without a network between.
func handler(b *testing.B) http.Handler {
	b.Helper()
	return handlerOn(b, store.Options{Path: filepath.Join(b.TempDir(), "lap.db"), Keyring: storetest.Keyring(b)})
}

func handlerOn(b *testing.B, o store.Options) http.Handler {
	b.Helper()
	st := storetest.OpenWith(b, o)
	service := session.NewService(session.Options{Store: st, Keyring: storetest.Keyring(b), Gateway: sandboxd.Gateway{BaseURL: "x"}})
	b.Cleanup(service.Close)
	a, err := api.New(api.Options{Store: st, Sessions: service, MasterKey: masterKey})
	if err != nil {
		b.Fatal(err)
	}
	return a.Handler()
}

func do(b *testing.B, h http.Handler, method, path, key, body string, want int) string {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != want {
		b.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Body.String()
}

func BenchmarkWrongKey(b *testing.B) {
	h := handler(b)
	b.ReportAllocs()
	for b.Loop() {
		do(b, h, http.MethodGet, agentsPath, "wrong", "", 401)
	}
}

func BenchmarkCreateAgent(b *testing.B) {
	for name, body := range map[string]string{
		"2KB":  `{"model":"m","prompt":"` + strings.Repeat("p", 2000) + `","env_vars":{"A":"b"}}`,
		"10MB": `{"model":"m","sandbox_files":[{"name":"f","sandbox_path":"/tmp/f","content":"` + strings.Repeat("AAAA", 10<<20/4) + `"}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			h := handler(b)
			b.ReportAllocs()
			for b.Loop() {
				do(b, h, http.MethodPost, agentsPath, masterKey, body, 200)
			}
		})
	}
}

// typical is an agent as the benchmark of the whole server has it.
var typical = `{"model":"m","name":"Agent","prompt":"` + strings.Repeat("p", 1500) + `","mcp_servers":["https://mcp.example.com/docs",
	"https://mcp.example.com/tickets"],"allow_out":["*.example.com","registry.npmjs.org"],"env_vars":{"A":"b","NODE_ENV":"test"}}`

func BenchmarkGetAgent(b *testing.B) {
	benchReads(b, func(b *testing.B, h http.Handler, id string) {
		do(b, h, http.MethodGet, agentsPath+"/"+id, masterKey, "", 200)
	})
}

func BenchmarkListAgents50(b *testing.B) {
	benchReads(b, func(b *testing.B, h http.Handler, _ string) {
		do(b, h, http.MethodGet, agentsPath+"?limit=50&total=false", masterKey, "", 200)
	})
}

func benchReads(b *testing.B, read func(b *testing.B, h http.Handler, id string)) {
	for _, kind := range []string{storetest.KindSQLite, storetest.KindPostgres} {
		b.Run(kind, func(b *testing.B) {
			h := handlerOn(b, storetest.Options(b, kind))
			var id string
			for range 100 {
				_, answer, _ := strings.Cut(do(b, h, http.MethodPost, agentsPath, masterKey, typical, 200), `"id":"`)
				id = answer[:36]
			}
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				read(b, h, id)
			}
		})
	}
}

func BenchmarkSendImages(b *testing.B) {
	h := handler(b)
	image := `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + strings.Repeat("AAAA", 5<<20/3) + `"}}`
	body := `{"parts":[` + strings.Join([]string{image, image, image, image}, ",") + `]}`
	unknown := "/api/v1/managed_agents/sessions/01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11/message"
	b.ReportAllocs()
	for b.Loop() {
		do(b, h, http.MethodPost, unknown, masterKey, body, 404)
	}
}
