// Package harness runs coding agents inside a sandbox, one file per harness. It turns each one's own protocol into the records
// of the sandboxd protocol (gen/sandboxd, type Record). It owns the harness's process and configuration files; it must not know
// the platform, tokens or the event log. A Running is safe for concurrent use.
package harness

import (
	"context"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

// Config is what a harness needs to start.
type Config struct {
	Bin       string           // path of the harness's program
	Dir       string           // working directory: the repository, or an empty directory
	StateDir  string           // writable directory for configuration files; 0700, outside Dir, may be empty or left from before
	Env       []string         // whole environment, KEY=value; HOME and PATH included
	Model     string           // model of the session, as the gateway names it
	Prompt    string           // system prompt, added to the harness's own; may be empty
	Gateway   sandboxd.Gateway // where models are
	MCP       []string         // as in the public API's mcp_servers; ${NAME} is filled from Env
	Silence   time.Duration    // the gateway may say nothing for so long, before an answer or within one; 0: 5 minutes
	Resume    string           // native conversation to go on with; empty: start one
	Replay    string           // what was said before, told to a new conversation if there is none to resume; may be empty
	Missed    string           // what was said since the conversation to resume was kept, told to it; may be empty
	Typed     string           // terminal harnesses: typed and sent once they are ready, unless they resume; may be empty
	Emit      func(Event)      // called in order for everything between Start and the end of Turn; must not block for long
	LogWriter interface {      // gets the harness's stdout and stderr; usually a file of sandboxd
		Write([]byte) (int, error)
	}
}

// Event is a record-to-be: type and data as sandboxd.Record documents them.
type Event struct {
	Type   string
	TurnID string // empty if it belongs to no turn
	Data   any    // marshals to a JSON object
}

// Status of an ended turn.
const (
	Completed = "completed"
	Failed    = "failed"
	Aborted   = "aborted"
)

// Harness starts one kind of coding agent.
type Harness interface {
	// Start starts the process, waits until it can take a turn, and opens or resumes the conversation. When it returns an error
	// nothing of the harness runs any more; the error is one sentence that names the culprit, with the last log lines if it
	// exited. It reports progress with "phase" events: waiting_harness, harness_listening, harness_ready.
	Start(ctx context.Context, c Config) (Running, error)
}

// Running is a harness that can take turns.
type Running interface {
	// SessionID is the harness's own id of the conversation, to resume it later.
	SessionID() string
	// Turn runs one turn and returns when it has ended, with Completed, Failed or Aborted. It emits everything in between,
	// but neither the start nor the end of the turn. An error means that the harness is lost and the turn with it. One turn at
	// a time.
	Turn(ctx context.Context, t sandboxd.Turn) (status string, result sandboxd.TurnResult, err error)
	// Abort makes the running turn end with Aborted, and the tools it runs with it.
	Abort(ctx context.Context) error
	// Done is closed when the process has ended; ExitReason is then one sentence with exit code and last log lines.
	Done() <-chan struct{}
	ExitReason() string
	// Close ends the harness with everything it started: SIGTERM to its process group, SIGKILL after 5 s. It returns when
	// nothing is left. Idempotent.
	Close()
}

// Terminal is a Running that people use through its terminal. It takes no turns: Turn fails, Abort does nothing.
type Terminal interface {
	Running
	// Terminal is the pseudo-terminal of the program; it is closed by Close.
	Terminal() *terminal.Terminal
}

// How a conversation began.
const (
	ConversationNew      = "new"
	ConversationResumed  = "resumed"
	ConversationRestored = "restored" // resumed from a copy of the harness's state in another workspace
	ConversationReplayed = "replayed" // a new one that was told what was said before
)

// ConversationOf tells how the conversation of a harness began that was started with c. A harness that can begin it in another way
// than it was asked to says so by a method Conversation.
func ConversationOf(r Running, c Config) string {
	if says, ok := r.(interface{ Conversation() string }); ok {
		return says.Conversation()
	}
	if c.Resume != "" {
		return ConversationResumed
	}
	return ConversationNew
}

// All returns the harnesses of this version by their ids in the public API.
func All() map[string]Harness {
	return map[string]Harness{
		"opencode": NewOpenCode(), "claude-agent-sdk": NewClaudeAgentSDK(), "claude-code": NewClaudeCode(), "codex": NewCodex(),
	}
}
