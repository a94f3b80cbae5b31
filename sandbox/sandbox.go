// Package sandbox says what a sandbox is to the platform: an isolated place, pod or process, in which sandboxd serves one
// attempt of one session. It owns the Runtime and Settings contracts, and the tokens that callers of sandboxd present. It
// knows nothing of sessions' rows, of HTTP or of any cluster. Everything here is safe for concurrent use.
package sandbox

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// ErrNotFound is returned for a sandbox, or settings, that do not exist.
var ErrNotFound = errors.New("sandbox: not found")

// ErrRefused is returned, wrapped with the reason, by Create for a sandbox that will not be made however often it is tried.
var ErrRefused = errors.New("sandbox: refused")

// ID names a sandbox: random, unique for ever, and the audience of the tokens it accepts.
type ID string

// Spec is all that a sandbox depends on. It holds no prompt, repository, key or secret: those arrive by binding.
type Spec struct {
	ID        ID
	SessionID string // whose workspace it gets
	Harness   string // harness id as in the public API
	CallerKey ed25519.PublicKey
}

// State is how far a sandbox is.
type State string

// States of a sandbox, in order.
const (
	Starting State = "starting" // being made; sandboxd does not answer yet
	Running  State = "running"  // sandboxd runs
	Exited   State = "exited"   // it has ended and will not come back
)

// Cause is the kind of thing that ended a sandbox or keeps it from running, for programs; Status has the words.
type Cause string

// Causes. A runtime that does not tell kinds apart leaves them out.
const (
	CauseImagePull     Cause = "image_pull"      // an image cannot be had
	CauseImageName     Cause = "image_name"      // an image's name is ill-formed
	CauseUnschedulable Cause = "unschedulable"   // no node can take it
	CauseNotAdmitted   Cause = "not_admitted"    // the node refused it
	CauseCannotStart   Cause = "cannot_start"    // a container cannot be started
	CauseInitFailed    Cause = "init_failed"     // what prepares it failed
	CauseOutOfMemory   Cause = "out_of_memory"   // it reached its memory limit
	CauseEvicted       Cause = "evicted"         // its node or an operator put it out
	CausePreempted     Cause = "preempted"       // something more important took its place
	CauseNodeLost      Cause = "node_lost"       // its node does not answer or is gone
	CauseNodeShutdown  Cause = "node_shutdown"   // its node was shut down
	CauseDeleted       Cause = "sandbox_deleted" // somebody deleted it
	CauseCrashed       Cause = "sandboxd_ended"  // sandboxd ended
)

// Status is what a runtime knows of a sandbox.
type Status struct {
	ID        ID
	SessionID string
	State     State
	Cause     Cause     // when Exited, or when something holds up the start; empty: not known
	Detail    string    // while Starting: one sentence of progress, may be empty
	Reason    string    // when Exited: one sentence that names the culprit
	ExitCode  *int      // when Exited and known
	CreatedAt time.Time // when Create was first called
}

// LogOptions selects log output.
type LogOptions struct {
	Since  time.Duration // zero: from the start
	Tail   int           // last lines; zero: all
	Follow bool          // goes on until ctx ends or the sandbox does
}

// Runtime makes sandboxes. Every implementation passes the suite of package sandboxtest.
type Runtime interface {
	// Create starts a sandbox and returns before it runs. It is idempotent by Spec.ID and reuses the session's workspace. An error
	// means that nothing was started, and one that is not ErrRefused may not come again; what goes wrong later is a Status with
	// State Exited.
	Create(ctx context.Context, spec Spec) error
	// Get returns ErrNotFound for a sandbox that was never made or is deleted.
	Get(ctx context.Context, id ID) (Status, error)
	// List returns all sandboxes that are not deleted, exited ones included.
	List(ctx context.Context) ([]Status, error)
	// Delete ends a sandbox with every process in it and forgets it. It is idempotent and never removes the workspace. When it
	// returns nil, nothing of the sandbox runs any more.
	Delete(ctx context.Context, id ID) error
	// KeepsWorkspaces tells whether a sandbox finds the workspace as the session's last one left it. If not, it is empty each time.
	KeepsWorkspaces() bool
	// DeleteWorkspace removes the files of a session. It is idempotent. No sandbox of the session may be left.
	DeleteWorkspace(ctx context.Context, sessionID string) error
	// Watch sends the id of a sandbox whenever something about it changed, until ctx ends; then the channel is closed. It may
	// merge changes, and with a periodic List it is lossless.
	Watch(ctx context.Context) <-chan ID
	// Dial connects to sandboxd. The connection is for HTTP/1.1 without TLS.
	Dial(ctx context.Context, id ID) (net.Conn, error)
	// Logs returns what sandboxd and the harness wrote, oldest first. ErrNotFound as for Get.
	Logs(ctx context.Context, id ID, o LogOptions) (io.ReadCloser, error)
}

// Description is what a runtime knows of a sandbox beyond its Status, in the words of what it runs on.
type Description struct {
	Node       string // empty: none yet
	Conditions []Condition
	Containers []Container // in the order they start in
	Events     []Event     // latest ones, oldest first
}

// Condition is something that holds of a sandbox, or does not.
type Condition struct {
	Type, Status, Reason, Message string
	ChangedAt                     time.Time // zero: not known
}

// Container is a part of a sandbox with an image of its own.
type Container struct {
	Name, Image, State, Reason, Message string
	ExitCode                            *int // when it has ended
}

// Event is something that happened to a sandbox.
type Event struct {
	At                    time.Time
	Type, Reason, Message string
	Count                 int
}

// Describer is a Runtime that knows more of a sandbox than its Status.
type Describer interface {
	Runtime
	// Describe returns ErrNotFound as Get does.
	Describe(ctx context.Context, id ID) (Description, error)
}

// Addresser is a Runtime whose sandboxes have addresses of their own.
type Addresser interface {
	Runtime
	// Addresses returns those that connections of a sandbox come from. ErrNotFound as for Get.
	Addresses(ctx context.Context, id ID) ([]netip.Addr, error)
}

// Check is one thing that a runtime needs of what it runs on.
type Check struct {
	Name  string // stable, in snake case
	Fault string // one sentence, without addresses; empty: it holds
	Note  string // what should be known of it although it holds, likewise
}

// Report is how what a runtime runs on is.
type Report struct {
	Namespace string
	Version   string // empty: not known
	Checks    []Check
}

// Checker is a Runtime on something that may fail by itself, such as a cluster.
type Checker interface {
	Runtime
	// Check asks within ctx.
	Check(ctx context.Context) Report
}

// Settings keeps the environment that was given to one session. It is the only place where that is stored.
type Settings interface {
	// Put stores or replaces the settings of a session, durably.
	Put(ctx context.Context, sessionID string, env map[string]string) error
	// Get returns ErrNotFound if there are none.
	Get(ctx context.Context, sessionID string) (map[string]string, error)
	// Delete is idempotent.
	Delete(ctx context.Context, sessionID string) error
	// List returns the sessions that have settings, with the time they were stored, for the sweep.
	List(ctx context.Context) (map[string]time.Time, error)
}
