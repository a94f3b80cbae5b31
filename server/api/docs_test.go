package api_test

import (
	"bytes"
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
	for _, path := range []string{"/docs", "/docs/", "/docs/guide", "/docs/guide/", "/docs/guide/concepts"} {
		resp, page, _ := s.call(t, http.MethodGet, path, "", "Authorization", "Bearer none")
		if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
		}
		needed := regexp.MustCompile(`<(?:script|link|img)[^>]* (?:src|href)="([^"]*)"`).FindAllSubmatch(page, -1)
		if len(needed) < 2 {
			t.Errorf("%s needs %d files", path, len(needed))
		}
		for _, m := range needed {
			asset := string(m[1])
			if !strings.HasPrefix(asset, "/docs/") {
				t.Errorf("%s needs %s", path, asset)
				continue
			}
			resp, body, _ := s.call(t, http.MethodGet, asset, "")
			if resp.StatusCode != 200 || len(body) == 0 {
				t.Errorf("%s: %d", asset, resp.StatusCode)
			}
			for suffix, want := range map[string]string{".js": "javascript", ".css": "css", ".png": "image/png"} {
				if ct := resp.Header.Get("Content-Type"); strings.HasSuffix(asset, suffix) && !strings.Contains(ct, want) {
					t.Errorf("%s has type %q", asset, ct)
				}
			}
		}
		checkPolicy(t, resp.Header.Get("Content-Security-Policy"), page)
	}
	for _, path := range []string{"/docs/index.html", "/docs/embed.go", "/docs/..%2fx", "/docs/x/y", "/docs/swagger-ui.js", "/docs/guide/none", "/docs/guide/index.md", "/docs/guide/..%2fx"} {
		resp, _, e := s.call(t, http.MethodGet, path, "")
		refused(t, resp, e, 404, "not_found")
	}
}

// checkPolicy makes sure that a browser runs files of this server only, and that the page has nothing within it that would not run.
func checkPolicy(t *testing.T, policy string, page []byte) {
	t.Helper()
	sources := map[string]string{}
	for directive := range strings.SplitSeq(policy, ";") {
		name, list, _ := strings.Cut(strings.TrimSpace(directive), " ")
		sources[name] = list
	}
	for _, list := range sources {
		if list != "'none'" && list != "'self'" && list != "'self' data:" {
			t.Errorf("policy %q", policy)
		}
	}
	if sources["default-src"] != "'none'" || sources["frame-ancestors"] != "'none'" || sources["style-src"] != "'self'" {
		t.Errorf("policy %q", policy)
	}
	if inside := regexp.MustCompile(`(?s)<script[^>]*>[^<]|<style| on[a-z]+="|javascript:`).Find(page); inside != nil {
		t.Errorf("the page has %q in it", inside)
	}
	if bytes.Contains(page, []byte("<script")) != (sources["script-src"] == "'self'") {
		t.Errorf("policy %q does not suit the page", policy)
	}
}

func TestTheNotesOfSwaggerUIAreAboutOperations(t *testing.T) {
	t.Parallel()
	s := serve(t)
	_, script, _ := s.call(t, http.MethodGet, "/docs/docs.js", "")
	list := regexp.MustCompile(`(?s)const notes = \{\n(.*?)\n\};`).FindSubmatch(script)
	if list == nil {
		t.Fatal("there are no notes")
	}
	known := map[string]bool{}
	doc, err := openapi3.NewLoader().LoadFromData(openapi.YAML)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range doc.Paths.Map() {
		for _, o := range item.Operations() {
			known[o.OperationID] = true
		}
	}
	notes := regexp.MustCompile(`(?m)^  (\w+): `).FindAllSubmatch(list[1], -1)
	for _, m := range notes {
		if !known[string(m[1])] {
			t.Errorf("there is a note on %s", m[1])
		}
	}
	if len(notes) < 5 {
		t.Errorf("%d notes", len(notes))
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
