package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/store"
)

const (
	endGrace    = 2 * time.Second // for the last output of a sandbox whose session has ended
	askWithin   = 5 * time.Second // for the health of a sandbox that seems idle
	defaultWait = 10 * time.Minute
)

// awake returns the session when its sandbox runs, having woken it if it was suspended.
func (s *Service) awake(ctx context.Context, id string) (store.Session, error) {
	changed, unwatch := s.hub.watch(id)
	defer unwatch()
	// The controller ends a wake that takes too long; the timer is for when no controller leads, the tick for lost notifications.
	limit := time.NewTimer(cmp.Or(s.o.StartTimeout, defaultWait) + resyncEvery)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for woken := false; ; {
		sess, err := s.o.Store.GetSession(ctx, id)
		switch {
		case err != nil && !(woken && errors.Is(err, store.ErrUnavailable)):
			return sess, err
		case err != nil: // look again
		default:
			if err := attachable(sess); err != nil {
				return sess, err
			}
			if sess.SandboxState == sandboxRunning {
				return sess, nil
			}
			if sess.Desired == wantSuspended {
				if woken {
					return sess, ErrNotWoken
				}
				if err := s.wakeUp(ctx, id); err != nil {
					return sess, err
				}
			}
			woken = true
		}
		select {
		case <-ctx.Done():
			return sess, ctx.Err()
		case <-s.closing:
			return sess, ErrClosing
		case <-limit.C:
			return sess, ErrNotWoken
		case <-changed:
		case <-tick.C:
		}
	}
}

// attachable says why a session has no terminal to attach to, though it may have to be woken first.
func attachable(s store.Session) error {
	switch {
	case s.Desired == wantDeleted:
		return store.ErrNotFound
	case !SupportsTUI(s.HarnessID):
		return ErrNoTerminal
	case s.Status != Ready:
		return ErrNotReady
	}
	return nil
}

// CanAttach returns what OpenTerminal would refuse a session for as it is now. It changes nothing.
func (s *Service) CanAttach(ctx context.Context, id string) error {
	sess, err := s.o.Store.GetSession(ctx, id)
	if err != nil {
		return err
	}
	return attachable(sess)
}

func (s *Service) wakeUp(ctx context.Context, id string) error {
	return s.o.Store.Session(ctx, id, func(tx *store.SessionTx) error {
		if tx.Session.Status != Ready || tx.Session.Desired != wantSuspended {
			return nil // it moved on meanwhile
		}
		if s.o.Gateway.BaseURL == "" {
			return ErrNoGateway
		}
		s.o.wake(tx)
		return s.o.admit(tx, false)
	})
}

// watch ends the terminal when its session does, and notes activity, until ctx ends.
func (t *Terminal) watch(ctx context.Context, changed <-chan struct{}, every time.Duration) {
	defer t.note()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var end error
	var grace <-chan time.Time
	for {
		if e := t.look(ctx); e != nil && end == nil {
			end, grace = e, time.After(endGrace)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.s.closing:
			t.finish(ErrClosing)
			return
		case <-grace:
			t.finish(end)
			return
		case <-changed:
		case <-tick.C:
			t.note()
		}
	}
}

// finish ends the terminal from this side.
func (t *Terminal) finish(why error) {
	t.why = why
	close(t.over)
	_ = t.ws.CloseNow()
}

// look says why the terminal is over, nil if it is not, as far as the session's row tells.
func (t *Terminal) look(ctx context.Context) error {
	s, err := t.s.o.Store.GetSession(ctx, t.session)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && s.Desired == wantDeleted:
		return &TerminalEnd{Reason: "the session was deleted"}
	case err != nil:
		return nil // the database is away, the terminal is not
	case !live(s.Status) && s.Desired == wantStopped:
		return &TerminalEnd{Reason: "the session was stopped"}
	case !live(s.Status):
		return &TerminalEnd{Reason: "the session has ended"}
	case s.Desired == wantSuspended:
		return &TerminalEnd{Reason: "the session was idle and is suspended"}
	case s.Attempt != t.attempt:
		return &TerminalEnd{Reason: "the session was restarted", Again: true}
	}
	return nil
}

func (t *Terminal) touch() { t.active.Store(time.Now().UnixNano()) }

// note writes down that bytes went through the terminal, if any did since it was last called.
func (t *Terminal) note() {
	at := t.active.Swap(0)
	if at == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), noteWithin)
	defer cancel()
	err := t.s.o.Store.Session(ctx, t.session, func(tx *store.SessionTx) error {
		if tx.Session.Attempt == t.attempt {
			seen(tx.Session, time.Unix(0, at))
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.active.CompareAndSwap(0, at) // the next time, then
		t.s.o.Logger.Warn("activity of a terminal is not stored", "session_id", t.session, "err", err)
	}
}

// seen notes that a running session was active.
func seen(s *store.Session, at time.Time) {
	at = at.UTC().Truncate(time.Millisecond)
	if s.Status == Ready && s.Desired == wantRunning && (s.LastSeenAt == nil || s.LastSeenAt.Before(at)) {
		s.LastSeenAt = &at
	}
}

// terminalUsed asks the sandbox of a session that seems idle whether bytes went through its terminal, which they do with nobody
// attached, and notes it, in s too. A sandbox that does not answer is not suspended: its link finds out whether it is lost.
func (r *reconciler) terminalUsed(ctx context.Context, s *store.Session) (bool, error) {
	l := r.c.linkOf(*s)
	if l == nil {
		return false, errStale
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	health, err := l.api.GetHealthWithResponse(ctx)
	if err != nil {
		return false, fmt.Errorf("ask for activity: %w", err)
	}
	if health.JSON200 == nil {
		return false, fmt.Errorf("ask for activity: %s", refusal(health.StatusCode(), health.Body))
	}
	at := health.JSON200.TerminalActiveAt
	if at == nil {
		return false, nil
	}
	used := false
	err = r.update(ctx, *s, func(tx *store.SessionTx) error {
		before := idleAt(tx.Session)
		if now := tx.Now(); at.After(now) { // what a sandbox says may be anything
			at = &now
		}
		seen(tx.Session, *at)
		used = idleAt(tx.Session).After(before)
		s.LastSeenAt = tx.Session.LastSeenAt
		return nil
	})
	return used, err
}
