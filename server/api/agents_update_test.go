package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/client"
)

// patch changes an agent and returns its fields, having compared them with what is read then.
func (s *server) patch(t *testing.T, id, body string) map[string]string {
	t.Helper()
	resp, answer, _ := s.call(t, http.MethodPatch, agentsPath+"/"+id, body)
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %d %s", body, resp.StatusCode, answer)
	}
	got, read, _ := s.call(t, http.MethodGet, agentsPath+"/"+id, "")
	if string(answer) != string(read) || resp.Header.Get("ETag") != got.Header.Get("ETag") {
		t.Errorf("%s answers %s, and then there is %s", body, answer, read)
	}
	fields := fieldsOf(t, answer)
	if tag := resp.Header.Get("ETag"); tag != `"`+fields["version"]+`"` {
		t.Errorf("version %s has the ETag %s", fields["version"], tag)
	}
	return fields
}

func fieldsOf(t *testing.T, body []byte) map[string]string {
	t.Helper()
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(body, &raw); err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for name, value := range raw {
		fields[name] = string(value)
	}
	return fields
}

const fullAgent = `{"model":"m","name":"n","prompt":"p","requirements":"r","repo_url":"https://h/r","branch":"b","mcp_servers":["https://m"],
	"allow_out":["a.example"],"deny_out":["b.example"],"env_vars":{"A":"1","B":"2"},"pfp_url":"https://h/p","idle_timeout_ms":60000,
	"sandbox_files":[{"name":"f","sandbox_path":"/tmp/f","content":"aGVsbG8K","content_type":"text/plain"}]}`

const helloSHA256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"

// patches are a new value of each field, what is answered for it, and what for null.
var patches = map[string]struct{ value, answer, null string }{
	"model":           {`"m2"`, `"m2"`, ``},
	"name":            {`"Ünï <b>"`, `"Ünï <b>"`, `null`},
	"prompt":          {`""`, `""`, `null`},
	"requirements":    {`"ruff\n"`, `"ruff\n"`, `null`},
	"repo_url":        {`"https://h/r2"`, `"https://h/r2"`, `null`},
	"branch":          {`"b2"`, `"b2"`, `"main"`},
	"mcp_servers":     {`["stdio:x","https://m"]`, `["stdio:x","https://m"]`, `[]`},
	"allow_out":       {`["a.example","c.example"]`, `["a.example","c.example"]`, `[]`},
	"deny_out":        {`["::1"]`, `["::1"]`, `[]`},
	"env_vars":        {`{"A":"1","C":"3"}`, `{"A":"********","C":"********"}`, `{}`},
	"pfp_url":         {`"https://h/p2"`, `"https://h/p2"`, `null`},
	"idle_timeout_ms": {`604800000`, `604800000`, `86400000`},
	"sandbox_files": {`[{"name":"g","sandbox_path":"~/g","content":""},{"name":"f","sandbox_path":"/tmp/f2","content":"aGVsbG8K"}]`,
		`[{"content_type":"application/octet-stream","name":"g","sandbox_path":"~/g","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},` +
			`{"content_type":"application/octet-stream","name":"f","sandbox_path":"/tmp/f2","sha256":"` + helloSHA256 + `","size":6}]`, `[]`},
}

func TestEveryFieldChangesToAValueToNullAndBack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		spec, err := gen.GetSpec()
		if err != nil {
			t.Fatal(err)
		}
		for name, schema := range spec.Components.Schemas["AgentUpdate"].Value.Properties {
			p, ok := patches[name]
			if !ok {
				t.Errorf("no value of %s is tried", name)
				continue
			}
			a := s.newAgent(t, fullAgent)
			_, read, _ := s.call(t, http.MethodGet, agentsPath+"/"+a.ID, "")
			before, version := fieldsOf(t, read), 1
			expect := func(value, answer string) {
				t.Helper()
				for range 2 { // the second time nothing changes
					got := s.patch(t, a.ID, `{"`+name+`":`+value+`}`)
					if version++; got["version"] != fmt.Sprint(version) || got[name] != answer {
						t.Errorf("%s = %s: version %s, %s", name, value, got["version"], got[name])
					}
					want := maps.Clone(before)
					want[name], want["version"], want["updated_at"] = got[name], got["version"], got["updated_at"]
					if !maps.Equal(got, want) {
						t.Errorf("%s = %s changes another field: %v", name, value, got)
					}
					version--
				}
				version++
			}
			expect(p.value, p.answer)
			if schema.Value.Nullable {
				expect("null", p.null)
				expect(p.value, p.answer)
			} else {
				resp, _, e := s.call(t, http.MethodPatch, agentsPath+"/"+a.ID, `{"`+name+`":null}`)
				refused(t, resp, e, 400, "invalid_request", "/"+name)
			}
		}
	})
}

func TestAnEmptyPatchChangesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, fullAgent)
		_, before, _ := s.call(t, http.MethodGet, agentsPath+"/"+a.ID, "")
		if got := s.patch(t, a.ID, `{}`); !maps.Equal(got, fieldsOf(t, before)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestAnAgentReadCanBeSentBack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, fullAgent)
		_, read, _ := s.call(t, http.MethodGet, agentsPath+"/"+a.ID, "")
		fields := fieldsOf(t, read)
		var parts []string
		for name := range patches {
			parts = append(parts, `"`+name+`":`+fields[name])
		}
		if got := s.patch(t, a.ID, "{"+strings.Join(parts, ",")+"}"); got["version"] != "1" {
			t.Errorf("version %s", got["version"])
		}
		got := s.patch(t, a.ID, `{"env_vars":{"B":"********","A":"new","C":"*******"}}`)
		if got["version"] != "2" {
			t.Errorf("version %s", got["version"])
		}
		_, read, _ = s.call(t, http.MethodGet, agentsPath+"/"+a.ID+"?expand=env_vars,sandbox_files", "")
		fields = fieldsOf(t, read)
		if fields["env_vars"] != `{"A":"new","B":"2","C":"*******"}` || !strings.Contains(fields["sandbox_files"], `"content":"aGVsbG8K"`) {
			t.Errorf("stored: %s", read)
		}
	})
}

func TestAPatchIsCheckedAgainstWhatIsStored(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		other := s.newAgent(t, `{"model":"m","sandbox_files":[{"name":"o","sandbox_path":"/tmp/o","content":"b3RoZXI="}]}`)
		a := s.newAgent(t, fullAgent)
		entry := func(rest string) string { return `{"name":"x","sandbox_path":"/tmp/x"` + rest + `}` }
		for body, fields := range map[string][]string{
			`{"env_vars":{"A":"********","X":"********","Y":"********"}}`:                                                    {"/env_vars/X", "/env_vars/Y"},
			`{"sandbox_files":[` + entry(`,"sha256":"`+other.SandboxFiles[0].Sha256+`"`) + `]}`:                              {"/sandbox_files/0/sha256"},
			`{"sandbox_files":[` + entry(`,"sha256":"`+helloSHA256+`","size":5`) + `]}`:                                      {"/sandbox_files/0/size"},
			`{"sandbox_files":[` + entry(``) + `,` + entry(`,"content":null,"sha256":null`) + `]}`:                           {"/sandbox_files/0/content", "/sandbox_files/1/content"},
			`{"sandbox_files":[` + entry(`,"content":"","sha256":"`+helloSHA256+`"`) + `]}`:                                  {"/sandbox_files/0/sha256"},
			`{"sandbox_files":[` + entry(`,"content":"aGVsbG8K","size":7`) + `]}`:                                            {"/sandbox_files/0/size"},
			`{"sandbox_files":[` + entry(`,"sha256":"`+strings.ToUpper(helloSHA256)+`"`) + `]}`:                              {"/sandbox_files/0/sha256"},
			`{"env_vars":{"X":"********"},"sandbox_files":[` + entry(`,"sha256":"`+strings.Repeat("0", 64)+`"`) + `]}`:       {"/env_vars/X", "/sandbox_files/0/sha256"},
			`{"name":1,"env_vars":{"PORT":"********"},"repo_url":"ftp://x","allow_out":["*.com"],"pfp_url":"x","branch":""}`: {"/name", "/env_vars/PORT", "/repo_url", "/allow_out/0", "/pfp_url", "/branch"},
			`{"harness_id":"codex","skill_ids":[],"id":"x","version":2}`:                                                     {"/harness_id", "/skill_ids", "/id", "/version"},
		} {
			resp, answer, e := s.call(t, http.MethodPatch, agentsPath+"/"+a.ID, body)
			refused(t, resp, e, 400, "invalid_request", fields...)
			if strings.Contains(string(answer), "********") {
				t.Errorf("a value is in the answer: %s", answer)
			}
		}
		for _, good := range []string{entry(`,"sha256":"` + helloSHA256 + `","size":6`), entry(`,"content":"aGVsbG8K","sha256":"` + helloSHA256 + `"`)} {
			s.patch(t, a.ID, `{"sandbox_files":[`+good+`]}`)
		}
		if got := s.patch(t, a.ID, `{}`); got["version"] != "2" {
			t.Errorf("version %s", got["version"])
		}
	})
}

