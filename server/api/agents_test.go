package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

func TestAnAgentKeepsEveryFieldItWasGiven(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		created := s.newAgent(t, `{
		"model": "anthropic/claude", "name": "n", "prompt": "p <!-- skill:x -->", "harness_id": "claude-code",
		"requirements": "ruff\n", "repo_url": "https://github.com/org/repo", "branch": "feature/x",
		"mcp_servers": ["docs=https://mcp.example.com/x#Authorization=Bearer ${TOKEN}", "docs=https://mcp.example.com/mcp#X-Key=${T}", "stdio:run me"],
		"allow_out": ["example.com", "*.example.net", "10.0.0.0/8"], "deny_out": ["::1"],
		"env_vars": {"A": "1", "_b2": ""}, "pfp_url": "https://example.com/x.png", "idle_timeout_ms": 6e4,
		"sandbox_files": [
			{"name": "f", "sandbox_path": "~/a/b", "content": "aGVsbG8K", "content_type": "text/plain", "size": 6},
			{"name": "empty", "sandbox_path": "/data/e", "content": "", "content_type": null, "size": null}
		]
	}`)
		got, err := s.client.GetAgentWithResponse(t.Context(), created.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.JSON200 == nil || fmt.Sprint(*got.JSON200) != fmt.Sprint(created) {
			t.Fatalf("read back %s", got.Body)
		}
		a := created
		for name, ok := range map[string]bool{
			"model": a.Model == "anthropic/claude", "name": a.Name.MustGet() == "n", "prompt": a.Prompt.MustGet() == "p <!-- skill:x -->",
			"harness": a.HarnessID == client.HarnessIDClaudeCode && a.SupportsTui, "requirements": a.Requirements.MustGet() == "ruff\n",
			"repo_url": a.RepoURL.MustGet() == "https://github.com/org/repo", "branch": a.Branch == "feature/x",
			"mcp": len(a.McpServers) == 3, "allow": len(a.AllowOut) == 3, "deny": len(a.DenyOut) == 1,
			"env": fmt.Sprint(a.EnvVars) == "map[A:******** _b2:********]", "pfp": a.PfpURL.MustGet() == "https://example.com/x.png",
			"idle": a.IdleTimeoutMs == 60000, "version": a.Version == 1, "skills": len(a.AttachedSkillIds) == 0,
			"file":  a.SandboxFiles[0].Size == 6 && a.SandboxFiles[0].ContentType == "text/plain" && a.SandboxFiles[0].Content == nil,
			"empty": a.SandboxFiles[1].Size == 0 && a.SandboxFiles[1].ContentType == "application/octet-stream",
			"sha":   a.SandboxFiles[1].Sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		} {
			if !ok {
				t.Errorf("%s: %+v", name, a)
			}
		}
	})
}

func TestNullInACreateBodyMeansAbsent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, `{"model":"m","name":null,"prompt":null,"harness_id":null,"requirements":null,"repo_url":null,"branch":null,
		"mcp_servers":null,"allow_out":null,"deny_out":null,"env_vars":null,"skill_ids":null,"sandbox_files":null,"pfp_url":null,
		"idle_timeout_ms":null}`)
		if a.HarnessID != "opencode" || a.Branch != "main" || a.IdleTimeoutMs != 86_400_000 || !a.Name.IsNull() || !a.RepoURL.IsNull() ||
			a.McpServers == nil || a.EnvVars == nil || a.SandboxFiles == nil {
			t.Errorf("got %+v", a)
		}
		resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":null}`)
		refused(t, resp, e, 400, "invalid_request", "/model")
	})
}

func TestClearValuesNeedExpandAndAreLogged(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		a := s.newAgent(t, `{"model":"m","env_vars":{"T":"secret-4711"},
		"sandbox_files":[{"name":"f","sandbox_path":"/tmp/f","content":"aGVsbG8K"},{"name":"e","sandbox_path":"/tmp/e","content":""}]}`)
		got, err := s.client.GetAgentWithResponse(t.Context(), a.ID, &client.GetAgentParams{
			Expand: []client.GetAgentParamsExpand{"env_vars", "sandbox_files"},
		})
		if err != nil {
			t.Fatal(err)
		}
		files := got.JSON200.SandboxFiles
		if got.JSON200.EnvVars["T"] != "secret-4711" || string(*files[0].Content) != "hello\n" || files[1].Content == nil || len(*files[1].Content) != 0 {
			t.Errorf("got %s", got.Body)
		}
		if log := s.logs.String(); !strings.Contains(log, `"msg":"secrets revealed"`) || !strings.Contains(log, a.ID) ||
			strings.Contains(log, "secret-4711") {
			t.Errorf("log: %s", log)
		}
		for _, what := range []string{"env_vars", "sandbox_files"} {
			resp, body, _ := s.call(t, http.MethodGet, agentsPath+"/"+a.ID+"?expand="+what, "", "X-Request-Id", "asked-"+what)
			if strings.Contains(string(body), "secret-4711") != (what == "env_vars") || strings.Contains(string(body), `"content":`) == (what == "env_vars") {
				t.Errorf("%s: %d %s", what, resp.StatusCode, body)
			}
			if want := `"expand":["` + what + `"],"request_id":"asked-` + what + `"`; !strings.Contains(s.logs.String(), want) {
				t.Errorf("%s is not in the log %s", want, s.logs)
			}
		}
		resp, _, e := s.call(t, http.MethodGet, agentsPath+"/"+a.ID+"?expand=env_vars,all", "")
		refused(t, resp, e, 400, "invalid_request", "query/expand")
	})
}

