package harness_test

import (
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// mcpPattern is what the public API lets pass. It reads the specification's source, as this package may not import it.
func mcpPattern(tb testing.TB) *regexp.Regexp {
	tb.Helper()
	spec, err := os.ReadFile("../../openapi/openapi.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)mcp_servers: &agent_mcp_servers.*?pattern: '([^']+)'`).FindSubmatch(spec)
	if m == nil {
		tb.Fatal("mcp_servers has no pattern")
	}
	return regexp.MustCompile(string(m[1]))
}

func FuzzWhatTheAPITakesForAnMCPServerIsReadOrRefusedWithAReason(f *testing.F) {
	for _, spec := range []string{
		"https://h/x", "docs=https://h/mcp#Authorization=Bearer ${TOKEN}", "sse+http://h:80/x?y=z", "fs=stdio:npx -y 'a b' ${TOKEN}", "stdio:a | b", "stdio:x\ty \"z\\\"\"", "https://h/${TOKEN}", "https://${HOST}/x",
		"https://h/#A=b#", "https://h/#a b=c", "https://h/#=x", "stdio:'", "stdio:\\", "a=https://stdio:x/", "sse+stdio:x", "https://h/#A=b\nc", "stdio:\u00a0x", "https://[::1]/", "https://%zz/", "stdio:''", "a=stdio:$(id)", "https://h/${MISSING}",
	} {
		f.Add(spec, "value", "host")
	}
	f.Add("https://${HOST}/x#A=${TOKEN}", "x\r\nSet-Cookie: y", "h/#B=c")
	f.Add("stdio:run ${TOKEN}", "a b; rm -rf /", "")
	pattern := mcpPattern(f)
	named := regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)
	f.Fuzz(func(t *testing.T, spec, token, host string) {
		if !pattern.MatchString(spec) {
			return
		}
		servers, err := harness.ParseMCP([]string{spec, spec}, []string{"TOKEN=" + token, "HOST=" + host})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "MCP server 1: ") || len(token) > 8 && strings.Contains(err.Error(), token) {
				t.Errorf("%q: the reason is %q", spec, err)
			}
			return
		}
		if len(servers) != 2 || servers[0].Name == servers[1].Name {
			t.Fatalf("%q: %+v", spec, servers)
		}
		s, rest := servers[0], spec
		if m := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}=`).FindString(spec); m != "" {
			rest = spec[len(m):]
		}
		if !named.MatchString(s.Name) {
			t.Errorf("%q: is called %q", spec, s.Name)
		}
		if command := strings.HasPrefix(rest, "stdio:"); command != (s.Kind == harness.MCPStdio) || command != (len(s.Argv) > 0) || command != (s.URL == "") {
			t.Fatalf("%q: %+v", spec, s)
		}
		if s.Kind == harness.MCPStdio {
			if shell := len(s.Argv) == 3 && s.Argv[0] == "sh"; !shell && !strings.ContainsAny(rest, "'\"\\") && len(s.Argv) != len(strings.FieldsFunc(rest[len("stdio:"):], isBlank)) {
				t.Errorf("%q: %q", spec, s.Argv)
			}
			return
		}
		checkMCPURL(t, spec, rest, s, token)
	})
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }

func checkMCPURL(t *testing.T, spec, rest string, s harness.MCPServer, token string) {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil || !slices.Contains([]string{"http", "https"}, u.Scheme) || u.Hostname() == "" {
		t.Errorf("%q: its URL is %q, %v", spec, s.URL, err)
	}
	if sse := strings.HasPrefix(rest, "sse+"); sse != (s.Kind == harness.MCPSSE) {
		t.Errorf("%q: is %s", spec, s.Kind)
	}
	if len(s.Headers) > strings.Count(rest, "#") {
		t.Errorf("%q: %q adds a header: %q", spec, token, s.Headers)
	}
	for name, value := range s.Headers {
		if strings.ContainsAny(name+value, "\r\n\x00") || !strings.Contains(rest, "#"+name+"=") {
			t.Errorf("%q: header %q is %q", spec, name, value)
		}
	}
}
