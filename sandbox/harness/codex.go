package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	codexPrompt = "Ask Codex"           // codex shows it where one types
	codexLocks  = "thread-writer-locks" // below its home: a file <conversation>.lock while it writes to that conversation
	codexIDWait = 10 * time.Second      // for the conversation to have an id
)

// NewCodex returns the harness that runs codex in a terminal. It was made for codex 0.169.
func NewCodex() Harness { return codex{} }

type codex struct{}

// codexRun is a running codex.
type codexRun struct {
	*tui
	home    *os.Root // codex's own
	resumed bool

	mu      sync.Mutex // guards session
	session string     // last known
}

// Start implements Harness.
func (codex) Start(ctx context.Context, c Config) (Running, error) {
	if _, err := uuid.Parse(c.Resume); c.Resume != "" && err != nil {
		return nil, errors.New("codex knows no conversation with the id to resume")
	}
	s, err := prepareCodex(c)
	if err != nil {
		return nil, fmt.Errorf("prepare codex: %w", err)
	}
	c.phase("waiting_harness", "starting codex")
	watch := watchMCP(ctx, s.mcpLog())
	r := &codexRun{home: s.home, resumed: s.resumes}
	r.tui, err = startTUI("codex", c, s.args, s.env, s.redact, func() {
		watch.stop()
		_ = s.home.Close()
	})
	if err != nil {
		watch.stop()
		return nil, errors.Join(err, s.home.Close())
	}
	if err := r.bringUp(ctx); err != nil {
		return nil, r.startError(err)
	}
	c.phase("harness_ready", "")
	return r, nil
}

// bringUp ends when codex can be typed to, and has what it is to be told first.
func (r *codexRun) bringUp(ctx context.Context) error {
	if err := r.ready(ctx, codexPrompt); err != nil {
		return err
	}
	r.config.phase("harness_listening", "")
	if !r.eventually(ctx, codexIDWait, func() bool { return r.SessionID() != "" }) && ctx.Err() != nil {
		return ctx.Err()
	}
	if r.config.Typed == "" || r.resumed {
		return nil
	}
	return r.tell(ctx, func() bool { return codexHasConversation(r.home, r.SessionID()) })
}

// SessionID implements Running. It is the conversation that codex writes to, which a person may have changed.
func (r *codexRun) SessionID() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := codexConversation(r.home); id != "" {
		r.session = id
	}
	return r.session
}

// Conversation tells how the conversation began: see ConversationOf.
func (r *codexRun) Conversation() string {
	if r.resumed {
		return ConversationResumed
	}
	return ConversationNew
}

// codexConversation is the id of the conversation that codex writes to; empty if there is none.
func codexConversation(home *os.Root) (id string) {
	var newest time.Time
	for _, name := range codexLockFiles(home) {
		info, err := home.Lstat(path.Join(codexLocks, name))
		if err == nil && !info.ModTime().Before(newest) {
			id, newest = strings.TrimSuffix(name, ".lock"), info.ModTime()
		}
	}
	return id
}

func codexLockFiles(home *os.Root) (names []string) {
	dir, err := home.Open(codexLocks)
	if err != nil {
		return nil
	}
	defer dir.Close()
	all, err := dir.Readdirnames(1000)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	for _, name := range all {
		if id, ok := strings.CutSuffix(name, ".lock"); ok && len(id) == 36 && uuid.Validate(id) == nil {
			names = append(names, name)
		}
	}
	return names
}

// codexHasConversation reports whether a conversation is on disk, which it is from its first message on.
func codexHasConversation(home *os.Root, id string) bool {
	if id == "" {
		return false
	}
	found, err := fs.Glob(home.FS(), "sessions/*/*/*/rollout-*-"+id+".jsonl")
	return err == nil && len(found) > 0
}
