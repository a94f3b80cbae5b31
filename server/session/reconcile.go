package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

// phases of an attempt, in order.
var phases = []string{
	"creating_sandbox", "pod_pending", "pod_running", "injecting_files", "cloning_repo", "installing_deps",
	"waiting_harness", "harness_listening", "harness_ready", "ready",
}

// errStale means that the session moved on since it was read; the change has queued it again.
var errStale = errors.New("session moved on")

// reconcile takes a session one step nearer to what is wanted of it.
func (r *reconciler) reconcile(ctx context.Context, id string) error {
	sess, err := r.c.o.Store.GetSession(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case sess.Settled:
		return nil
	case !live(sess.Status):
		err = r.cleanUp(ctx, sess)
	case sess.Desired == wantSuspended:
		err = r.retire(ctx, sess)
	case sess.SandboxID == "":
		err = r.assign(ctx, sess)
	default:
		err = r.observe(ctx, sess)
	}
	if errors.Is(err, errStale) {
		return nil
	}
	return err
}

// update changes a session if it is still in the status, attempt and sandbox it was read in, and has not expired since.
func (r *reconciler) update(ctx context.Context, seen store.Session, fn func(*store.SessionTx) error) error {
	return r.c.o.Store.Observe(ctx, r.lease, seen.ID, func(tx *store.SessionTx) error {
		s := tx.Session
		if s.Status != seen.Status || s.Attempt != seen.Attempt || s.SandboxID != seen.SandboxID || s.Desired != seen.Desired ||
			(s.ExpiredAt == nil) != (seen.ExpiredAt == nil) {
			return errStale
		}
		return fn(tx)
	})
}

// cleanUp removes what an ended session leaves. Workspace and settings stay unless it is deleted or expired.
func (r *reconciler) cleanUp(ctx context.Context, s store.Session) error {
	r.c.cut(s.ID)
	if s.SandboxID != "" {
		r.salvage(ctx, s, sandbox.ID(s.SandboxID))
		if err := r.c.o.Runtime.Delete(ctx, sandbox.ID(s.SandboxID)); err != nil {
			return fmt.Errorf("delete sandbox: %w", err)
		}
	}
	if s.Desired == wantDeleted || s.ExpiredAt != nil {
		if err := r.dropKept(ctx, s.ID); err != nil {
			return err
		}
		if err := r.c.o.Settings.Delete(ctx, s.ID); err != nil {
			return fmt.Errorf("delete settings: %w", err)
		}
	}
	keyErr := r.endKey(ctx, s)
	err := r.update(ctx, s, func(tx *store.SessionTx) error {
		tx.Session.SandboxID, tx.Session.Settled = "", keyErr == nil
		if tx.Session.SandboxState != sandboxNone {
			tx.Session.SandboxState = sandboxNone
			appendStatus(tx)
		}
		return nil
	})
	return errors.Join(keyErr, err)
}

// assign writes the id of the sandbox to be into the row, before there is one. What an earlier attempt left goes first, for they
// share the workspace.
func (r *reconciler) assign(ctx context.Context, s store.Session) error {
	r.c.cut(s.ID)
	if _, err := r.c.o.Store.GetAgent(ctx, s.AgentID); errors.Is(err, store.ErrNotFound) {
		return r.update(ctx, s, func(tx *store.SessionTx) error { return end(tx, wantStopped, Dead, agentDeleted) })
	}
	boxes, err := r.c.o.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, b := range boxes {
		if b.SessionID != s.ID {
			continue
		}
		r.salvage(ctx, s, b.ID)
		if err := r.c.o.Runtime.Delete(ctx, b.ID); err != nil {
			return fmt.Errorf("delete sandbox of an earlier attempt: %w", err)
		}
	}
	if s.ExpiredAt != nil {
		if err := r.dropKept(ctx, s.ID); err != nil {
			return err
		}
	}
	keyID, _, err := callerKey(r.c.o.Keyring, "")
	if err != nil {
		return err
	}
	return r.update(ctx, s, func(tx *store.SessionTx) error {
		tx.Session.SandboxID, tx.Session.KeyID, tx.Session.LogN, tx.Session.ExpiredAt = uuid.NewString(), keyID, 0, nil
		setPhase(tx, phases[0], "", 0)
		return nil
	})
}

