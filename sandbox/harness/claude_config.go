package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// claudeLeastSilence is what claude waits for at least within an answer.
const claudeLeastSilence = 10_000 // milliseconds

// claudeMCP is an MCP server in claude's configuration; the names are claude's.
type claudeMCP struct {
	Type    string            `json:"type"`
	URL     string            `json:"url,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Command string            `json:"command,omitempty"`
	Args    []string          `json:"args,omitempty"`
}

// claudeSettings wins over the settings of the user and of the repository.
type claudeSettings struct {
	SkipPreflight   bool   `json:"skipWebFetchPreflight"` // the check asks a host outside
	SkipModeWarning bool   `json:"skipDangerousModePermissionPrompt"`
	Theme           string `json:"theme"`
}

// claudeSetup is what a claude, with or without a terminal, is started with.
type claudeSetup struct {
	args    []string
	env     []string
	session string
	resumed bool
	servers []MCPServer
	redact  func(string) string
}

// prepareClaude writes the files that claude is started with into the state directory.
func prepareClaude(c Config) (*claudeSetup, error) {
	servers, err := ParseMCP(c.MCP, c.Env)
	if err != nil {
		return nil, err
	}
	s := &claudeSetup{
		env: claudeEnv(c), session: c.Resume, servers: servers,
		redact: redactor(append(mcpSecrets(servers), c.Gateway.APIKey)...),
	}
	if s.session == "" {
		s.session = uuid.NewString()
	}
	if uuid.Validate(s.session) != nil || len(s.session) != 36 {
		return nil, errors.New("claude knows no conversation with the id to resume")
	}
	home := envMap(c.Env)["HOME"]
	if !filepath.IsAbs(home) {
		return nil, errors.New("HOME is not an absolute path")
	}
	mcp := map[string]map[string]claudeMCP{"mcpServers": claudeServers(servers)}
	settings := claudeSettings{SkipPreflight: true, SkipModeWarning: true, Theme: "dark"}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(c.StateDir, "tmp"), 0o700),
		writePrivateJSON(filepath.Join(c.StateDir, "mcp.json"), mcp),
		writePrivateJSON(filepath.Join(c.StateDir, "settings.json"), settings),
		writePrivate(filepath.Join(c.StateDir, "prompt.md"), []byte(c.Prompt)),
	); err != nil {
		return nil, fmt.Errorf("write claude's configuration: %w", err)
	}
	s.args = []string{
		"--strict-mcp-config", "--mcp-config", filepath.Join(c.StateDir, "mcp.json"),
		"--settings", filepath.Join(c.StateDir, "settings.json"),
	}
	if c.Prompt != "" {
		s.args = append(s.args, "--append-system-prompt-file", filepath.Join(c.StateDir, "prompt.md"))
	}
	s.resumed = c.Resume != "" && claudeTranscript(home, s.session) != ""
	if s.resumed {
		s.args = append(s.args, "--resume", s.session)
	} else {
		s.args = append(s.args, "--session-id", s.session)
	}
	return s, nil
}

func writePrivateJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writePrivate(path, b)
}

// claudeTranscript is the file of a conversation, which is there from the first message on; empty if there is none.
func claudeTranscript(home, session string) string {
	found, err := filepath.Glob(filepath.Join(globQuote(home), ".claude", "projects", "*", session+".jsonl"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0]
}

func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func claudeServers(servers []MCPServer) map[string]claudeMCP {
	m := make(map[string]claudeMCP, len(servers))
	for _, s := range servers {
		if s.Kind == MCPStdio {
			m[s.Name] = claudeMCP{Type: "stdio", Command: s.Argv[0], Args: s.Argv[1:]}
			continue
		}
		m[s.Name] = claudeMCP{Type: s.Kind, URL: s.URL, Headers: s.Headers}
	}
	return m
}

// claudeDiverts tells whether a variable would lead claude away from the gateway, its key or its files.
func claudeDiverts(name string) bool {
	return strings.HasPrefix(name, "CLAUDE_CODE_USE_") || slices.Contains([]string{
		"ANTHROPIC_API_KEY", "ANTHROPIC_UNIX_SOCKET", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_SIMPLE", "CLAUDE_CODE_SAFE_MODE",
	}, name)
}

// claudeEnv is the environment of the harness; of a name that is set twice the last one counts. As the provider is managed by the
// host, a repository's settings cannot send the requests elsewhere, and commands do not get the token.
func claudeEnv(c Config) []string {
	env := slices.DeleteFunc(slices.Clone(c.Env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return claudeDiverts(name)
	})
	silence := c.Silence
	if silence <= 0 {
		silence = silentFor
	}
	within := strconv.FormatInt(max(silence.Milliseconds(), claudeLeastSilence), 10)
	base := gatewayBase(c.Gateway.BaseURL)
	return append(env,
		"LITELLM_API_BASE="+base,
		"LITELLM_API_KEY="+c.Gateway.APIKey,
		"LITELLM_DEFAULT_MODEL="+c.Model,
		"ANTHROPIC_BASE_URL="+base,
		"ANTHROPIC_AUTH_TOKEN="+c.Gateway.APIKey,
		"ANTHROPIC_MODEL="+c.Model,
		"ANTHROPIC_DEFAULT_HAIKU_MODEL="+c.Model,
		"ANTHROPIC_DEFAULT_SONNET_MODEL="+c.Model,
		"ANTHROPIC_DEFAULT_OPUS_MODEL="+c.Model,
		"ANTHROPIC_DEFAULT_FABLE_MODEL="+c.Model,
		"ANTHROPIC_SMALL_FAST_MODEL="+c.Model,
		"CLAUDE_CODE_SUBAGENT_MODEL="+c.Model,
		"CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST=1",
		"IS_SANDBOX=1", // else it refuses to run as root
		"CLAUDE_CODE_SANDBOXED=1",
		"CLAUDE_CODE_TMPDIR="+filepath.Join(c.StateDir, "tmp"),
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		"CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL=1",
		"DISABLE_TELEMETRY=1",
		"DISABLE_ERROR_REPORTING=1",
		"DISABLE_AUTOUPDATER=1",
		"ENABLE_TOOL_SEARCH=0",
		"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS=1",
		"CLAUDE_CODE_ATTRIBUTION_HEADER=0",
		"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1",
		"CLAUDE_CODE_MAX_RETRIES="+strconv.Itoa(claudeRetries),
		"CLAUDE_ENABLE_BYTE_WATCHDOG=1",
		"CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS="+within,
		"CLAUDE_STREAM_FIRST_BYTE_TIMEOUT_MS="+within,
		"CLAUDE_STREAM_IDLE_TIMEOUT_MS="+within,
		"API_TIMEOUT_MS="+strconv.FormatInt(silence.Milliseconds(), 10),
	)
}
