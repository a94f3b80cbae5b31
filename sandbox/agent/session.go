package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

// States as Health shows them.
const (
	stateUnbound  = "unbound"
	stateStarting = "starting"
	stateReady    = "ready"
	stateFailed   = "failed"
	stateStopping = "stopping"
)

// errConflict says that a call does not fit the state of the session; errInvalid that it makes no sense in any.
var (
	errConflict = errors.New("conflict")
	errInvalid  = errors.New("invalid")
)

// binding is what of a session's configuration outlives the process: nothing secret.
type binding struct {
	SessionID string `json:"session_id"`
	Attempt   int32  `json:"attempt"`
}

// session is the one attempt a sandbox serves. run, one goroutine, prepares it, supervises its harness and runs its turns; it
// owns the harness. The methods are for HTTP handlers and are safe for concurrent use.
type session struct {
	c         Config
	harnesses map[string]harness.Harness
	log       *slog.Logger
	events    *eventLog
	bound     chan sandboxd.SessionConfig // one, from bind to run
	turns     chan sandboxd.Turn          // at most one, from startTurn to run
	aborts    chan struct{}               // a token: abort of the current turn was asked for

	mu      sync.Mutex // guards the fields below, and the order of state changes and their records
	state   string
	binding binding
	phase   int             // rank of the last phase
	seen    map[string]bool // turns taken
	current string          // turn taken and not ended
	last    string          // last turn taken
	aborted bool            // current is to end as aborted

	terminal *terminal.Terminal // of the harness, if it has one
	relay    *relay             // the way out, if the platform gave one; set once, with the binding

	kept checkpoints // has mutexes of its own
}

// openSession opens the state directory. If an earlier sandboxd was bound here it died: what it served is over, and all that is
// left to do is to say so and to let its log be read.
func openSession(c Config, harnesses map[string]harness.Harness, log *slog.Logger) (*session, error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	s := &session{
		c: c, harnesses: harnesses, log: log, state: stateUnbound,
		bound: make(chan sandboxd.SessionConfig, 1), turns: make(chan sandboxd.Turn, 1), aborts: make(chan struct{}, 1),
		seen: map[string]bool{},
	}
	var err error
	s.events, err = openEventLog(c.StateDir, s.replay)
	if err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.events.close())
	}
	return s, nil
}

func (s *session) bindingFile() string { return filepath.Join(s.c.StateDir, "binding.json") }

func (s *session) replay(r sandboxd.Record) {
	switch r.Type {
	case typeTurnStarted:
		if r.TurnID != nil {
			s.seen[*r.TurnID] = true
			s.current = *r.TurnID
		}
	case typeTurnCompleted, typeTurnFailed, typeTurnAborted:
		s.current = ""
	}
}

func (s *session) recover() error {
	b, err := os.ReadFile(s.bindingFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read binding: %w", err)
	}
	if err := json.Unmarshal(b, &s.binding); err != nil {
		return fmt.Errorf("read binding: %w", err)
	}
	const reason = "sandboxd was killed and started again; this attempt is over"
	s.state = stateFailed
	if s.current != "" {
		if err := s.events.append(typeTurnFailed, s.current, interrupted(sandboxd.TurnResult{}, reason)); err != nil {
			return err
		}
		s.current = ""
	}
	return s.events.append(typeFailed, "", map[string]string{"reason": reason})
}

func (s *session) health() sandboxd.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := sandboxd.Health{
		SandboxID: s.c.SandboxID, Protocol: protocol, Version: version(), State: s.state,
		Attempt: s.binding.Attempt, LastN: s.events.last(),
	}
	if s.binding.SessionID != "" {
		id := s.binding.SessionID
		h.SessionID = &id
	}
	if s.terminal != nil {
		at := s.terminal.LastActive().UTC()
		h.TerminalActiveAt = &at
	}
	return h
}