func TestAnUnknownSkillIs404AndNothingIsCreated(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		resp, _, e := s.call(t, http.MethodPost, agentsPath, `{"model":"m","skill_ids":["sk-1","sk-2"]}`)
		refused(t, resp, e, 404, "not_found")
		if e.Error != "skill 'sk-1' not found" {
			t.Errorf("error %q", e.Error)
		}
		list, err := s.client.ListAgentsWithResponse(t.Context(), nil)
		if err != nil || list.JSON200.Total.MustGet() != 0 {
			t.Errorf("agents: %s, %v", list.Body, err)
		}
	})
}

func TestADeletedAgentIsGoneAndItsSessionsEnd(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		sess := s.newSession(t)
		del, err := s.client.DeleteAgentWithResponse(t.Context(), sess.AgentID, nil)
		if err != nil || del.StatusCode() != 204 {
			t.Fatalf("delete: %v %v", del, err)
		}
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			resp, _, e := s.call(t, method, agentsPath+"/"+sess.AgentID, "")
			refused(t, resp, e, 404, "not_found")
			if e.Error != "agent '"+sess.AgentID+"' not found" {
				t.Errorf("error %q", e.Error)
			}
		}
		got, err := s.client.GetSessionWithResponse(t.Context(), sess.ID)
		if err != nil || got.JSON200 == nil || got.JSON200.Status != client.SessionStatusDead {
			t.Errorf("session: %s, %v", got.Body, err)
		}
		created, err := s.client.CreateSessionWithResponse(t.Context(), sess.AgentID, nil, client.SessionCreate{})
		if err != nil || created.StatusCode() != 404 {
			t.Errorf("create session: %s, %v", created.Body, err)
		}
	})
}

func TestListsPageByCursorAndOffset(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		var want []string
		for i := range 5 {
			want = append([]string{s.newAgent(t, fmt.Sprintf(`{"model":"m","name":"%d"}`, i)).ID}, want...)
		}
		var got []string
		limit, no := 2, false
		params := &client.ListAgentsParams{Limit: &limit, Total: &no}
		for {
			page, err := s.client.ListAgentsWithResponse(t.Context(), params)
			if err != nil || page.JSON200 == nil {
				t.Fatalf("list: %s, %v", page.Body, err)
			}
			if !page.JSON200.Total.IsNull() || page.JSON200.Limit != 2 || page.JSON200.Offset != 0 {
				t.Errorf("page %s", page.Body)
			}
			for _, a := range page.JSON200.Data {
				if a.SessionCount == nil || *a.SessionCount != 0 || a.HasActiveSession == nil || *a.HasActiveSession {
					t.Errorf("row %+v", a)
				}
				got = append(got, a.ID)
			}
			s.newAgent(t, `{"model":"later"}`)
			next, err := page.JSON200.NextCursor.Get()
			if err != nil {
				break
			}
			params.Cursor = &next
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		_, body, _ := s.call(t, http.MethodGet, agentsPath+"?limit=1&offset=7", "")
		if !strings.Contains(string(body), want[4]) || !strings.Contains(string(body), `"total":8`) {
			t.Errorf("by offset: %s", body)
		}
	})
}

func TestLimitsAndOffsetsAreClampedAndMustBeIntegers(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for query, want := range map[string]string{
		"limit=0": `"limit":1,`, "limit=-5": `"limit":1,`, "limit=201": `"limit":200,`,
		"limit=9223372036854775807": `"limit":200,`, "limit=92233720368547758080": `"limit":200,`,
		"offset=92233720368547758080": `"offset":9223372036854775807,`, "offset=-92233720368547758080": `"offset":0,`,
		"": `"limit":50,`, "offset=-1": `"offset":0,`, "offset=9223372036854775807": `"data":[],`,
	} {
		for _, path := range []string{agentsPath, "/api/v1/managed_agents/sessions"} {
			resp, body, _ := s.call(t, http.MethodGet, path+"?"+query, "")
			if resp.StatusCode != 200 || !strings.Contains(string(body), want) {
				t.Errorf("%s?%s: %d %s", path, query, resp.StatusCode, body)
			}
		}
	}
	uuid := "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
	key := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for query, field := range map[string]string{
		"limit=1.5": "query/limit", "limit=": "query/limit", "limit=1&limit=2": "query/limit",
		"offset=x": "query/offset", "total=maybe": "query/total", "limit=%zz": "query",
		"cursor=***": "query/cursor", "cursor=": "query/cursor", "cursor=" + key(`{}`): "query/cursor", "cursor=" + key(`{"t":1,"i":"x"}`): "query/cursor",
		"cursor=" + key(`{"t":-1,"i":"`+uuid+`"}`): "query/cursor", "cursor=" + key(`{"t":1,"i":"`+uuid+`","x":1}`): "query/cursor",
		"cursor=" + strings.Repeat("A", 1025): "query/cursor",
	} {
		resp, _, e := s.call(t, http.MethodGet, agentsPath+"?"+query, "")
		refused(t, resp, e, 400, "invalid_request", field)
	}
}
