package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
)

func TestEveryViolationIsListedAtOnceAndNothingIsStored(t *testing.T) {
	t.Parallel()
	s := serve(t)
	resp, body, e := s.call(t, http.MethodPost, agentsPath, `{
		"name": 7, "harness_id": "cursor-4711", "prompt": "`+strings.Repeat("x", 1048577)+`", "repo_url": "http://u:pw-4711@h/#f",
		"branch": "-x", "mcp_servers": ["ftp://x"], "allow_out": ["*.com", 3], "deny_out": ["https://x"],
		"env_vars": {"PORT": "1", "1A": "x", "OK": "x", "N": 4711, "a/b~c": ""}, "sandbox_files": [
			{"name": "", "sandbox_path": "/etc/passwd", "content": "%%%"},
			{"name": "n", "sandbox_path": "~/../x", "content": "aGk=", "size": 3, "mode": 1}],
		"pfp_url": "http://x", "idle_timeout_ms": 59999, "tools": [], "idle_timeout": 4711}`)
	refused(t, resp, e, 400, "invalid_request",
		"/model", "/name", "/harness_id", "/prompt", "/repo_url", "/branch", "/mcp_servers/0", "/allow_out/0", "/allow_out/1", "/deny_out/0",
		"/env_vars/PORT", "/env_vars/1A", "/env_vars/N", "/env_vars/a~1b~0c", "/sandbox_files/0/name", "/sandbox_files/0/sandbox_path",
		"/sandbox_files/0/content", "/sandbox_files/1/sandbox_path", "/sandbox_files/1/size", "/sandbox_files/1/mode", "/pfp_url",
		"/idle_timeout_ms", "/tools", "/idle_timeout")
	if strings.Contains(string(body), "4711") {
		t.Errorf("a submitted value is in the answer: %s", body)
	}
	list, err := s.client.ListAgentsWithResponse(t.Context(), nil)
	if err != nil || list.JSON200.Total.MustGet() != 0 {
		t.Errorf("agents: %s, %v", list.Body, err)
	}
}

func TestAMessageSaysWhichHarnessesThereAre(t *testing.T) {
	t.Parallel()
	s := serve(t)
	_, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m","harness_id":"x"}`)
	if len(e.Details) != 1 || e.Details[0].Message != "must be one of opencode, claude-agent-sdk, claude-code, codex" {
		t.Errorf("got %+v", e.Details)
	}
}

