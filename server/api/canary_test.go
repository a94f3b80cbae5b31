package api_test

import (
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/session"
)

func TestPlantedSecretsAppearInNoLogListErrorOrEvent(t *testing.T) {
	t.Parallel()
	const canary = "canary-5f2c"
	s := serve(t, func(o *api.Options, _ *session.Options) { o.MasterKey = masterKey })
	var seen strings.Builder
	call := func(method, path, body string, headers ...string) {
		resp, b, _ := s.call(t, method, path, body, headers...)
		seen.WriteString(resp.Status)
		seen.Write(b)
		for name, values := range resp.Header {
			seen.WriteString(name + strings.Join(values, ""))
		}
	}
	secret := `"env_vars":{"TOKEN":"` + canary + `"}`
	a := s.newAgent(t, `{"model":"m",`+secret+`}`)
	call("POST", agentsPath, `{"model":"m",`+secret+`}`)
	call("GET", agentsPath, "")
	call("GET", agentsPath+"/"+a.ID, "")
	call("POST", agentsPath+"/"+a.ID+"/session", `{`+secret+`}`)
	call("GET", "/api/v1/managed_agents/sessions", "")
	sess := s.newSession(t)
	call("GET", sessionPath(sess.ID), "")
	call("GET", sessionPath(sess.ID)+"/events?follow=false", "")
	for _, body := range []string{
		`{"model":"m",` + secret + `,"harness_id":"` + canary + `"}`,
		`{"model":"m",` + secret + `,"branch":"-` + canary + `","repo_url":"https://` + canary + `@x/","pfp_url":"` + canary + `"}`,
		`{"model":"m","env_vars":{"TOKEN":["` + canary + `"]},"allow_out":["https://` + canary + `"],"mcp_servers":["` + canary + `"]}`,
		`{"model":"m",` + secret + `} "` + canary + `"`,
		`{"model":"m",` + secret + `,` + secret + `}`,
		`{"model":"m",` + secret + ` ` + canary,
		`{"model":"m",` + secret + `,"sandbox_files":[{"name":"n","sandbox_path":"/etc/` + canary + `","content":"` + canary + `"}],"idle_timeout_ms":"` + canary + `"}`,
	} {
		call("POST", agentsPath, body)
	}
	call("POST", agentsPath, `{`+secret+`}`, "Content-Type", "text/"+canary)
	call("GET", agentsPath+"?limit="+canary+"&token="+canary+"&cursor="+canary, "")
	call("GET", "/api/v1/managed_agents/sessions?agent_id="+canary+"&status="+canary, "")
	call("POST", sessionPath(sess.ID)+"/message", `{"parts":[{"type":"`+canary+`"}]}`, "Idempotency-Key", "k "+canary)
	call("GET", "/nothing?token="+canary, "")
	call("GET", agentsPath, "", "Authorization", "Bearer "+canary)
	seen.WriteString(s.logs.String())
	if text := seen.String(); strings.Contains(text, canary) || strings.Contains(text, masterKey) {
		at := max(strings.Index(text, canary), strings.Index(text, masterKey))
		t.Errorf("a secret is in …%s…", text[max(0, at-300):min(len(text), at+50)])
	}
	if !strings.Contains(s.logs.String(), `"msg":"request handled"`) {
		t.Error("nothing was logged")
	}
}
