package harness

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Kinds of MCP servers.
const (
	MCPHTTP  = "http"  // streamable HTTP
	MCPSSE   = "sse"   // HTTP with server-sent events
	MCPStdio = "stdio" // a command in the sandbox
)

// MCPServer is an MCP server as no harness in particular describes it.
type MCPServer struct {
	Name    string // unique; [a-z][a-z0-9_-]*
	Kind    string
	URL     string            // of MCPHTTP and MCPSSE
	Headers map[string]string // of MCPHTTP and MCPSSE
	Argv    []string          // of MCPStdio; at least the program
}

var (
	mcpName     = regexp.MustCompile(`^([a-z][a-z0-9_-]{0,31})=`)
	headerName  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	placeholder = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)
)

// ParseMCP reads the mcp_servers strings of the public API and fills each ${NAME} from env (KEY=value). What is filled in never
// adds a header or an argument. A command with shell operators runs under sh, which fills
// ${NAME} itself. Servers without a name are called mcp1, mcp2 … by their place; a repeated name gets a number.
func ParseMCP(specs, env []string) ([]MCPServer, error) {
	vars := envMap(env)
	taken := map[string]bool{}
	servers := make([]MCPServer, len(specs))
	for i, spec := range specs {
		rest := spec
		if m := mcpName.FindStringSubmatch(spec); m != nil {
			servers[i].Name = unique(m[1], taken)
			rest = spec[len(m[0]):]
		}
		if err := servers[i].parse(rest, vars); err != nil {
			return nil, fmt.Errorf("MCP server %d: %w", i+1, err)
		}
	}
	for i := range servers {
		if servers[i].Name == "" {
			servers[i].Name = unique(fmt.Sprintf("mcp%d", i+1), taken)
		}
	}
	return servers, nil
}

func unique(name string, taken map[string]bool) string {
	candidate := name
	for n := 2; taken[candidate]; n++ {
		candidate = fmt.Sprintf("%s-%d", name, n)
	}
	taken[candidate] = true
	return candidate
}

func (s *MCPServer) parse(spec string, vars map[string]string) error {
	if command, ok := strings.CutPrefix(spec, "stdio:"); ok {
		return s.parseCommand(command, vars)
	}
	s.Kind = MCPHTTP
	if rest, ok := strings.CutPrefix(spec, "sse+"); ok {
		s.Kind, spec = MCPSSE, rest
	}
	return s.parseURL(spec, vars)
}

func (s *MCPServer) parseURL(spec string, vars map[string]string) error {
	fields := strings.Split(spec, "#")
	raw, err := fill(fields[0], vars)
	if err != nil {
		return err
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return errors.New("it is neither an http or https URL with a host nor stdio:command")
	}
	s.URL = raw
	for _, field := range fields[1:] {
		name, value, found := strings.Cut(field, "=")
		if !found || !headerName.MatchString(name) {
			return errors.New("after # must come Header=value")
		}
		if value, err = fill(value, vars); err != nil {
			return err
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return fmt.Errorf("the value of header %s has control characters", name)
		}
		if s.Headers == nil {
			s.Headers = map[string]string{}
		}
		s.Headers[name] = value
	}
	return nil
}

func (s *MCPServer) parseCommand(command string, vars map[string]string) error {
	s.Kind = MCPStdio
	words, needsShell, err := splitWords(command)
	switch {
	case err != nil:
		return err
	case needsShell:
		s.Argv = []string{"sh", "-c", command}
		return nil
	case len(words) == 0:
		return errors.New("stdio: needs a command")
	}
	for _, w := range words {
		if w, err = fill(w, vars); err != nil {
			return err
		}
		s.Argv = append(s.Argv, w)
	}
	return nil
}

// splitWords splits as a shell does, with both kinds of quotes and backslashes. It reports operators that only a shell can run.
func splitWords(s string) (words []string, needsShell bool, err error) {
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for i, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == '\'':
			word.WriteRune(r)
		case r == '`' || r == '$' && strings.HasPrefix(s[i:], "$("):
			needsShell = true
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			needsShell = needsShell || strings.ContainsRune("|&;<>()", r)
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, false, errors.New("its command has an open quote")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, needsShell, nil
}

// fill replaces each ${NAME}; a variable that is not set is an error that names it.
func fill(s string, vars map[string]string) (string, error) {
	missing := ""
	filled := placeholder.ReplaceAllStringFunc(s, func(p string) string {
		name := p[2 : len(p)-1]
		value, ok := vars[name]
		if !ok && missing == "" {
			missing = name
		}
		return value
	})
	if missing != "" {
		return "", fmt.Errorf("it needs the environment variable %s, which is not set", missing)
	}
	return filled, nil
}

func envMap(env []string) map[string]string {
	m := make(map[string]string, len(env))
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			m[k] = v
		}
	}
	return m
}

// mcpSecrets are the parts of MCP servers that may be credentials.
func mcpSecrets(servers []MCPServer) (secrets []string) {
	for _, s := range servers {
		for _, value := range s.Headers {
			if len(value) >= minSecret {
				secrets = append(secrets, value)
			}
		}
		if strings.ContainsAny(s.URL, "?@") {
			secrets = append(secrets, s.URL)
		}
	}
	return secrets
}
