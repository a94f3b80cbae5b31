package api_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/litellm-agent-platform/lap/server/contract"
)

func TestAContractRunFindsNothingWrongAndLeavesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		kept := s.newAgent(t, `{"model":"m"}`)
		report, err := contract.Run(t.Context(), contract.Options{URL: s.url + "/", Key: masterKey, Requests: 400, Seed: 1})
		if err != nil || report.Requests() < 400 {
			t.Fatalf("%v, %+v", err, report)
		}
		for _, c := range report.Cases {
			if c.Faults > 0 {
				t.Errorf("%s, %s: %s", c.Operation, c.Kind, c.Wrong[0])
			}
		}
		for path, want := range map[string]float64{agentsPath: 1, "/api/v1/skills": 0, strings.TrimSuffix(sessionPath(""), "/"): 0} {
			if _, body, _ := s.call(t, http.MethodGet, path, ""); field(body, "total") != want {
				t.Errorf("%s: %s", path, body)
			}
		}
		if resp, _, _ := s.call(t, http.MethodGet, agentsPath+"/"+kept.ID, ""); resp.StatusCode != http.StatusOK {
			t.Errorf("the agent of somebody else: %d", resp.StatusCode)
		}
	})
}

func TestAContractRunFindsWhatADeploymentDoesWrong(t *testing.T) {
	t.Parallel()
	s := serve(t)
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	statuses := map[string]func(*http.Response) error{}
	for _, status := range []int{200, 418, 500, 502} {
		statuses[strconv.Itoa(status)] = func(r *http.Response) error {
			if r.Request.Method == http.MethodPost && r.StatusCode == http.StatusCreated || status != 200 {
				r.StatusCode = status
			}
			return nil
		}
	}
	without := func(name string) func(*http.Response) error {
		return func(r *http.Response) error { r.Header.Del(name); return nil }
	}
	// rows changes the rows of pages that a cursor leads to.
	rows := func(change func([]any) []any) func(*http.Response) error {
		return editing(func(r *http.Request, body map[string]any) {
			if data, ok := body["data"].([]any); ok && r.URL.Query().Has("cursor") && len(data) > 0 {
				body["data"] = change(data)
			}
		})
	}
	var made atomic.Int64
	for name, c := range map[string]struct {
		request  func(*http.Request)
		response func(*http.Response) error
		want     string
	}{
		"an undocumented field":   {nil, replaceIn(`"branch":`, `"more":1,"branch":`), "more"},
		"a field that is missing": {nil, replaceIn(`"branch":`, `"twig":`), "branch"},
		"a field of another type": {nil, replaceIn(`"supports_tui":false`, `"supports_tui":"no"`), "supports_tui"},
		"a failing operation":     {nil, statuses["500"], "500"},
		"a gateway's failure":     {nil, statuses["502"], "502"},
		"an undocumented status":  {nil, statuses["418"], "status 418 is not documented"},
		"another status":          {nil, statuses["200"], "status"},
		"a secret":                {nil, replaceIn("********", "scr9z"), "holds a secret"},
		"a secret in a header": {nil, func(r *http.Response) error {
			r.Header.Set("X-Debug", r.Request.Header.Get("Authorization"))
			return nil
		}, "X-Debug holds a secret"},
		"a fault not listed":                {nil, replaceIn(`"field":"/`, `"field":"/x`), "is not listed"},
		"another code":                      {nil, replaceIn(`"code":"not_found"`, `"code":"missing"`), "not_found"},
		"an error of another shape":         {nil, replaceIn(`"error":`, `"message":`), "message"},
		"what was sent":                     {nil, replaceIn(`"error":"`, `"error":"mrk7q `), "holds what was sent"},
		"another content type":              {nil, func(r *http.Response) error { r.Header.Set("Content-Type", "text/html"); return nil }, "text/html"},
		"no request id":                     {nil, without("X-Request-Id"), "X-Request-Id"},
		"a request id of its own":           {func(r *http.Request) { r.Header.Del("X-Request-Id") }, nil, "request id"},
		"no nosniff":                        {nil, without("X-Content-Type-Options"), "X-Content-Type-Options"},
		"no ETag":                           {nil, without("Etag"), "ETag"},
		"no Allow":                          {nil, without("Allow"), "Allow"},
		"no WWW-Authenticate":               {nil, without("WWW-Authenticate"), "WWW-Authenticate"},
		"everybody let in":                  {func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+masterKey) }, nil, "want 401"},
		"a key that is not kept":            {func(r *http.Request) { r.Header.Del("Idempotency-Key") }, nil, "want"},
		"a repeat that does not say so":     {nil, without("Idempotency-Replayed"), "want Idempotency-Replayed"},
		"a condition that is not looked at": {func(r *http.Request) { r.Header.Del("If-Match") }, nil, "want 412"},
		"unknown fields taken":              {func(r *http.Request) { edit(r, func(b map[string]any) { delete(b, "unknown") }) }, nil, "for unknown field"},
		"a bound not kept":                  {func(r *http.Request) { edit(r, shortened) }, nil, "for maxLength"},
		"a wrong total": {nil, editing(func(_ *http.Request, body map[string]any) {
			if total, ok := body["total"].(float64); ok {
				body["total"] = total + 1
			}
		}), "the total of page"},
		"a row left out":  {nil, rows(func(data []any) []any { return data[1:] }), "the pages have the rows"},
		"a row twice":     {nil, rows(func(data []any) []any { return append(data, data[0]) }), "the pages have the rows"},
		"rows in a blend": {nil, rows(func(data []any) []any { slices.Reverse(data); return data }), "the pages have the rows"},
		"half of what is created refused": {func(r *http.Request) {
			if r.Method == http.MethodPost && made.Add(1)%2 == 0 {
				r.Header.Set("Content-Type", "text/plain")
			}
		}, nil, "good request is refused"},
	} {
		proxy := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				if c.request != nil {
					c.request(r.Out)
				}
			},
			ModifyResponse: func(r *http.Response) error {
				if first := r.Request.URL.RawQuery == "limit=1" && r.StatusCode == 200; first || c.response == nil {
					return nil
				}
				return c.response(r)
			},
		}
		hs := httptest.NewServer(proxy)
		// Ids are the server's, so a seed does not decide which faults come up; what one run does not meet another one does.
		var junit bytes.Buffer
		for seed := range uint64(30) {
			report, err := contract.Run(t.Context(), contract.Options{URL: hs.URL, Key: masterKey, Requests: 200, Seed: seed})
			if report == nil {
				t.Fatalf("%s: %v", name, err)
			}
			junit.Reset()
			if err := report.JUnit(&junit); err != nil {
				t.Fatal(err)
			}
			if report.Faults() > 0 && strings.Contains(junit.String(), c.want) {
				break
			}
		}
		hs.Close()
		var suite struct {
			Failures int `xml:"failures,attr"`
			Cases    []struct {
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		}
		if err := xml.Unmarshal(junit.Bytes(), &suite); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		failed := 0
		for _, tc := range suite.Cases {
			if tc.Failure != nil {
				failed++
			}
		}
		if suite.Failures == 0 || failed != suite.Failures || !strings.Contains(junit.String(), c.want) {
			t.Errorf("%s: %d of %d cases failed, none says %q", name, failed, len(suite.Cases), c.want)
		}
	}
}

