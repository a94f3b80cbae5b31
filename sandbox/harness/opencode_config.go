package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// openCodeConfig is the part of opencode's configuration that is set; the names are opencode's.
type openCodeConfig struct {
	Model            string                      `json:"model"`
	SmallModel       string                      `json:"small_model"`
	EnabledProviders []string                    `json:"enabled_providers"`
	Disabled         []string                    `json:"disabled_providers"`
	Provider         map[string]openCodeProvider `json:"provider"`
	Permission       map[string]string           `json:"permission"`
	Instructions     []string                    `json:"instructions,omitempty"`
	MCP              map[string]openCodeMCP      `json:"mcp,omitempty"`
	Share            string                      `json:"share"`
	AutoUpdate       bool                        `json:"autoupdate"`
	Snapshot         bool                        `json:"snapshot"`
}

type openCodeProvider struct {
	NPM     string                   `json:"npm"`
	Name    string                   `json:"name"`
	Options openCodeOptions          `json:"options"`
	Models  map[string]openCodeModel `json:"models"`
}

type openCodeOptions struct {
	BaseURL       string `json:"baseURL"`
	APIKey        string `json:"apiKey"`
	HeaderTimeout int64  `json:"headerTimeout"` // milliseconds
	ChunkTimeout  int64  `json:"chunkTimeout"`  // between two pieces of an answer
}

type openCodeModel struct {
	Name       string              `json:"name"`
	ToolCall   bool                `json:"tool_call"`
	Attachment bool                `json:"attachment"`
	Modalities map[string][]string `json:"modalities"`
	Limit      map[string]int      `json:"limit"`
}

type openCodeMCP struct {
	Type    string            `json:"type"`
	URL     string            `json:"url,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	OAuth   *bool             `json:"oauth,omitempty"`
	Command []string          `json:"command,omitempty"`
	Enabled bool              `json:"enabled"`
}

// gatewayProvider is what opencode calls the gateway.
const gatewayProvider = "litellm"

// writeOpenCodeConfig writes the configuration and the prompt into the state directory. It returns the configuration's path, and
// the part of it that holds no secrets and must win over a repository's own configuration.
func writeOpenCodeConfig(c Config) (path, pinned string, err error) {
	servers, err := ParseMCP(c.MCP, c.Env)
	if err != nil {
		return "", "", err
	}
	conf := newOpenCodeConfig(c)
	pin, err := json.Marshal(conf)
	if err != nil {
		return "", "", fmt.Errorf("write opencode's configuration: %w", err)
	}
	conf.MCP = openCodeServers(servers)
	if c.Prompt != "" {
		conf.Instructions = []string{filepath.Join(c.StateDir, "prompt.md")}
		if err := writePrivate(conf.Instructions[0], []byte(c.Prompt)); err != nil {
			return "", "", fmt.Errorf("write opencode's instructions: %w", err)
		}
	}
	path = filepath.Join(c.StateDir, "opencode.json")
	whole, err := json.Marshal(conf)
	if err == nil {
		err = writePrivate(path, whole)
	}
	if err != nil {
		return "", "", fmt.Errorf("write opencode's configuration: %w", err)
	}
	return path, string(pin), nil
}

// newOpenCodeConfig offers the session's model and no other: opencode refuses a model that is not listed, and a session that
// was once asked for such a model stays broken. What the model can do is not known, so the limits are those of current ones.
func newOpenCodeConfig(c Config) openCodeConfig {
	model := openCodeModel{
		Name: c.Model, ToolCall: true, Attachment: true,
		Modalities: map[string][]string{"input": {"text", "image"}, "output": {"text"}},
		Limit:      map[string]int{"context": 200_000, "output": 32_000},
	}
	silence := c.Silence
	if silence <= 0 {
		silence = silentFor
	}
	return openCodeConfig{
		Model: gatewayProvider + "/" + c.Model, SmallModel: gatewayProvider + "/" + c.Model,
		EnabledProviders: []string{gatewayProvider}, Disabled: []string{},
		Provider: map[string]openCodeProvider{gatewayProvider: {
			NPM: "@ai-sdk/openai-compatible", Name: "LiteLLM",
			Options: openCodeOptions{
				BaseURL: gatewayBase(c.Gateway.BaseURL) + "/v1", APIKey: "{env:LITELLM_API_KEY}",
				HeaderTimeout: silence.Milliseconds(), ChunkTimeout: silence.Milliseconds(),
			},
			Models: map[string]openCodeModel{c.Model: model},
		}},
		Permission: map[string]string{"*": "allow", "question": "deny", "external_directory": "allow", "doom_loop": "allow"},
		Share:      "disabled",
	}
}

func openCodeServers(servers []MCPServer) map[string]openCodeMCP {
	off := false
	m := make(map[string]openCodeMCP, len(servers))
	for _, s := range servers {
		if s.Kind == MCPStdio {
			m[s.Name] = openCodeMCP{Type: "local", Command: s.Argv, Enabled: true}
			continue
		}
		m[s.Name] = openCodeMCP{Type: "remote", URL: s.URL, Headers: s.Headers, OAuth: &off, Enabled: true}
	}
	return m
}

// openCodeEnv is the environment of the harness; of a name that is set twice the last one counts.
func openCodeEnv(c Config, configPath, pinned, password string) []string {
	return append(c.Env[:len(c.Env):len(c.Env)],
		"LITELLM_API_BASE="+gatewayBase(c.Gateway.BaseURL),
		"LITELLM_API_KEY="+c.Gateway.APIKey,
		"LITELLM_DEFAULT_MODEL="+c.Model,
		"OPENCODE_CONFIG="+configPath,
		"OPENCODE_CONFIG_CONTENT="+pinned,
		"OPENCODE_SERVER_USERNAME="+openCodeUser,
		"OPENCODE_SERVER_PASSWORD="+password,
		"OPENCODE_DISABLE_AUTOUPDATE=1",
		"OPENCODE_DISABLE_LSP_DOWNLOAD=1",
		"OPENCODE_DISABLE_MODELS_FETCH=1",
	)
}

// sparePluginInstall keeps opencode from fetching its plugin library into a configuration directory that has no plugins: it
// takes a lock file that lists the library for an installation. A directory that exists is its owner's and stays as it is.
func sparePluginInstall(env []string) error {
	vars := envMap(env)
	parent := vars["XDG_CONFIG_HOME"]
	if parent == "" && vars["HOME"] != "" {
		parent = filepath.Join(vars["HOME"], ".config")
	}
	if !filepath.IsAbs(parent) {
		return errors.New("HOME is not an absolute path")
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir("opencode", 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	if err := root.Mkdir("opencode/node_modules", 0o755); err != nil {
		return err
	}
	lock := `{"lockfileVersion":3,"packages":{"":{"dependencies":{"@opencode-ai/plugin":"*"}}}}`
	return root.WriteFile("opencode/package-lock.json", []byte(lock), 0o644)
}

func gatewayBase(base string) string {
	return strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1")
}

// writePrivate replaces a file whole, readable by its owner alone.
func writePrivate(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// redactor replaces secrets by asterisks.
func redactor(secrets ...string) func(string) string {
	var pairs []string
	for _, s := range secrets {
		if s != "" {
			pairs = append(pairs, s, "********")
		}
	}
	return strings.NewReplacer(pairs...).Replace
}

type phaseData struct {
	Phase  string `json:"phase"`
	Detail string `json:"detail,omitempty"`
}

func (c Config) phase(name, detail string) {
	c.Emit(Event{Type: "phase", Data: phaseData{Phase: name, Detail: detail}})
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