func TestBodiesMustBeOneStrictJSONValue(t *testing.T) {
	t.Parallel()
	s := serve(t)
	nest := func(n int) string {
		return `{"model":"m","x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for name, c := range map[string]struct{ body, field string }{
		"duplicate name":       {`{"model":"m","model":"n"}`, "/model"},
		"duplicate escaped":    {`{"model":"m","mod\u0065l":"n"}`, "/model"},
		"duplicate deep":       {`{"model":"m","env_vars":{"A":"1","A":"2"}}`, "/env_vars/A"},
		"invalid UTF-8":        {"{\"model\":\"\xff\"}", "/model"},
		"invalid UTF-8 name":   {"{\"\xc3\x28\":1}", ""},
		"lone high surrogate":  {`{"model":"\ud800"}`, "/model"},
		"lone low surrogate":   {`{"model":"\udc00x"}`, "/model"},
		"NUL in a value":       {`{"model":"a\u0000b"}`, "/model"},
		"NUL in a name":        {`{"env_vars":{"A\u0000":"x"}}`, "/env_vars/A\x00"},
		"raw NUL":              {"{\"model\":\"a\x00b\"}", "/model"},
		"second value":         {`{"model":"m"} {"model":"n"}`, ""},
		"trailing text":        {`{"model":"m"} x`, ""},
		"BOM":                  {"\ufeff" + `{"model":"m"}`, ""},
		"UTF-16":               {"\xff\xfe{\x00}\x00", ""},
		"nesting":              {nest(64), ""},
		"much nesting":         {strings.Repeat("[", 1<<19), ""},
		"cut off":              {`{"model":"m"`, ""},
		"empty":                {" ", ""},
		"not JSON":             {`model=m`, ""},
		"NaN":                  {`{"model":"m","idle_timeout_ms":NaN}`, "/idle_timeout_ms"},
		"comment":              {`{"model":"m"/**/}`, ""},
		"single quotes":        {`{'model':'m'}`, ""},
		"trailing comma":       {`{"model":"m",}`, ""},
		"control in a string":  {"{\"model\":\"a\nb\"}", "/model"},
		"unknown escape":       {`{"model":"\x41"}`, "/model"},
		"leading zero":         {`{"model":"m","idle_timeout_ms":060000}`, ""},
		"unterminated escapes": {`{"model":"\u12`, "/model"},
	} {
		resp, _, e := s.call(t, http.MethodPost, agentsPath, c.body)
		if resp.StatusCode != 400 || e.Code != "invalid_json" || len(e.Details) != 1 {
			t.Errorf("%s: %d %+v", name, resp.StatusCode, e)
		}
		if c.field != "" && (len(e.Details) == 0 || e.Details[0].Field != c.field) {
			t.Errorf("%s: at %+v, want %q", name, e.Details, c.field)
		}
	}
	resp, _, e := s.call(t, http.MethodPost, agentsPath, nest(63))
	refused(t, resp, e, 400, "invalid_request", "/x")
	for _, body := range []string{`null`, `[]`, `"x"`, `1`} {
		resp, _, e := s.call(t, http.MethodPost, agentsPath, body)
		refused(t, resp, e, 400, "invalid_request", "")
	}
}

func TestNamesAreMatchedExactly(t *testing.T) {
	t.Parallel()
	s := serve(t)
	resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m","Model":"n","MODEL":"o"}`)
	refused(t, resp, e, 400, "invalid_request", "/Model", "/MODEL")
}

func TestTextLimitsCountCodePoints(t *testing.T) {
	t.Parallel()
	s := serve(t)
	if a := s.newAgent(t, `{"model":"m","name":"`+strings.Repeat("𝄞", 256)+`"}`); len(a.Name.MustGet()) != 1024 {
		t.Errorf("got %d bytes", len(a.Name.MustGet()))
	}
	resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m","name":"`+strings.Repeat("𝄞", 257)+`"}`)
	refused(t, resp, e, 400, "invalid_request", "/name")
}

func TestEnvironmentLimits(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	env := func(keys, size int) string {
		m := map[string]string{}
		for i := range keys {
			m[fmt.Sprintf("K%02d", i)] = "ä\"\n"
		}
		b, _ := json.Marshal(m)
		m["K00"] += strings.Repeat("x", size-len(b))
		b, _ = json.Marshal(m)
		return string(b)
	}
	for _, c := range []struct {
		keys, size int
		ok         bool
	}{{50, 1000, true}, {51, 1000, false}, {1, 16384, true}, {1, 16385, false}, {50, 16384, true}, {50, 16385, false}} {
		for _, request := range []struct{ path, body string }{
			{agentsPath, `{"model":"m","env_vars":` + env(c.keys, c.size) + `}`},
			{agentsPath + "/" + sess.AgentID + "/session", `{"env_vars": ` + env(c.keys, c.size) + ` }`},
		} {
			resp, _, e := s.call(t, http.MethodPost, request.path, request.body)
			if c.ok && resp.StatusCode != 200 {
				t.Errorf("%+v: %d %+v", c, resp.StatusCode, e)
			}
			if !c.ok {
				refused(t, resp, e, 400, "invalid_request", "/env_vars")
			}
		}
	}
	for _, key := range strings.Fields("REPO_URL BRANCH LITELLM_API_KEY LITELLM_API_BASE LITELLM_DEFAULT_MODEL AGENT_PROMPT PORT GIT_TOKEN AGENT_REQUIREMENTS") {
		resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m","env_vars":{"`+key+`":"x"}}`)
		refused(t, resp, e, 400, "invalid_request", "/env_vars/"+key)
		resp, _, e = s.call(t, http.MethodPost, agentsPath+"/"+sess.AgentID+"/session", `{"env_vars":{"`+key+`":"x"}}`)
		refused(t, resp, e, 400, "invalid_request", "/env_vars/"+key)
	}
}

func TestFileContentsHaveALimitInAll(t *testing.T) {
	t.Parallel()
	s := serve(t)
	files := func(lengths ...int) string {
		var list []string
		for i, n := range lengths {
			list = append(list, fmt.Sprintf(`{"name":"f","sandbox_path":"/tmp/%d","content":"%s"}`, i, strings.Repeat("A", n)))
		}
		// A valid request goes on to look for the skill, which spares storing so much.
		return `{"model":"m","skill_ids":["x"],"sandbox_files":[` + strings.Join(list, ",") + `]}`
	}
	resp, _, e := s.call(t, http.MethodPost, agentsPath, files(10485756, 4))
	refused(t, resp, e, 404, "not_found")
	resp, _, e = s.call(t, http.MethodPost, agentsPath, files(10485760, 4))
	refused(t, resp, e, 400, "invalid_request", "/sandbox_files")
}

func TestTooLargeBodiesAre413AlsoWithoutALength(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	for path, limit := range map[string]int{
		agentsPath: 16 << 20,
		agentsPath + "/" + sess.AgentID + "/session": 8 << 20,
		sessionPath(sess.ID) + "/message":            32 << 20,
	} {
		for _, chunked := range []bool{false, true} {
			body := io.Reader(bytes.NewReader(bytes.Repeat([]byte(" "), limit+1)))
			if chunked {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := s.http.Do(req)
			if err != nil {
				t.Fatalf("%s, chunked %v: %v", path, chunked, err)
			}
			var e client.Error
			if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
				t.Error(err)
			}
			_ = resp.Body.Close()
			refused(t, resp, e, 413, "payload_too_large")
		}
	}
}

func TestBodiesMustSayTheyAreJSON(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for contentType, want := range map[string]int{
		"application/json": 200, "Application/JSON; charset=UTF-8": 200, "application/json;": 200,
		"application/json; charset=utf-16": 415, "text/plain": 415, "application/merge-patch+json": 415, "text/json": 415, "*/*": 415,
		"application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "": 415, "application/json, text/plain": 415,
	} {
		resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m"}`, "Content-Type", contentType)
		if resp.StatusCode != want || want == 415 && e.Code != "unsupported_media_type" {
			t.Errorf("%q: %d %+v", contentType, resp.StatusCode, e)
		}
	}
}

func TestOnlyTheBodyOfASessionMayBeAbsent(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	for _, body := range []string{"", "{}"} {
		if resp, b, _ := s.call(t, http.MethodPost, agentsPath+"/"+sess.AgentID+"/session", body); resp.StatusCode != 200 {
			t.Errorf("%q: %d %s", body, resp.StatusCode, b)
		}
	}
	for _, path := range []string{agentsPath, sessionPath(sess.ID) + "/message"} {
		resp, _, e := s.call(t, http.MethodPost, path, "")
		refused(t, resp, e, 400, "invalid_json", "")
	}
}

func TestIllFormedIDsInPathsAreUnknown(t *testing.T) {
	t.Parallel()
	s := serve(t)
	sess := s.newSession(t)
	upper := strings.ToUpper(sess.ID)
	for _, id := range []string{"x", "%00", "%2F", "..%2f..", "%27%22", upper, sess.ID + "%00", "%20" + sess.ID, strings.Repeat("x", 300), "%ff", "'%20OR%201=1", sess.ID + "x"} {
		for _, call := range []struct{ method, path, body string }{
			{"GET", agentsPath + "/" + id, ""}, {"DELETE", agentsPath + "/" + id, ""}, {"POST", agentsPath + "/" + id + "/session", "{}"},
			{"GET", sessionPath(id), ""}, {"DELETE", sessionPath(id), ""}, {"GET", sessionPath(id) + "/events", ""},
			{"POST", sessionPath(id) + "/message", `{"text":"x"}`}, {"GET", sessionPath(id) + "/turns/" + sess.ID, ""},
			{"GET", sessionPath(sess.ID) + "/turns/" + id, ""},
		} {
			resp, body, e := s.call(t, call.method, call.path, call.body)
			if resp.StatusCode != 404 || e.Code != "not_found" || strings.Contains(string(body), "OR") || len(body) > 400 {
				t.Errorf("%s %s: %d %s", call.method, call.path, resp.StatusCode, body)
			}
		}
	}
	for _, id := range []string{"x", upper, ""} {
		resp, _, e := s.call(t, "GET", "/api/v1/managed_agents/sessions?agent_id="+id, "")
		refused(t, resp, e, 400, "invalid_request", "query/agent_id")
	}
	resp, _, e := s.call(t, "GET", "/api/v1/managed_agents/sessions?status=alive", "")
	refused(t, resp, e, 400, "invalid_request", "query/status")
}

func TestABodyOfNothingButFaultsGivesABoundedAnswer(t *testing.T) {
	t.Parallel()
	s := serve(t)
	resp, body, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m","allow_out":[`+strings.Repeat("1,", 9_000)+`1]}`)
	if resp.StatusCode != 400 || len(e.Details) != 1000 || !strings.Contains(e.Error, "9002 violations") || len(body) > 100_000 {
		t.Errorf("%d, %d details, %d bytes, %s", resp.StatusCode, len(e.Details), len(body), e.Error)
	}
	resp, _, e = s.call(t, http.MethodPost, agentsPath, `{"model":"m","allow_out":[`+strings.Repeat("1,", 5<<20)+`1]}`)
	refused(t, resp, e, 400, "invalid_json", "")
}

func TestABodyThatNeverEndsIsCutOffAndALongReplyIsNot(t *testing.T) {
	t.Parallel()
	const timeout = 200 * time.Millisecond
	s := serve(t, func(o *api.Options, _ *session.Options) { o.BodyTimeout = timeout })
	head := "POST " + agentsPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + masterKey + "\r\n"
	for _, rest := range []string{"Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"} {
		if got := raw(t, s.url, head+rest); got != 400 {
			t.Errorf("%q: %d", rest, got)
		}
	}
	sess := s.newSession(t)
	status := make(chan int, 1)
	sent := time.Now()
	go func() {
		resp, _, _ := s.call(t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"x"}`)
		status <- resp.StatusCode
	}()
	eventually(t, "the body's time is over", func() bool { return time.Since(sent) > 2*timeout })
	s.endTurn(t, sess.ID, session.TurnCompleted, reply)
	if got := <-status; got != 200 {
		t.Errorf("reply: %d", got)
	}
}
