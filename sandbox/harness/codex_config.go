package harness

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/pelletier/go-toml/v2"
)

const (
	codexProfile     = "lap"
	codexMCPStart    = 20                 // seconds that an MCP server may take to start
	codexContext     = 200_000            // what the model can do is not known, so these are those of current ones
	maxCodexArgument = 100 << 10          // Linux takes 128 KiB
	terminalMark     = "LAP_TERMINAL_RUN" // what a terminal finds its processes by
	minSecret        = 6                  // a shorter text is left in what is said: it would be found in ordinary words
)

// codexConfig is the part of codex's configuration that is written to its profile; the names are codex's. What a repository's own
// configuration must not change comes as arguments: see codexFixed.
type codexConfig struct {
	ContextWindow int                      `toml:"model_context_window"`
	Instructions  string                   `toml:"developer_instructions,omitempty"`
	Providers     map[string]codexProvider `toml:"model_providers"`
	Projects      map[string]codexProject  `toml:"projects"`
	TUI           codexTUI                 `toml:"tui"`
	MCP           map[string]codexMCP      `toml:"mcp_servers"`
	Shell         *codexShell              `toml:"shell_environment_policy,omitempty"`
}

type codexProvider struct {
	Name    string `toml:"name"`
	BaseURL string `toml:"base_url"`
	EnvKey  string `toml:"env_key"`
	WireAPI string `toml:"wire_api"`
}

type codexProject struct {
	Trust string `toml:"trust_level"`
}

type codexTUI struct {
	Tooltips   bool `toml:"show_tooltips"`
	Animations bool `toml:"animations"`
}

type codexMCP struct {
	URL     string            `toml:"url,omitempty"`
	Headers map[string]string `toml:"http_headers,omitempty"`
	Command string            `toml:"command,omitempty"`
	Args    []string          `toml:"args,omitempty"`
	EnvVars []string          `toml:"env_vars,omitempty"` // names of variables that it gets, besides a few
	Enabled *bool             `toml:"enabled,omitempty"`
	Startup int               `toml:"startup_timeout_sec,omitempty"`
}

type codexShell struct {
	Exclude []string          `toml:"exclude,omitempty"`
	Set     map[string]string `toml:"set,omitempty"`
}

// codexSetup is what is made before codex starts.
type codexSetup struct {
	config  Config
	home    *os.Root // codex's own
	args    []string
	env     []string
	resumes bool
	servers []MCPServer
	log     string // path of codex's log
	redact  func(string) string
}

// prepareCodex writes the configuration and the links that codex needs. The caller closes home.
func prepareCodex(c Config) (s *codexSetup, err error) {
	s = &codexSetup{config: c, log: filepath.Join(c.StateDir, "codex-tui.log")}
	if s.servers, err = ParseMCP(c.MCP, c.Env); err != nil {
		return nil, err
	}
	s.redact = redactor(append(mcpSecrets(s.servers), c.Gateway.APIKey)...)
	if err := s.openHome(); err != nil {
		return nil, err
	}
	s.resumes = codexHasConversation(s.home, c.Resume) // one without a message is not kept, and nothing of it is lost
	whole, err := s.encoded()
	if err == nil {
		err = replaceIn(s.home, codexProfile+".config.toml", whole)
	}
	if err == nil {
		err = removeIfThere(s.log)
	}
	if err == nil {
		s.args, err = s.arguments()
	}
	if err != nil {
		return nil, errors.Join(err, s.home.Close())
	}
	s.env = s.environment()
	return s, nil
}