// observe looks at the sandbox of a live session.
func (r *reconciler) observe(ctx context.Context, s store.Session) error {
	if starting(&s) {
		left := time.Until(s.AttemptStartedAt.Add(r.c.o.StartTimeout))
		if left <= 0 {
			return r.lost(ctx, s, "did not become ready within "+r.c.o.StartTimeout.String()+where(s))
		}
		r.q.AddAfter(s.ID, left)
	}
	st, err := r.c.o.Runtime.Get(ctx, sandbox.ID(s.SandboxID))
	if errors.Is(err, sandbox.ErrNotFound) && starting(&s) && r.c.linkOf(s) == nil {
		return r.create(ctx, s)
	}
	switch {
	case errors.Is(err, sandbox.ErrNotFound):
		return r.lost(ctx, s, "its sandbox is gone")
	case err != nil:
		return fmt.Errorf("look at sandbox: %w", err)
	case st.State == sandbox.Exited:
		return r.lost(ctx, s, "its sandbox ended: "+st.Reason)
	case st.State == sandbox.Running:
		r.c.link(ctx, r, s).poke()
		if s.SandboxState == sandboxRunning {
			return r.rest(ctx, s)
		}
		return nil
	}
	return r.update(ctx, s, func(tx *store.SessionTx) error {
		setPhase(tx, phases[0], st.Detail, 0)
		return nil
	})
}

func (r *reconciler) create(ctx context.Context, s store.Session) error {
	_, key, err := callerKey(r.c.o.Keyring, s.KeyID)
	if err != nil {
		return r.lost(ctx, s, err.Error())
	}
	err = r.c.o.Runtime.Create(ctx, sandbox.Spec{
		ID: sandbox.ID(s.SandboxID), SessionID: s.ID, Harness: s.HarnessID, CallerKey: publicKey(key),
	})
	if errors.Is(err, sandbox.ErrRefused) {
		return r.lost(ctx, s, "its sandbox cannot be made: "+err.Error())
	}
	if err != nil {
		told := r.update(ctx, s, func(tx *store.SessionTx) error {
			setPhase(tx, phases[0], "the sandbox cannot be made yet: "+err.Error(), 0)
			return nil
		})
		return errors.Join(fmt.Errorf("create sandbox: %w", err), told)
	}
	r.q.AddAfter(s.ID, 20*time.Millisecond)
	return nil
}

// lost ends a session whose sandbox cannot serve it any more: failed if it never became ready, suspended again if it did not wake,
// else dead.
func (r *reconciler) lost(ctx context.Context, s store.Session, reason string) error {
	r.c.o.Logger.Info("session lost its sandbox", "session_id", s.ID, "sandbox_id", s.SandboxID, "status", s.Status, "reason", reason)
	r.c.cut(s.ID)
	return r.update(ctx, s, func(tx *store.SessionTx) error { return endLost(tx, reason) })
}

func endLost(tx *store.SessionTx, reason string) error {
	if tx.Session.SandboxState == sandboxWaking {
		suspend(tx, &reason)
		return failOpen(tx, "the session could not be woken: "+reason, true)
	}
	status := Dead
	if tx.Session.Status == Creating {
		status = Failed
	}
	return end(tx, tx.Session.Desired, status, reason)
}

// where tells how far an attempt has come.
func where(s store.Session) string {
	if s.Phase == nil {
		return ""
	}
	text := ", it was at " + *s.Phase
	if s.PhaseDetail != nil {
		text += ": " + *s.PhaseDetail
	}
	return text
}

// setPhase moves an attempt's phase forward, never back, and tells it if anything changed; n is the record that said so.
func setPhase(tx *store.SessionTx, phase, detail string, n int64) {
	s := tx.Session
	now, old := slices.Index(phases, phase), -1
	if s.Phase != nil {
		old = slices.Index(phases, *s.Phase)
	}
	same := now == old && (s.PhaseDetail == nil) == (detail == "") && (s.PhaseDetail == nil || *s.PhaseDetail == detail)
	if now < 0 || now < old || same {
		return
	}
	s.Phase, s.PhaseDetail = &phase, nil
	if detail != "" {
		s.PhaseDetail = &detail
	}
	tx.Append(store.NewEvent{Type: "session.phase", Attempt: s.Attempt, N: n, Data: map[string]any{"phase": phase, "detail": s.PhaseDetail}})
}