// bind takes the session's configuration once; the same session and attempt again changes nothing.
func (s *session) bind(c sandboxd.SessionConfig) error {
	want := binding{SessionID: c.SessionID, Attempt: c.Attempt}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateUnbound {
		if s.binding == want {
			return nil
		}
		return fmt.Errorf("%w: this sandbox is bound to another session or attempt, or ends", errConflict)
	}
	if err := s.check(c); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	out, err := s.wayOut(c.Egress)
	if err != nil {
		return err
	}
	if err := writeJSON(s.bindingFile(), want); err != nil {
		if out != nil {
			out.close()
		}
		return err
	}
	s.relay = out
	s.binding, s.state = want, stateStarting
	s.log.Info("bound", "session_id", want.SessionID, "attempt", want.Attempt)
	s.bound <- c
	return nil
}

// wayOut opens the relay to the platform's proxy, if there is one.
func (s *session) wayOut(e *sandboxd.Egress) (*relay, error) {
	if e == nil {
		return nil, nil
	}
	return openRelay(*e, s.c)
}

// renewEgress takes a new credential for the way out, and where that leads now.
func (s *session) renewEgress(c sandboxd.EgressCredential) error {
	if !isCredential(c.Credential) {
		return fmt.Errorf("%w: credential cannot be sent", errInvalid)
	}
	if c.Proxy != nil && !isProxy(*c.Proxy) {
		return fmt.Errorf("%w: proxy is neither host:port nor unix: and an absolute path", errInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.relay == nil {
		return fmt.Errorf("%w: this sandbox has no way out of the platform's", errConflict)
	}
	s.relay.renew(c.Credential, c.Proxy)
	return nil
}

// closeEgress ends the way out with all its connections.
func (s *session) closeEgress() {
	s.mu.Lock()
	r := s.relay
	s.mu.Unlock()
	if r != nil {
		r.close()
	}
}

// startTurn takes a turn unless it was taken before. Its id is on disk when this returns.
func (s *session) startTurn(t sandboxd.Turn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[t.ID] {
		return nil
	}
	if err := checkTurn(t); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	if s.state != stateReady {
		return fmt.Errorf("%w: the harness is not ready, the sandbox is %s", errConflict, s.state)
	}
	if s.terminal != nil {
		return fmt.Errorf("%w: the harness has a terminal", errConflict)
	}
	if s.current != "" {
		return fmt.Errorf("%w: turn %s runs", errConflict, s.current)
	}
	if err := s.events.append(typeTurnStarted, t.ID, struct{}{}); err != nil {
		return err
	}
	s.seen[t.ID] = true
	s.current, s.last, s.aborted = t.ID, t.ID, false
	select {
	case <-s.aborts: // meant for the turn before
	default:
	}
	s.turns <- t
	return nil
}

// abortTurn asks for the end of a turn. One that does not run is left alone.
func (s *session) abortTurn(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != id || s.aborted {
		return
	}
	s.aborted = true
	s.aborts <- struct{}{}
}

// stopping refuses everything new from now on.
func (s *session) stopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = stateStopping
}

// run serves the session until ctx ends; whatever happens it stays, so that the log can be read.
func (s *session) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case c := <-s.bound:
		s.serve(ctx, c)
	}
	<-ctx.Done()
}

func (s *session) serve(ctx context.Context, c sandboxd.SessionConfig) {
	secrets := newRedactor(c)
	rec := newRecorder(s.events, s.log, func(phase, detail string) { s.setPhase(phase, secrets.clean(detail)) }, ctx.Done())
	defer rec.close()
	h := s.harnesses[c.HarnessID]
	hc, notes, err := s.prepare(ctx, c, secrets)
	c.Files, c.Repo, c.Egress = nil, nil, nil
	debug.FreeOSMemory() // the files may have been megabytes
	if err != nil {
		s.fail(ctx, secrets.clean(err.Error()))
		return
	}
	hc.Emit, hc.LogWriter = rec.emit, secrets.writer(os.Stderr)
	k := keeper{s: s, h: h, rec: rec, secrets: secrets}
	k.restored = s.restore(ctx, c, h, &hc)
	k.hc = hc
	k.serve(ctx, notes)
}

// fail ends an attempt that never became ready.
func (s *session) fail(ctx context.Context, reason string) {
	if ctx.Err() != nil {
		return // it was stopped, and that is no fault of its own
	}
	s.log.Warn("attempt failed", "reason", reason)
	s.conclude(ctx, stateFailed, typeFailed, "", map[string]string{"reason": *cut(&reason, maxMessage)})
}
