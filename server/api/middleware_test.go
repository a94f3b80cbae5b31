package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
)

func TestBrowsersMaySendAndSeeTheHeadersOfTheAPI(t *testing.T) {
	t.Parallel()
	const origin = "https://console.example.com"
	s := serve(t, func(o *api.Options, _ *session.Options) { o.Origins = []string{origin} })
	has := func(list, name string) bool {
		for item := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(item), name) {
				return true
			}
		}
		return false
	}
	preflight, _, _ := s.call(t, http.MethodOptions, agentsPath, "", "Origin", origin, "Access-Control-Request-Method", "PATCH")
	for _, name := range []string{"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Last-Event-ID", "Prefer", "X-Request-Id"} {
		if !has(preflight.Header.Get("Access-Control-Allow-Headers"), name) {
			t.Errorf("%s may not be sent", name)
		}
	}
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		if !has(preflight.Header.Get("Access-Control-Allow-Methods"), method) {
			t.Errorf("%s may not be used", method)
		}
	}
	for range 2 { // the answer, and its replay
		resp, _, _ := s.call(t, http.MethodPost, agentsPath, `{"model":"m"}`, "Origin", origin, "Idempotency-Key", "key")
		for _, name := range []string{"ETag", "Idempotency-Replayed", "Location", "Retry-After", "X-Request-Id"} {
			if !has(resp.Header.Get("Access-Control-Expose-Headers"), name) {
				t.Errorf("%s cannot be seen", name)
			}
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != origin {
			t.Errorf("%v", resp.Header)
		}
	}
}
