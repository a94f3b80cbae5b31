package api_test

import (
	"bytes"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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
		if err != nil || report.Requests() != 400 {
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
	replaceIn := func(old, with string) func(*http.Response) error {
		return func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			body = bytes.ReplaceAll(body, []byte(old), []byte(with))
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return err
		}
	}
	var made atomic.Int64
	for name, c := range map[string]struct {
		request  func(*http.Request)
		response func(*http.Response) error
		want     string
	}{
		"an undocumented field":  {nil, replaceIn(`"branch":`, `"more":1,"branch":`), "more"},
		"a failing operation":    {nil, func(r *http.Response) error { r.StatusCode = 500; return nil }, "500"},
		"a secret":               {nil, replaceIn("********", "scr9z"), "holds a secret"},
		"a fault not listed":     {nil, replaceIn(`"field":"/`, `"field":"/x`), "is not listed"},
		"what was sent":          {nil, replaceIn(`"error":"`, `"error":"mrk7q `), "holds what was sent"},
		"a key that is not kept": {func(r *http.Request) { r.Header.Del("Idempotency-Key") }, nil, "want"},
		"everybody let in":       {func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+masterKey) }, nil, "want 401"},
		"another status": {nil, func(r *http.Response) error {
			if r.StatusCode == http.StatusCreated {
				r.StatusCode = http.StatusOK
			}
			return nil
		}, "status"},
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
				if first := r.Request.URL.Query().Get("limit") == "1" && r.StatusCode == 200; first || c.response == nil {
					return nil
				}
				return c.response(r)
			},
		}
		hs := httptest.NewServer(proxy)
		report, err := contract.Run(t.Context(), contract.Options{URL: hs.URL, Key: masterKey, Requests: 300, Seed: 2})
		hs.Close()
		if report == nil {
			t.Fatalf("%s: %v", name, err)
		}
		var junit bytes.Buffer
		if err := report.JUnit(&junit); err != nil {
			t.Fatal(err)
		}
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
