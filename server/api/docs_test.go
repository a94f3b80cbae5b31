package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/openapi"
)

func TestDocsNeedNoKeyAndNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, path := range []string{"/docs", "/docs/"} {
		resp, page, _ := s.call(t, http.MethodGet, path, "", "Authorization", "Bearer none")
		if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllSubmatch(page, -1) {
			asset := string(m[1])
			if !strings.HasPrefix(asset, "/docs/") {
				t.Errorf("%s refers to %s", path, asset)
				continue
			}
			if resp, body, _ := s.call(t, http.MethodGet, asset, ""); resp.StatusCode != 200 || len(body) == 0 {
				t.Errorf("%s: %d", asset, resp.StatusCode)
			}
		}
		if !bytes.Contains(page, []byte(`"swaggerJsonUrl":"/openapi.json"`)) || !bytes.Contains(page, []byte("persistAuthorization: true")) {
			t.Errorf("%s is not set up: %s", path, page)
		}
		checkPolicy(t, resp.Header.Get("Content-Security-Policy"), page)
	}
	resp, _, _ := s.call(t, http.MethodGet, "/docs/swagger-ui-bundle.js", "")
	if ct := resp.Header.Get("Content-Type"); !strings.Contains(ct, "javascript") {
		t.Errorf("script has type %q", ct)
	}
	for _, path := range []string{"/docs/index.html", "/docs/embed.go", "/docs/..%2fx", "/docs/x/y", "/docs/swagger-ui.js"} {
		resp, _, e := s.call(t, http.MethodGet, path, "")
		refused(t, resp, e, 404, "not_found")
	}
}

// checkPolicy makes sure that a browser runs the page's own scripts and styles, no others, and asks no other host.
func checkPolicy(t *testing.T, policy string, page []byte) {
	t.Helper()
	sources := map[string]string{}
	for directive := range strings.SplitSeq(policy, ";") {
		name, list, _ := strings.Cut(strings.TrimSpace(directive), " ")
		sources[name] = list
	}
	if sources["default-src"] != "'none'" || sources["connect-src"] != "'self'" || strings.Contains(policy, "http") ||
		strings.Contains(sources["script-src"]+sources["style-src"], "unsafe") {
		t.Errorf("policy %q", policy)
	}
	for element, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		inline := regexp.MustCompile(`(?s)<`+element+`[^>]*>(.*?)</`+element+`>`).FindAllSubmatch(page, -1)
		n := 0
		for _, m := range inline {
			if len(m[1]) == 0 {
				continue
			}
			n++
			sum := sha256.Sum256(m[1])
			if !strings.Contains(sources[directive], base64.StdEncoding.EncodeToString(sum[:])) {
				t.Errorf("%s %.60q is not in the policy", element, m[1])
			}
		}
		if n == 0 || strings.Count(sources[directive], "sha256-") != n {
			t.Errorf("%d inline %s elements and %q", n, element, sources[directive])
		}
	}
}

func TestTheDocumentIsServedAsWrittenAndAsGenerated(t *testing.T) {
	t.Parallel()
	s := serve(t)
	_, source, _ := s.call(t, http.MethodGet, "/openapi.yaml", "", "Authorization", "Bearer none")
	_, embedded, _ := s.call(t, http.MethodGet, "/openapi.json", "", "Authorization", "Bearer none")
	if !bytes.Equal(source, openapi.YAML) {
		t.Error("the YAML is not the source")
	}
	if a, b := normalized(t, source), normalized(t, embedded); a != b {
		t.Error("YAML and JSON differ: generate again")
	}
}

// normalized writes a document without what it says by default.
func normalized(t *testing.T, document []byte) string {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
