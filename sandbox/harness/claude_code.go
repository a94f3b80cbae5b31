package harness

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	claudePrompt     = "❯"                     // claude shows it where one types, and where one chooses
	claudeFooter     = "bypass permissions on" // below it, where one types
	claudeMCPSettled = time.Minute             // claude repeats a connection that fails
	claudeState      = ".claude.json"          // in the home: what claude keeps about its user
	maxClaudeState   = 8 << 20                 // bytes of it
	claudeMCPDir     = "mcp-logs-"             // before the name of a server
	mcpNeedsAuth     = "needs-auth"            // as claude calls it
)

// NewClaudeCode returns the harness that runs claude in a terminal. It was made for claude 2.1.330.
func NewClaudeCode() Harness { return claudeCode{} }

type claudeCode struct{}

// claudeCodeRun is a running claude with a terminal.
type claudeCodeRun struct {
	*tui
	setup *claudeSetup
	home  *os.Root
}

// Start implements Harness.
func (claudeCode) Start(ctx context.Context, c Config) (Running, error) {
	setup, err := prepareClaude(c)
	if err != nil {
		return nil, fmt.Errorf("prepare claude: %w", err)
	}
	home, err := os.OpenRoot(envMap(c.Env)["HOME"])
	if err != nil {
		return nil, fmt.Errorf("prepare claude: %w", err)
	}
	if err := skipOnboarding(home); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare claude: %w", err), home.Close())
	}
	c.phase("waiting_harness", "starting claude")
	watch := watchMCP(ctx, setup.mcpLog(c))
	r := &claudeCodeRun{setup: setup, home: home}
	args := append([]string{"--dangerously-skip-permissions"}, setup.args...)
	r.tui, err = startTUI("claude", c, args, setup.env, setup.redact, watch.stop)
	if err != nil {
		watch.stop()
		return nil, errors.Join(err, home.Close())
	}
	if err := r.bringUp(ctx); err != nil {
		err = r.startError(err)
		return nil, errors.Join(err, home.Close())
	}
	c.phase("harness_ready", "")
	return r, nil
}

// bringUp ends when claude can be typed to, and has what it is to be told first.
func (r *claudeCodeRun) bringUp(ctx context.Context) error {
	typing := func(screen string) bool {
		return strings.Contains(screen, claudePrompt) && strings.Contains(screen, claudeFooter)
	}
	if err := r.term.Wait(ctx, typing); err != nil {
		return err
	}
	r.config.phase("harness_listening", "")
	if r.config.Typed == "" || r.setup.resumed {
		return nil
	}
	return r.tell(ctx, func() bool { return r.conversation() != "" })
}

// skipOnboarding marks in claude's own file that its user has seen what it shows to new ones. What is there already stays.
func skipOnboarding(home *os.Root) error {
	known := map[string]json.RawMessage{}
	info, err := home.Stat(claudeState)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() > maxClaudeState:
		return fmt.Errorf("~/%s is no file of at most %d bytes", claudeState, maxClaudeState)
	default:
		b, err := home.ReadFile(claudeState)
		if err != nil {
			return err
		}
		if json.Unmarshal(b, &known) != nil || known == nil {
			known = map[string]json.RawMessage{} // claude was killed while it wrote
		}
	}
	known["hasCompletedOnboarding"] = json.RawMessage("true")
	b, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return replaceIn(home, claudeState, b)
}

// mcpLog is what claude writes about its MCP servers: a file for each, of JSON lines, in a directory of the server's name.
func (s *claudeSetup) mcpLog(c Config) *mcpLog {
	env := envMap(c.Env)
	cache := cmp.Or(env["XDG_CACHE_HOME"], filepath.Join(env["HOME"], ".cache"))
	files := func() []string {
		found, _ := filepath.Glob(filepath.Join(globQuote(cache), "claude-cli-nodejs", "*", claudeMCPDir+"*", "*.jsonl")) // the pattern is well-formed
		return found
	}
	before := files()
	l := newMCPLog(c, claudeMCPSettled, s.redact)
	l.files = func() []string {
		return slices.DeleteFunc(files(), func(file string) bool { return slices.Contains(before, file) })
	}
	l.read = readClaudeMCP
	for _, server := range s.servers {
		l.status[server.Name] = "unknown"
	}
	return l
}

func readClaudeMCP(file, line string) (server, status, message string) {
	var l struct{ Error, Debug string }
	if json.Unmarshal([]byte(line), &l) != nil {
		return "", "", ""
	}
	server = strings.TrimPrefix(filepath.Base(filepath.Dir(file)), claudeMCPDir)
	if why, ok := strings.CutPrefix(l.Error, "Connection failed "); ok {
		return server, mcpFailed, why
	}
	switch {
	case strings.HasPrefix(l.Debug, "Successfully connected"):
		return server, mcpConnected, ""
	case strings.HasPrefix(l.Debug, "Authentication required"):
		return server, mcpNeedsAuth, "the server answers 401 or 403"
	}
	return "", "", ""
}

// SessionID implements Running. It is the conversation that claude writes to, which a person may have changed.
func (r *claudeCodeRun) SessionID() string {
	if id := r.conversation(); id != "" {
		return id
	}
	return r.setup.session
}

// conversation is the conversation that was written to last, of those that were begun in the working directory; empty if none is
// on disk, which one is from its first message on.
func (r *claudeCodeRun) conversation() (id string) {
	first, err := fs.Glob(r.home.FS(), ".claude/projects/*/"+r.setup.session+".jsonl")
	if err != nil || len(first) == 0 {
		return ""
	}
	dir := path.Dir(first[0])
	all, err := fs.ReadDir(r.home.FS(), dir)
	if err != nil {
		return r.setup.session
	}
	var newest time.Time
	for _, e := range all {
		name, ok := strings.CutSuffix(e.Name(), ".jsonl")
		if !ok || len(name) != 36 || uuid.Validate(name) != nil {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.ModTime().After(newest) {
			id, newest = name, info.ModTime()
		}
	}
	return id
}

// Conversation tells how the conversation began: see ConversationOf.
func (r *claudeCodeRun) Conversation() string {
	if r.setup.resumed {
		return ConversationResumed
	}
	return ConversationNew
}

// Close implements Running.
func (r *claudeCodeRun) Close() {
	r.tui.Close()
	_ = r.home.Close()
}