func replaceIn(old, with string) func(*http.Response) error {
	return func(resp *http.Response) error {
		body, err := io.ReadAll(resp.Body)
		setBody(resp, bytes.ReplaceAll(body, []byte(old), []byte(with)))
		return err
	}
}

func setBody(resp *http.Response, body []byte) {
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
}

// editing changes answers that are JSON objects.
func editing(change func(*http.Request, map[string]any)) func(*http.Response) error {
	return func(resp *http.Response) error {
		body, err := io.ReadAll(resp.Body)
		var v map[string]any
		if json.Unmarshal(body, &v) == nil {
			change(resp.Request, v)
			body, _ = json.Marshal(v)
		}
		setBody(resp, body)
		return err
	}
}

// edit changes a request's body if it is a JSON object.
func edit(r *http.Request, change func(map[string]any)) {
	if r.Body == nil {
		return
	}
	body, _ := io.ReadAll(r.Body)
	var v map[string]any
	if json.Unmarshal(body, &v) == nil && v != nil {
		change(v)
		body, _ = json.Marshal(v)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// shortened cuts texts to what may be, as a server does that does not refuse them.
func shortened(body map[string]any) {
	for name, v := range body {
		if text, ok := v.(string); ok && len(text) > 60 {
			body[name] = strings.ToValidUTF8(text[:60], "")
		}
	}
}

func TestAContractRunNeedsADeploymentThatLetsItIn(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for name, o := range map[string]contract.Options{
		"no URL": {URL: "localhost:3000"}, "a wrong key": {URL: s.url, Key: "wrong"}, "nobody there": {URL: "http://127.0.0.1:1", Key: masterKey},
		"no API": {URL: s.url + "/docs", Key: masterKey},
	} {
		if report, err := contract.Run(t.Context(), o); err == nil {
			t.Errorf("%s: %+v", name, report)
		}
	}
}

func FuzzContractRuns(f *testing.F) {
	s := serve(f)
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		report, err := contract.Run(t.Context(), contract.Options{URL: s.url, Key: masterKey, Requests: 60, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range report.Cases {
			if c.Faults > 0 {
				t.Errorf("%s, %s: %s", c.Operation, c.Kind, c.Wrong[0])
			}
		}
	})
}
