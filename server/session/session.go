// Package session owns the life of sessions and their turns: what users ask for (Service), what is observed of sandboxes
// (Controller), and the event stream that both leave behind (hub). Requests write intent and the status it implies; the one
// leading controller writes what it observes; both through the store's unit of work on the session's row, so that neither
// overwrites the other. No request starts a sandbox. The package must not know HTTP servers, SQL or any kind of runtime.
//
// A Service is safe for concurrent use. A Controller owns its goroutines; each session is reconciled by one of them at a time.
package session

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/gateway"
	"github.com/litellm-agent-platform/lap/server/skill"
	"github.com/litellm-agent-platform/lap/store"
)

// Refusals. Their texts are safe to show to callers.
var (
	ErrEnded       = errors.New("session has ended")
	ErrTUI         = errors.New("the session's harness has a terminal and takes no messages")
	ErrQueueFull   = fmt.Errorf("the session has %d queued turns", MaxQueued)
	ErrNoGateway   = errors.New("no model gateway is configured")
	ErrHarness     = errors.New("this server cannot run the agent's harness")
	ErrRestart     = errors.New("the session cannot be restarted while it is creating, nor when it or its agent was deleted")
	ErrClosing     = errors.New("the server is shutting down")
	ErrExpired     = errors.New("the session's env_vars have expired with its workspace, so it cannot be restarted; open another session")
	ErrNoSandbox   = errors.New("the session has no sandbox")
	ErrNoTerminal  = errors.New("the session's harness takes messages and has no terminal")
	ErrNotReady    = errors.New("the session is not ready")
	ErrNotWoken    = errors.New("the session could not be woken")
	ErrUnreachable = errors.New("no connection to the session's sandbox can be made")
	ErrPrompt      = fmt.Errorf("with its skills the prompt would have more than %d characters", skill.MaxPrompt)
)

// MaxQueued is how many turns of a session may wait.
const MaxQueued = 32

// DefaultIdleTimeout is how long a session may be without activity if its agent says nothing.
const DefaultIdleTimeout = 24 * time.Hour

// Values of store.Session.Desired, Status and SandboxState, and of store.Turn.Status.
const (
	wantRunning   = "running"
	wantSuspended = "suspended"
	wantStopped   = "stopped"
	wantDeleted   = "deleted"

	Creating = "creating"
	Ready    = "ready"
	Failed   = "failed"
	Dead     = "dead"

	sandboxNone      = "none"
	sandboxStarting  = "starting"
	sandboxRunning   = "running"
	sandboxSuspended = "suspended"
	sandboxWaking    = "waking"

	Queued        = "queued"
	Handed        = "handed"
	TurnCompleted = "completed"
	TurnFailed    = "failed"
	TurnAborted   = "aborted"
)

// Names of turn errors that mean the turn did not run to its end and never will.
const (
	TurnInterrupted = "turn_interrupted"  // its sandbox or harness was lost in the middle
	TurnNotReady    = "session_not_ready" // the session ended before its turn came
	TurnTimeout     = "turn_timeout"      // it took too long
)

// Options are the parts a Service and a Controller work with.
type Options struct {
	Store        *store.Store
	Runtime      sandbox.Runtime
	Settings     sandbox.Settings
	Keyring      *store.Keyring
	Harnesses    []string          // ids the runtime can run
	Gateway      sandboxd.Gateway  // zero BaseURL: none
	GatewayKeys  *gateway.Keys     // makes a key of the gateway for each session; nil: all use that of Gateway
	Env          map[string]string // environment of every harness, weakest of all
	GitToken     string            // clone credential of the platform
	GitHosts     []string          // the only hosts it is sent to
	GitProtocols []string          // protocols git may use, e.g. https
	StartTimeout time.Duration     // from the start of an attempt until it must be ready
	Logger       *slog.Logger

	MaxSessions      int           // sessions that may have a sandbox at once; 0: any number
	SessionRate      int           // sessions that may be opened within a minute; 0: any number
	SessionRetention time.Duration // how long a session without a sandbox keeps workspace and settings; 0: until it is deleted
	DataRetention    time.Duration // how long the rows of a session stay after its end; 0: for ever
	Isolated         bool          // the runtime's sandboxes cannot harm its machine
	EgressEnforced   bool          // the runtime holds sandboxes to what agents may reach
	Egress           *Egress       // the way out of sandboxes; nil: the runtime's own business
	TurnTimeout      time.Duration // for a turn once it was handed over; 0: DefaultTurnTimeout
}

// Service is what users ask for.
type Service struct {
	o       Options
	hub     *hub
	closing chan struct{}
	unsub   func()

	controller atomic.Pointer[Controller] // nil: messages wait for the one that leads to look
	terminals  terminals
}

// NewService returns a service; Close ends its streams.
func NewService(o Options) *Service {
	s := &Service{o: o, closing: make(chan struct{})}
	s.hub = newHub(o.Store, s.closing)
	s.unsub = o.Store.Subscribe(s.hub.notify)
	return s
}

