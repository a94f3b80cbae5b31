package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

// A session that is idle is suspended: its sandbox goes, its workspace and settings stay, and it is still ready. The next message
// wakes it, with a new attempt on the same workspace. Only the controller suspends, having looked at the row under its lock, so a
// message either finds the session running or wakes it.

// starting tells whether the current attempt has not become ready yet.
func starting(s *store.Session) bool { return s.Status == Creating || s.SandboxState == sandboxWaking }

// idleAt is when a session without activity from now on is idle.
func idleAt(s *store.Session) time.Time {
	seen := s.AttemptStartedAt
	for _, t := range []*time.Time{s.ReadyAt, s.LastSeenAt} {
		if t != nil && t.After(seen) {
			seen = *t
		}
	}
	return seen.Add(time.Duration(s.IdleTimeoutMs) * time.Millisecond)
}

// rest suspends a running session that is idle, and looks again when it could be.
func (r *reconciler) rest(ctx context.Context, s store.Session) error {
	if idleAt(&s).After(time.Now()) {
		r.lookWhenIdle(&s)
		return nil
	}
	if SupportsTUI(s.HarnessID) {
		used, err := r.terminalUsed(ctx, &s)
		if err != nil {
			return err
		}
		if used {
			r.lookWhenIdle(&s)
			return nil
		}
	}
	return r.update(ctx, s, func(tx *store.SessionTx) error {
		open, err := tx.OpenTurns()
		if err != nil || len(open) > 0 {
			return err
		}
		if tx.Now().Before(idleAt(tx.Session)) {
			r.lookWhenIdle(tx.Session)
			return nil
		}
		suspend(tx, nil)
		return nil
	})
}

// lookWhenIdle queues a session for when it is idle, unless a resync comes before: activity alone does not queue it.
func (r *reconciler) lookWhenIdle(s *store.Session) {
	if left := time.Until(idleAt(s)); left < resyncEvery {
		r.q.AddAfter(s.ID, left)
	}
}

// suspend writes that a session has no sandbox until it is woken; reason says what went wrong, if anything did.
func suspend(tx *store.SessionTx, reason *string) {
	s := tx.Session
	now := tx.Now()
	s.Desired, s.SandboxState, s.FailureReason, s.Settled, s.SuspendedAt = wantSuspended, sandboxSuspended, reason, false, &now
	appendStatus(tx)
}

// retire removes the sandbox of a suspended session.
func (r *reconciler) retire(ctx context.Context, s store.Session) error {
	r.c.cut(s.ID)
	if s.SandboxID != "" {
		r.salvage(ctx, s, sandbox.ID(s.SandboxID))
		if err := r.c.o.Runtime.Delete(ctx, sandbox.ID(s.SandboxID)); err != nil {
			return fmt.Errorf("delete sandbox: %w", err)
		}
	}
	keyErr := r.endKey(ctx, s)
	err := r.update(ctx, s, func(tx *store.SessionTx) error {
		tx.Session.SandboxID, tx.Session.Settled = "", keyErr == nil
		return nil
	})
	return errors.Join(keyErr, err)
}

// wake starts the next attempt of a suspended session, which stays ready. The controller clears what is left of the one before.
func (o *Options) wake(tx *store.SessionTx) {
	nextAttempt(tx, sandboxWaking)
	o.appendAttempt(tx)
}