// openHome opens codex's directory in the session's home, where the next attempt will find its conversations, without what a
// killed codex left that would be taken for a sign of this one. Nothing leads out of the home.
func (s *codexSetup) openHome() error {
	home := envMap(s.config.Env)["HOME"]
	if !filepath.IsAbs(home) {
		return errors.New("HOME is not an absolute path")
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := linkSkills(root); err != nil {
		return fmt.Errorf("link skills: %w", err)
	}
	if err := root.MkdirAll(".codex", 0o700); err != nil {
		return err
	}
	if s.home, err = root.OpenRoot(".codex"); err != nil {
		return err
	}
	for _, name := range codexLockFiles(s.home) {
		if err := s.home.Remove(codexLocks + "/" + name); err != nil {
			return errors.Join(err, s.home.Close())
		}
	}
	return nil
}

// linkSkills shows ~/.claude/skills to codex, which looks in ~/.agents/skills. What is there already stays.
func linkSkills(home *os.Root) error {
	skills, err := fs.ReadDir(home.FS(), ".claude/skills")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := home.MkdirAll(".agents", 0o755); err != nil {
		return err
	}
	if err := home.Symlink("../.claude/skills", ".agents/skills"); !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := home.Lstat(".agents/skills"); err != nil || !info.IsDir() {
		return err
	}
	for _, skill := range skills {
		err := home.Symlink("../../.claude/skills/"+skill.Name(), ".agents/skills/"+skill.Name())
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// encoded is the profile as TOML, which is UTF-8.
func (s *codexSetup) encoded() ([]byte, error) {
	b, err := toml.Marshal(s.profile())
	return bytes.ToValidUTF8(b, []byte("\ufffd")), err
}

func (s *codexSetup) profile() codexConfig {
	c := s.config
	trusted := codexProject{Trust: "trusted"}
	conf := codexConfig{
		ContextWindow: codexContext,
		Instructions:  strings.ToValidUTF8(c.Prompt, "\ufffd"),
		Providers: map[string]codexProvider{gatewayProvider: {
			Name: "LiteLLM", BaseURL: gatewayBase(c.Gateway.BaseURL) + "/v1", EnvKey: "LITELLM_API_KEY", WireAPI: "responses",
		}},
		Projects: map[string]codexProject{c.Dir: trusted},
		MCP:      codexServers(s.servers, c.Env),
	}
	if followed, err := filepath.EvalSymlinks(c.Dir); err == nil {
		conf.Projects[followed] = trusted
	}
	if level, set := envMap(c.Env)["RUST_LOG"]; set {
		conf.Shell = &codexShell{Set: map[string]string{"RUST_LOG": level}}
	} else {
		conf.Shell = &codexShell{Exclude: []string{"RUST_LOG"}}
	}
	return conf
}

// codexServers leaves servers over SSE out, which codex does not speak. The one of codex's own is turned off: it is for several
// conversations at once, and would be offered to the model as a namespace, which not every gateway translates.
func codexServers(servers []MCPServer, env []string) map[string]codexMCP {
	off := false
	m := map[string]codexMCP{"codex_tui": {Command: "true", Enabled: &off}}
	names := []string{terminalMark} // so that a server which does not end by itself is found
	for name := range envMap(env) {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, s := range servers {
		switch s.Kind {
		case MCPStdio:
			m[s.Name] = codexMCP{Command: s.Argv[0], Args: s.Argv[1:], EnvVars: names, Startup: codexMCPStart}
		case MCPHTTP:
			m[s.Name] = codexMCP{URL: s.URL, Headers: s.Headers, Startup: codexMCPStart}
		}
	}
	return m
}

// codexFixed is what wins over every configuration file. Hooks of a repository would ask before the first prompt, and a daemon
// would outlive the session.
func (s *codexSetup) codexFixed() [][2]any {
	fixed := [][2]any{
		{"model", s.config.Model}, {"model_provider", gatewayProvider}, {"approval_policy", "never"}, {"sandbox_mode", "danger-full-access"},
		{"check_for_update_on_startup", false}, {"web_search", "disabled"}, {"log_dir", filepath.Dir(s.log)},
		{"analytics.enabled", false}, {"feedback.enabled", false}, {"agents.enabled", false},
		{"allow_login_shell", false}, // it would put the system's PATH before the requirements'
	}
	for _, feature := range []string{"daemon_auto_start", "plugins", "remote_plugin", "apps", "in_app_updates", "goals", "hooks"} {
		fixed = append(fixed, [2]any{"features." + feature, false})
	}
	own, err := os.ReadFile(filepath.Join(s.config.Dir, ".codex", "config.toml"))
	replaced := err == nil && bytes.Contains(own, []byte("developer_instructions"))
	if prompt := strings.ToValidUTF8(s.config.Prompt, "\ufffd"); replaced && prompt != "" && len(prompt) < maxCodexArgument {
		fixed = append(fixed, [2]any{"developer_instructions", prompt})
	}
	return fixed
}

func (s *codexSetup) arguments() (args []string, err error) {
	if s.resumes {
		args = []string{"resume", s.config.Resume}
	}
	args = append(args, "--no-daemon", "--profile", codexProfile)
	for _, kv := range s.codexFixed() {
		b, err := toml.Marshal(map[string]any{"v": kv[1]})
		if err != nil {
			return nil, err
		}
		value := strings.TrimSuffix(strings.TrimPrefix(string(b), "v = "), "\n")
		args = append(args, "-c", fmt.Sprintf("%s=%s", kv[0], value))
	}
	return args, nil
}

func (s *codexSetup) environment() []string {
	c := s.config
	return append(c.Env[:len(c.Env):len(c.Env)],
		"LITELLM_API_BASE="+gatewayBase(c.Gateway.BaseURL),
		"LITELLM_API_KEY="+cmp.Or(c.Gateway.APIKey, "none"), // codex does not ask without one
		"LITELLM_DEFAULT_MODEL="+c.Model,
		"CODEX_HOME="+filepath.Join(envMap(c.Env)["HOME"], ".codex"),
		"RUST_LOG=error,codex_mcp::rmcp_client=trace", // into the log, which tells of MCP servers; tools do not get it
	)
}

// replaceIn replaces a file whole, readable by its owner alone.
func replaceIn(root *os.Root, name string, b []byte) error {
	tmp := ".tmp-" + uuid.NewString()
	err := root.WriteFile(tmp, b, 0o600)
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp)
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
