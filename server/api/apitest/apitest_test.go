package apitest_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/server/api/apitest"
)

// recorder keeps failures instead of failing.
type recorder struct {
	testing.TB
	mu     sync.Mutex // guards failed
	failed []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

const (
	health = `{"status":"ok","version":"1"}`
	event  = `{"type":"turn.started","seq":2,"turn_id":null,"time":"2026-11-23T10:00:00.000Z","data":{}}`
	wrong  = `{"error":"e","code":"c","request_id":"r","details":[]}`
)

func TestAnswersThatDifferFromTheDocumentFailTheTest(t *testing.T) {
	t.Parallel()
	const agents, events = "/api/v1/managed_agents/agents", "/api/v1/managed_agents/sessions/x/events"
	for name, c := range map[string]struct {
		path, contentType, body string
		status                  int
		headers                 http.Header
		ok                      bool
	}{
		"as documented":            {"/healthz", "application/json", health, 200, nil, true},
		"an unnamed field":         {"/healthz", "application/json", `{"status":"ok","version":"1","x":1}`, 200, nil, false},
		"a missing field":          {"/healthz", "application/json", `{"status":"ok"}`, 200, nil, false},
		"an undocumented status":   {"/healthz", "application/json", wrong, 500, nil, false},
		"another content type":     {"/healthz", "text/plain", health, 200, nil, false},
		"no request id":            {"/healthz", "application/json", health, 200, http.Header{"X-Request-Id": {""}}, false},
		"an unnamed nested field":  {agents, "application/json", `{"error":"e","code":"c","request_id":"r","details":[{"field":"","message":"","value":""}]}`, 400, nil, false},
		"an error":                 {agents, "application/json", wrong, 400, nil, true},
		"401 without challenge":    {agents, "application/json", wrong, 401, nil, false},
		"401":                      {agents, "application/json", wrong, 401, http.Header{"Www-Authenticate": {"Bearer"}}, true},
		"an unknown path":          {"/x", "application/json", wrong, 404, nil, true},
		"an unknown path as text":  {"/x", "text/plain", "not found", 404, nil, false},
		"405 without Allow":        {agents, "application/json", wrong, 405, nil, false},
		"an event":                 {events, "text/event-stream", ":\n\nid: 2\nevent: turn.started\ndata: " + event + "\n\n", 200, nil, true},
		"an event of another type": {events, "text/event-stream", "id: 2\nevent: x\ndata: " + event + "\n\n", 200, nil, false},
		"an event without id":      {events, "text/event-stream", "event: turn.started\ndata: " + event + "\n\n", 200, nil, false},
		"an event with more":       {events, "text/event-stream", "id: 2\nevent: turn.started\ndata: " + strings.Replace(event, "{", `{"x":1,`, 1) + "\n\n", 200, nil, false},
		"an event twice":           {events, "text/event-stream", strings.Repeat("id: 2\nevent: turn.started\ndata: "+event+"\n\n", 2), 200, nil, false},
		"a time of seconds":        {events, "text/event-stream", "id: 2\nevent: turn.started\ndata: " + strings.Replace(event, ".000", "", 1) + "\n\n", 200, nil, false},
	} {
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Request-Id", "r")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Content-Type", c.contentType)
			for name, values := range c.headers {
				w.Header()[name] = values
			}
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		r := &recorder{TB: t}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hs.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := apitest.HTTPClient(r, "key")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		client.CloseIdleConnections()
		hs.Close()
		if (len(r.failed) == 0) != c.ok {
			t.Errorf("%s: %q", name, r.failed)
		}
	}
}
