package harness_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestParseMCPReadsEveryForm(t *testing.T) {
	t.Parallel()
	env := []string{"TOKEN=s3cr#t=1", "HOST=mcp.example.com", "PORT=8443", "SPACED=a b", "EMPTY="}
	for name, c := range map[string]struct {
		specs []string
		want  []harness.MCPServer
	}{
		"none": {nil, []harness.MCPServer{}},
		"streamable HTTP and SSE, named by place": {
			[]string{"https://a.example/mcp", "sse+http://b.example:8080/sse?x=1"},
			[]harness.MCPServer{
				{Name: "mcp1", Kind: harness.MCPHTTP, URL: "https://a.example/mcp"},
				{Name: "mcp2", Kind: harness.MCPSSE, URL: "http://b.example:8080/sse?x=1"},
			},
		},
		"names stay unique": {
			[]string{"mcp2=https://a.example", "https://b.example", "mcp2=https://c.example"},
			[]harness.MCPServer{
				{Name: "mcp2", Kind: harness.MCPHTTP, URL: "https://a.example"},
				{Name: "mcp2-3", Kind: harness.MCPHTTP, URL: "https://b.example"},
				{Name: "mcp2-2", Kind: harness.MCPHTTP, URL: "https://c.example"},
			},
		},
		"headers, and variables that cannot add one": {
			[]string{"s=https://${HOST}:${PORT}/mcp#Authorization=Bearer ${TOKEN}#X-Team=${EMPTY}"},
			[]harness.MCPServer{{
				Name: "s", Kind: harness.MCPHTTP, URL: "https://mcp.example.com:8443/mcp",
				Headers: map[string]string{"Authorization": "Bearer s3cr#t=1", "X-Team": ""},
			}},
		},
		"a command with quotes, and variables that cannot add an argument": {
			[]string{`fs=stdio:npx -y "my server" 'it''s' a\ b ${SPACED} --t=${TOKEN} ""`},
			[]harness.MCPServer{{
				Name: "fs", Kind: harness.MCPStdio,
				Argv: []string{"npx", "-y", "my server", "its", "a b", "a b", "--t=s3cr#t=1", ""},
			}},
		},
		"a command that needs a shell": {
			[]string{"stdio:cd sub && exec ./server ${UNSET_HERE}"},
			[]harness.MCPServer{{Name: "mcp1", Kind: harness.MCPStdio, Argv: []string{"sh", "-c", "cd sub && exec ./server ${UNSET_HERE}"}}},
		},
		"operators in quotes need none": {
			[]string{"stdio:run 'a|b' \"c;d\""},
			[]harness.MCPServer{{Name: "mcp1", Kind: harness.MCPStdio, Argv: []string{"run", "a|b", "c;d"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := harness.ParseMCP(c.specs, env)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestParseMCPNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	env := []string{"LINES=a\r\nb: c", "TOKEN=canary"}
	for spec, want := range map[string]string{
		"":                                    "neither",
		"ftp://a.example":                     "neither",
		"https://":                            "neither",
		"https:///path":                       "neither",
		"http://[::1":                         "neither",
		"Name=https://a.example":              "neither",
		"sse+stdio:x":                         "neither",
		"stdio:":                              "needs a command",
		"stdio:   ":                           "needs a command",
		"stdio:run 'open":                     "open quote",
		`stdio:run \`:                         "open quote",
		"stdio:run ${MISSING}":                "MISSING, which is not set",
		"https://${MISSING}/":                 "MISSING, which is not set",
		"https://a.example#X=${MISSING}":      "MISSING, which is not set",
		"https://a.example#NoValue":           "Header=value",
		"https://a.example#=x":                "Header=value",
		"https://a.example#A B=x":             "Header=value",
		"https://a.example#":                  "Header=value",
		"https://a.example#X=${LINES}":        "control characters",
		"https://a.example#X=a\x00":           "control characters",
		"https://a.example#Bad Name=${TOKEN}": "Header=value",
	} {
		_, err := harness.ParseMCP([]string{"https://fine.example", spec}, env)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "MCP server 2: ") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: error %v, want %q", spec, err, want)
		}
	}
}