func TestTheLimitOfEnvVarsCountsWhatMasksStandFor(t *testing.T) {
	t.Parallel()
	s := serve(t)
	// Compact JSON of {"A":"…","B":"…"} has 15 bytes beside the values.
	a := s.newAgent(t, `{"model":"m","env_vars":{"A":"`+strings.Repeat("x", 16000)+`"}}`)
	patch := func(b int) (*http.Response, client.Error) {
		resp, _, e := s.call(t, http.MethodPatch, agentsPath+"/"+a.ID, `{"env_vars":{"A":"********","B":"`+strings.Repeat("y", b)+`"}}`)
		return resp, e
	}
	resp, e := patch(16384 - 16000 - 15 + 1)
	refused(t, resp, e, 400, "invalid_request", "/env_vars")
	if resp, e = patch(16384 - 16000 - 15); resp.StatusCode != 200 {
		t.Errorf("as much as there may be: %+v", e)
	}
	a = s.newAgent(t, `{"model":"m","env_vars":{"A":""}}`)
	if resp, e = patch(16384 - 15); resp.StatusCode != 200 {
		t.Errorf("a mask of an empty value: %+v", e)
	}
	resp, e = patch(16384 - 15 + 1)
	refused(t, resp, e, 400, "invalid_request", "/env_vars")
}

func TestTheLimitOfFilesCountsThoseThatAreKept(t *testing.T) {
	t.Parallel()
	s := serve(t)
	file := func(rest string) string { return `{"name":"x","sandbox_path":"/tmp/x",` + rest + `}` }
	content := func(n int) string { return file(`"content":"` + strings.Repeat("A", n) + `"`) }
	a := s.newAgent(t, `{"model":"m","sandbox_files":[`+content(6_000_000)+`]}`)
	kept := file(`"sha256":"` + a.SandboxFiles[0].Sha256 + `"`)
	for _, list := range []string{kept + "," + kept, kept + "," + content(10485760-6_000_000+4), content(10485760) + "," + content(4)} {
		resp, _, e := s.call(t, http.MethodPatch, agentsPath+"/"+a.ID, `{"sandbox_files":[`+list+`]}`)
		refused(t, resp, e, 400, "invalid_request", "/sandbox_files")
	}
	s.patch(t, a.ID, `{"sandbox_files":[`+kept+","+content(10485760-6_000_000)+`]}`)
}

