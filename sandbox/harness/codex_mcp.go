package harness

import (
	"regexp"
	"time"
)

// codexSettled is when a server has either started or failed.
const codexSettled = (codexMCPStart + 10) * time.Second

var (
	codexMCPFailed = regexp.MustCompile(`MCP server startup failed server_name="?([a-z][a-z0-9_-]*)"? error=(.*)`)
	codexMCPListed = regexp.MustCompile(`list_tools_for_client_uncached\{server_name="?([a-z][a-z0-9_-]*)"?\}: codex_mcp::rmcp_client: close`)
	codexRustType  = regexp.MustCompile(`\[codex_[^\]]*\]\s*`)
)

// mcpLog is codex's log. It tells at once of servers that codex does not speak with.
func (s *codexSetup) mcpLog() *mcpLog {
	l := newMCPLog(s.config, codexSettled, s.redact)
	l.files = func() []string { return []string{s.log} }
	l.read = func(_, line string) (server, status, message string) {
		if m := codexMCPFailed.FindStringSubmatch(line); m != nil {
			return m[1], mcpFailed, codexRustType.ReplaceAllString(m[2], "")
		}
		if m := codexMCPListed.FindStringSubmatch(line); m != nil {
			return m[1], mcpConnected, ""
		}
		return "", "", ""
	}
	for _, server := range s.servers {
		if server.Kind == MCPSSE {
			l.tell(mcpEvent{Kind: "mcp", Server: server.Name, Status: "unsupported", Message: "codex speaks no MCP over server-sent events"})
			continue
		}
		l.status[server.Name] = "unknown"
	}
	return l
}