// Close ends all streams and waits until terminals are closed; it is called once.
func (s *Service) Close() {
	close(s.closing)
	s.terminals.wait()
	s.unsub()
	s.hub.wait()
}

// HandTo makes messages go straight to the sandboxes that a controller of this process speaks to.
func (s *Service) HandTo(c *Controller) { s.controller.Store(c) }

// Closing is closed when the server shuts down.
func (s *Service) Closing() <-chan struct{} { return s.closing }

// SupportsTUI tells whether a harness has a terminal instead of messages.
func SupportsTUI(harness string) bool { return harness == "claude-code" || harness == "codex" }

// CreateParams is what a caller may say of a new session.
type CreateParams struct {
	AgentID              string
	Title, InitialPrompt *string
	EnvVars              map[string]string
	Skills               []store.SkillRef // for this session only, each once
}

// Create stores a session, status creating. Its settings are stored before its row, so that a row is never without them.
// Errors: store.ErrNotFound for the agent, ErrNoGateway, ErrHarness, ErrPrompt, ErrCapacity, ErrRate.
func (s *Service) Create(ctx context.Context, p CreateParams) (store.Session, error) {
	own, err := s.o.Store.SkillVersions(ctx, p.Skills)
	if err != nil {
		return store.Session{}, err
	}
	for {
		agent, err := s.o.Store.GetAgent(ctx, p.AgentID)
		if err != nil {
			return store.Session{}, err
		}
		if s.o.Gateway.BaseURL == "" {
			return store.Session{}, ErrNoGateway
		}
		if !slices.Contains(s.o.Harnesses, agent.HarnessID) {
			return store.Session{}, fmt.Errorf("harness %s: %w", agent.HarnessID, ErrHarness)
		}
		if len(own) > 0 && promptOf(agent, own).TooLong() {
			return store.Session{}, ErrPrompt
		}
		sess, err := s.insert(ctx, p, agent)
		if errors.Is(err, errAgentChanged) {
			continue
		}
		return sess, err
	}
}

var errAgentChanged = errors.New("the agent changed meanwhile")

func (s *Service) insert(ctx context.Context, p CreateParams, agent store.Agent) (store.Session, error) {
	now := time.Now()
	phase := phases[0]
	sess := store.Session{
		ID: uuid.Must(uuid.NewV7()).String(), AgentID: p.AgentID, Title: p.Title,
		Desired: wantRunning, Status: Creating, SandboxState: sandboxStarting, Phase: &phase,
		Attempt: 1, AttemptStartedAt: now, LastSeenAt: &now, HasSettings: len(p.EnvVars) > 0,
		IdleTimeoutMs: DefaultIdleTimeout.Milliseconds(), Skills: p.Skills,
	}
	if agent.IdleTimeoutMs != nil {
		sess.IdleTimeoutMs = *agent.IdleTimeoutMs
	}
	if sess.HasSettings {
		if err := s.o.Settings.Put(ctx, sess.ID, p.EnvVars); err != nil {
			return sess, fmt.Errorf("store settings: %w", err)
		}
	}
	err := s.o.Store.CreateSession(ctx, &sess, func(tx *store.SessionTx) error {
		if tx.Session.AgentVersion != agent.Version {
			return errAgentChanged
		}
		appendStatus(tx)
		if p.InitialPrompt != nil {
			if _, err := addTurn(tx, Message{Parts: []sandboxd.InputPart{{Type: "text", Text: p.InitialPrompt}}}, nil, nil); err != nil {
				return err
			}
		}
		return s.o.admit(tx, true)
	})
	if err != nil && sess.HasSettings {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// Whatever is left here the controller's sweep removes.
		_ = s.o.Settings.Delete(clean, sess.ID)
	}
	return sess, err
}

// Delete ends a session for good, in whatever state it is. Idempotent; store.ErrNotFound only if it never existed.
func (s *Service) Delete(ctx context.Context, id string) error {
	return s.o.Store.Session(ctx, id, func(tx *store.SessionTx) error {
		if tx.Session.Desired == wantDeleted {
			return nil
		}
		now := tx.Now()
		tx.Session.DeletedAt = &now
		return end(tx, wantDeleted, Dead, "deleted")
	})
}

// Stop ends a session's sandbox and keeps what a restart needs. A session that has ended is returned as it is. store.ErrNotFound
// if it never existed.
func (s *Service) Stop(ctx context.Context, id string) (sess store.Session, err error) {
	err = s.o.Store.Session(ctx, id, func(tx *store.SessionTx) error {
		if live(tx.Session.Status) {
			err = end(tx, wantStopped, Dead, "stopped")
		}
		sess = *tx.Session
		return err
	})
	return sess, err
}