func TestChangesMayDependOnTheVersion(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, fullAgent)
		s.patch(t, a.ID, `{"name":"second"}`)
		path := agentsPath + "/" + a.ID
		for tag, status := range map[string]int{
			`"1"`: 412, `W/"2"`: 412, `"1", "3"`: 412, `"1",W/"2"`: 412, `""`: 412, `"02"`: 412, `"2 "`: 400, `2`: 400, `"2`: 400, `*, "2"`: 400,
			`"2" "3"`: 400, `,`: 400, `w/"2"`: 400, `"2"x`: 400,
		} {
			for _, method := range []string{http.MethodPatch, http.MethodDelete} {
				resp, _, e := s.call(t, method, path, `{"name":"third"}`, "If-Match", tag)
				if status == 412 {
					refused(t, resp, e, 412, "precondition_failed")
				} else {
					refused(t, resp, e, 400, "invalid_request", "header/If-Match")
				}
			}
		}
		if got := s.patch(t, a.ID, `{}`); got["version"] != "2" || got["name"] != `"second"` {
			t.Errorf("got %v", got)
		}
		version := 2
		for _, tag := range []string{`"%d"`, `*`, `"0", "%d"`, `W/"9",,"%d" ,`} {
			if strings.Contains(tag, "%") {
				tag = fmt.Sprintf(tag, version)
			}
			version++
			resp, body, _ := s.call(t, http.MethodPatch, path, fmt.Sprintf(`{"name":"%d"}`, version), "If-Match", tag)
			if resp.StatusCode != 200 || resp.Header.Get("ETag") != fmt.Sprintf(`"%d"`, version) {
				t.Errorf("%s: %d %s", tag, resp.StatusCode, body)
			}
		}
		resp, _, _ := s.call(t, http.MethodDelete, path, "", "If-Match", fmt.Sprintf(`"%d"`, version))
		if resp.StatusCode != 204 {
			t.Errorf("delete: %d", resp.StatusCode)
		}
		for _, method := range []string{http.MethodPatch, http.MethodDelete} {
			resp, _, e := s.call(t, method, path, `{"name":"late"}`, "If-Match", `"1"`)
			refused(t, resp, e, 404, "not_found")
		}
	})
}

func TestARefusedDeletionChangesNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		resp, _, e := s.call(t, http.MethodDelete, agentsPath+"/"+sess.AgentID, "", "If-Match", `"2"`)
		refused(t, resp, e, 412, "precondition_failed")
		got, err := s.client.GetSessionWithResponse(t.Context(), sess.ID)
		if err != nil || got.JSON200.Status != client.SessionStatusCreating {
			t.Errorf("session: %s, %v", got.Body, err)
		}
		if got := s.patch(t, sess.AgentID, `{}`); got["version"] != "1" {
			t.Errorf("agent: %v", got)
		}
	})
}

func TestOfConcurrentChangesOfOneVersionOneWins(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, fullAgent)
		const callers = 12
		statuses := make([]int, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				tag := `"1"`
				params := &client.UpdateAgentParams{IfMatch: &tag}
				body := strings.NewReader(fmt.Sprintf(`{"name":"%d"}`, i))
				resp, err := s.client.UpdateAgentWithBodyWithResponse(t.Context(), a.ID, params, "application/json", body)
				if err != nil {
					t.Error(err)
					return
				}
				statuses[i] = resp.StatusCode()
			})
		}
		wg.Wait()
		winner := -1
		for i, status := range statuses {
			switch {
			case status == 200 && winner < 0:
				winner = i
			case status != 412:
				t.Errorf("statuses %v", statuses)
			}
		}
		if got := s.patch(t, a.ID, `{}`); got["version"] != "2" || got["name"] != fmt.Sprintf(`"%d"`, winner) {
			t.Errorf("caller %d won, and there is %v", winner, got)
		}
	})
}

func TestSessionsKeepTheirVersion(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		old := s.newSession(t)
		s.patch(t, old.AgentID, `{"model":"newer"}`)
		fresh, err := s.client.CreateSessionWithResponse(t.Context(), old.AgentID, nil, client.SessionCreate{})
		if err != nil || fresh.JSON200 == nil || fresh.JSON200.AgentVersion != 2 {
			t.Errorf("new session: %s, %v", fresh.Body, err)
		}
		got, err := s.client.GetSessionWithResponse(t.Context(), old.ID)
		if err != nil || got.JSON200.AgentVersion != 1 {
			t.Errorf("old session: %s, %v", got.Body, err)
		}
	})
}
