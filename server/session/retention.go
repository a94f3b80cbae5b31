package session

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/store"
)

// What a session without a sandbox leaves is kept for a while, and then goes in two steps. After Options.SessionRetention its
// workspace and settings expire: the row says so first, and the clean-up that every ended session gets removes them, so a leader
// killed in between leaves nothing behind. After Options.DataRetention its rows go, the session's last.

const (
	retainBatch   = 100
	retainBatches = 10 // in one sweep
)

// retain expires and removes what was kept long enough.
func (r *reconciler) retain(ctx context.Context) error {
	if keep := r.c.o.SessionRetention; keep > 0 {
		before := time.Now().Add(-keep)
		err := inBatches(ctx, before, r.c.o.Store.RestedSessions, func(id string) error {
			return r.c.o.Store.Observe(ctx, r.lease, id, func(tx *store.SessionTx) error { return expire(tx, before, keep) })
		})
		if err != nil {
			return fmt.Errorf("expire sessions: %w", err)
		}
	}
	if keep := r.c.o.DataRetention; keep > 0 {
		return r.purge(ctx, time.Now().Add(-keep))
	}
	return nil
}

func (r *reconciler) purge(ctx context.Context, before time.Time) error {
	err := inBatches(ctx, before, r.c.o.Store.SpentSessions, func(id string) error {
		r.c.o.Logger.Info("removing session", "session_id", id)
		return r.c.o.Store.PurgeSession(ctx, r.lease, id, before)
	})
	if err != nil {
		return fmt.Errorf("remove sessions: %w", err)
	}
	n, err := r.c.o.Store.PurgeAgents(ctx, r.lease, before, retainBatch)
	if n > 0 {
		r.c.o.Logger.Info("removed deleted agents", "agents", n)
	}
	return err
}

// inBatches does one thing to all sessions that a list names, as many as one sweep takes.
func inBatches(
	ctx context.Context, before time.Time, list func(context.Context, time.Time, int) ([]string, error), do func(id string) error,
) error {
	for range retainBatches {
		ids, err := list(ctx, before, retainBatch)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := do(id); err != nil {
				return err
			}
		}
		if len(ids) < retainBatch {
			return nil
		}
	}
	return nil
}

// expire writes that workspace and settings of a session are to go, unless it was woken or restarted in the meantime. The harness
// keeps its conversation in the workspace.
func expire(tx *store.SessionTx, before time.Time, kept time.Duration) error {
	s := tx.Session
	since := s.StoppedAt
	if since == nil {
		since = s.SuspendedAt
	}
	if since == nil || since.After(before) || s.ExpiredAt != nil || s.Desired == wantDeleted {
		return nil
	}
	now := tx.Now()
	s.ExpiredAt, s.HarnessSessionID, s.Settled = &now, nil, false
	if !live(s.Status) {
		return nil
	}
	return end(tx, wantStopped, Dead, "expired: it was suspended for "+inWords(kept))
}

// inWords writes a duration without parts that are zero.
func inWords(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-len(zero)+1]
		}
	}
	return text
}

// workspaceOf tells what an attempt that begins finds in its workspace.
func (o *Options) workspaceOf(s *store.Session) string {
	if s.ExpiredAt != nil || !o.keepsWorkspaces() {
		return "fresh"
	}
	return "kept"
}