// Restart gives a session a new sandbox, as a new attempt. ErrRestart or ErrExpired if it cannot have one, ErrNoGateway, ErrCapacity;
// store.ErrNotFound if it never existed.
func (s *Service) Restart(ctx context.Context, id string) (sess store.Session, err error) {
	if sess, err = s.o.Store.GetSession(ctx, id); err != nil {
		return sess, err
	}
	// An agent deleted after this look is noticed by the controller.
	if _, err := s.o.Store.GetAgent(ctx, sess.AgentID); errors.Is(err, store.ErrNotFound) {
		return sess, ErrRestart
	} else if err != nil {
		return sess, err
	}
	if s.o.Gateway.BaseURL == "" {
		return sess, ErrNoGateway
	}
	err = s.o.Store.Session(ctx, id, func(tx *store.SessionTx) error {
		if tx.Session.Status == Creating || tx.Session.Desired == wantDeleted {
			return ErrRestart
		}
		if tx.Session.ExpiredAt != nil && tx.Session.HasSettings {
			return ErrExpired
		}
		if err := interruptTurns(tx, "the session was restarted"); err != nil {
			return err
		}
		placed := hasPlace(tx.Session)
		s.o.begin(tx)
		sess = *tx.Session
		if placed {
			return nil
		}
		return s.o.admit(tx, false)
	})
	return sess, err
}

// begin starts a session's next attempt. The controller clears what is left of the one before.
func (o *Options) begin(tx *store.SessionTx) {
	nextAttempt(tx, sandboxStarting)
	tx.Session.Status, tx.Session.ReadyAt, tx.Session.StoppedAt = Creating, nil, nil
	o.appendAttempt(tx)
}

// nextAttempt makes room in the row for the next sandbox.
func nextAttempt(tx *store.SessionTx, sandboxState string) {
	s, now, phase := tx.Session, tx.Now(), phases[0]
	s.Attempt++
	s.Desired, s.SandboxState, s.Settled = wantRunning, sandboxState, false
	s.Phase, s.PhaseDetail, s.FailureReason = &phase, nil, nil
	s.SandboxID, s.AttemptStartedAt, s.LastSeenAt, s.SuspendedAt = "", now, &now, nil
}

func (o *Options) appendAttempt(tx *store.SessionTx) {
	s := tx.Session
	data := statusData(s)
	data["attempt"], data["workspace"] = s.Attempt, o.workspaceOf(s)
	tx.Append(store.NewEvent{Type: "session.status", Data: data})
}

// DeleteAgent deletes an agent and stops its live sessions. check, which may be nil, may object to the version that is deleted;
// nothing is changed then. store.ErrNotFound if the agent is gone.
func (s *Service) DeleteAgent(ctx context.Context, id string, check func(version int32) error) error {
	return s.o.Store.InTx(ctx, func(st *store.Store) error {
		if err := st.MarkAgentDeleted(ctx, id, check); err != nil {
			return err
		}
		ids, err := st.LiveSessionsOfAgent(ctx, id)
		if err != nil {
			return err
		}
		for _, sid := range ids {
			err := st.Session(ctx, sid, func(tx *store.SessionTx) error { return end(tx, wantStopped, Dead, agentDeleted) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

const agentDeleted = "agent deleted"

// live tells whether a session may still do something.
func live(status string) bool { return status == Creating || status == Ready }

// end writes that a session has ended, or shall, and fails its open turns. A session that has ended keeps its status and reason.
func end(tx *store.SessionTx, desired, status, reason string) error {
	tx.Session.Desired = desired
	tx.Session.Settled = false
	if !live(tx.Session.Status) {
		return nil
	}
	now := tx.Now()
	tx.Session.Status, tx.Session.FailureReason, tx.Session.StoppedAt = status, &reason, &now
	if err := failTurns(tx, reason); err != nil {
		return err
	}
	appendStatus(tx)
	return nil
}

func appendStatus(tx *store.SessionTx) {
	tx.Append(store.NewEvent{Type: "session.status", Data: statusData(tx.Session)})
}

func statusData(s *store.Session) map[string]any {
	return map[string]any{"status": s.Status, "sandbox_state": s.SandboxState, "failure_reason": s.FailureReason}
}

// callerKey is the key that calls to a sandbox are signed with. An empty id means the current one.
func callerKey(k *store.Keyring, id string) (string, ed25519.PrivateKey, error) {
	const label = "sandbox-caller"
	if id == "" {
		id, seed := k.Derive(label)
		return id, ed25519.NewKeyFromSeed(seed[:]), nil
	}
	seed, ok := k.DeriveFor(id, label)
	if !ok {
		return "", nil, fmt.Errorf("encryption key %s is not configured any more", id)
	}
	return id, ed25519.NewKeyFromSeed(seed[:]), nil
}

// preview is the first text of a user, white space collapsed, at most 60 characters; nil if there is none.
func preview(parts []sandboxd.InputPart) *string {
	for _, p := range parts {
		if p.Text == nil {
			continue
		}
		if t := []rune(strings.Join(strings.Fields(*p.Text), " ")); len(t) > 0 {
			text := string(t[:min(len(t), 60)])
			return &text
		}
	}
	return nil
}
