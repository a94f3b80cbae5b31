package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
)

// operations calls visit for every operation of the document, with ids filled in.
func operations(t *testing.T, visit func(method, path string, anonymous, takesBody bool)) {
	t.Helper()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	id := "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
	fill := strings.NewReplacer("{agent_id}", id, "{session_id}", id, "{turn_id}", id)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			visit(method, fill.Replace(path), op.Security != nil && len(*op.Security) == 0, op.RequestBody != nil)
		}
	}
}

func TestEveryOperationRefusesCallersWithoutTheKeyUnlessItIsAnonymous(t *testing.T) {
	t.Parallel()
	s := serve(t)
	anonymous := apitest.HTTPClient(t, "")
	checked := 0
	operations(t, func(method, path string, open, _ bool) {
		checked++
		for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + masterKey, masterKey, "Bearer " + masterKey + " x", "Bearer " + masterKey[:25]} {
			req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if header != "" {
				req.Header.Set("Authorization", header)
			}
			resp, err := anonymous.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if open != (resp.StatusCode != http.StatusUnauthorized) {
				t.Errorf("%s %s with %q: %d", method, path, header, resp.StatusCode)
			}
		}
	})
	if checked < 15 {
		t.Errorf("only %d operations", checked)
	}
}

func TestTheKeyIsCheckedBeforeAnythingOfABodyIsRead(t *testing.T) {
	t.Parallel()
	s := serve(t)
	operations(t, func(method, path string, open, body bool) {
		if open || !body {
			return
		}
		// The body is announced and never sent: whoever waits for it does not answer.
		for _, length := range []string{"Content-Length: 100", "Content-Length: 999999999999", "Transfer-Encoding: chunked"} {
			if got := raw(t, s.url, method+" "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: text/x\r\n"+length+"\r\n\r\n"); got != 401 {
				t.Errorf("%s %s, %s: %d", method, path, length, got)
			}
		}
	})
}

// raw sends bytes and returns the status of the answer.
func raw(t *testing.T, url, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestUnknownPathsBelowAPINeedTheKeyAndOthersDoNot(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for path, want := range map[string]int{"/api": 401, "/api/": 401, "/api/v1/nothing": 401, "/nothing": 404, "/": 404, "/docs/nothing": 404} {
		if got := raw(t, s.url, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	if got := raw(t, s.url, "GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+masterKey+"\r\nAuthorization: Bearer x\r\n\r\n"); got != 200 {
		t.Errorf("health with two keys: %d", got)
	}
	good, bad := "Authorization: Bearer "+masterKey+"\r\n", "Authorization: Bearer x\r\n"
	for _, headers := range []string{good + bad, bad + good} {
		if got := raw(t, s.url, "GET "+agentsPath+" HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n"); got != 401 {
			t.Errorf("agents with two keys: %d", got)
		}
	}
	resp, _, e := s.call(t, http.MethodGet, "/api/v1/nothing", "")
	refused(t, resp, e, 404, "not_found")
}

func TestAMethodThatAPathDoesNotHaveIs405WithAllow(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for _, method := range []string{"PUT", "OPTIONS", "HEAD", "TRACE", "PROPFIND"} {
		resp, _, e := s.call(t, method, agentsPath, "")
		if allow := resp.Header.Get("Allow"); resp.StatusCode != 405 || allow != "GET, POST" || method != "HEAD" && e.Code != "method_not_allowed" {
			t.Errorf("%s: %d %q %+v", method, resp.StatusCode, allow, e)
		}
	}
}

func TestARequestIDIsTheCallersIfItIsSane(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for id, kept := range map[string]bool{
		"a": true, "A.b_c-9": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "a b": false, `"`: false, "ä": false,
	} {
		resp, _, e := s.call(t, http.MethodGet, agentsPath+"/x", "", "X-Request-Id", id)
		got := resp.Header.Get("X-Request-Id")
		if (got == id) != kept || e.RequestID != got {
			t.Errorf("%q: header %q, body %q", id, got, e.RequestID)
		}
	}
}

func TestOnlyAllowedOriginsGetCORSHeaders(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *api.Options, _ *session.Options) { o.Origins = []string{"https://console.example.com"} })
	ask := func(method, origin string) *http.Response {
		resp, _, _ := s.call(t, method, "/healthz", "", "Origin", origin, "Access-Control-Request-Method", "POST", "Authorization", "Bearer none")
		return resp
	}
	ok := ask(http.MethodOptions, "https://console.example.com")
	if ok.StatusCode != 204 || ok.Header.Get("Access-Control-Allow-Origin") != "https://console.example.com" ||
		!strings.Contains(ok.Header.Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %d %v", ok.StatusCode, ok.Header)
	}
	if resp := ask(http.MethodGet, "https://console.example.com"); resp.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("simple request: %v", resp.Header)
	}
	for _, origin := range []string{"https://evil.example.com", "null", "https://console.example.com.evil.net", "http://console.example.com"} {
		for _, method := range []string{http.MethodOptions, http.MethodGet} {
			if resp := ask(method, origin); resp.Header.Get("Access-Control-Allow-Origin") != "" || resp.Header.Get("Vary") != "Origin" {
				t.Errorf("%s from %s: %v", method, origin, resp.Header)
			}
		}
	}
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	leading := false
	s := serve(t, func(o *api.Options, _ *session.Options) { o.Leading = func() bool { return leading } })
	get := func(path string) string {
		resp, body, _ := s.call(t, http.MethodGet, path, "")
		return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(body)))
	}
	if got := get("/healthz"); got != `200 {"status":"ok","version":"1.2.3"}` {
		t.Error(got)
	}
	if got := get("/readyz"); got != `200 {"controller":"waiting","database":"ok","gateway":"configured","status":"ready"}` {
		t.Error(got)
	}
	leading = true
	s.close()
	if got := get("/readyz"); got != `503 {"controller":"leading","database":"ok","gateway":"configured","status":"not ready"}` {
		t.Error(got)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := api.New(api.Options{MasterKey: "x"}); err == nil {
		t.Error("no error")
	}
}

func TestASlowHeaderIsCutOff(t *testing.T) {
	t.Parallel()
	hs := api.NewServer(http.NotFoundHandler())
	if hs.ReadHeaderTimeout <= 0 || hs.IdleTimeout <= 0 || hs.MaxHeaderBytes != 64<<10 || hs.WriteTimeout != 0 || hs.ReadTimeout != 0 {
		t.Errorf("server %+v", hs)
	}
	s := serve(t)
	if got := raw(t, s.url, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 80<<10)+"\r\n\r\n"); got != 431 {
		t.Errorf("long header: %d", got)
	}
}

func TestAPanicIsA500WithoutItsCause(t *testing.T) {
	t.Parallel()
	s := serve(t, func(o *api.Options, _ *session.Options) { o.Leading = func() bool { panic("cause-4711") } })
	plain := &http.Client{Transport: &http.Transport{}}
	defer plain.CloseIdleConnections()
	resp, err := plain.Get(s.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 500 || !strings.Contains(string(body), `"code":"internal"`) || strings.Contains(string(body), "4711") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if log := s.logs.String(); !strings.Contains(log, "cause-4711") || !strings.Contains(log, `"stack"`) || !strings.Contains(log, `"status":500`) {
		t.Errorf("log: %s", log)
	}
}
