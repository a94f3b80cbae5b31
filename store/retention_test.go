package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// resting makes a session that has rested since a time, with some events and a turn, and lets a test say more of it.
func resting(t *testing.T, s *store.Store, since time.Time, events int, more func(*store.Session)) store.Session {
	t.Helper()
	sess := newSession(t, s)
	check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
		for range events {
			tx.Append(store.NewEvent{Type: "x"})
		}
		tx.Session.Status, tx.Session.Desired, tx.Session.Settled, tx.Session.StoppedAt = "dead", "stopped", true, &since
		more(tx.Session)
		return tx.AddTurn(&store.Turn{})
	}))
	return sess
}

func TestSessionsRestFromTheirEndOrTheirSuspension(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		now := time.Now().UTC().Truncate(time.Millisecond)
		ago := func(d time.Duration) time.Time { return now.Add(-d) }
		ended := resting(t, s, ago(3*time.Hour), 0, func(*store.Session) {})
		asleep := resting(t, s, ago(0), 0, func(x *store.Session) {
			x.Status, x.Desired, x.StoppedAt, x.SuspendedAt = "ready", "suspended", nil, ptr(ago(2*time.Hour))
		})
		stoppedAsleep := resting(t, s, ago(time.Hour), 0, func(x *store.Session) { x.SuspendedAt = ptr(ago(9 * time.Hour)) })
		spent := resting(t, s, ago(4*time.Hour), 0, func(x *store.Session) { x.ExpiredAt = &now })
		deleted := resting(t, s, ago(5*time.Hour), 0, func(x *store.Session) { x.Desired = "deleted" })
		resting(t, s, ago(6*time.Hour), 0, func(x *store.Session) { x.Desired, x.Settled = "deleted", false })
		newSession(t, s)
		for d, want := range map[time.Duration][]string{
			4 * time.Hour: {}, 3 * time.Hour: {ended.ID}, 2 * time.Hour: {ended.ID, asleep.ID}, 0: {ended.ID, asleep.ID, stoppedAsleep.ID},
		} {
			if got, err := s.RestedSessions(t.Context(), ago(d), 10); err != nil || !slices.Equal(got, want) {
				t.Errorf("rested for %v: %v %v, want %v", d, got, err, want)
			}
		}
		if got, err := s.RestedSessions(t.Context(), now, 1); err != nil || !slices.Equal(got, []string{ended.ID}) {
			t.Errorf("the longest: %v %v", got, err)
		}
		for d, want := range map[time.Duration][]string{5 * time.Hour: {deleted.ID}, 0: {deleted.ID, spent.ID}} {
			if got, err := s.SpentSessions(t.Context(), ago(d), 10); err != nil || !slices.Equal(got, want) {
				t.Errorf("spent for %v: %v %v, want %v", d, got, err, want)
			}
		}
	})
}

func TestAPurgeLeavesNothingOfASessionAndAllOfOthers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		l, before := lead(t, s), time.Now()
		old := before.Add(-time.Hour)
		expired := func(x *store.Session) { x.ExpiredAt = &old }
		gone := resting(t, s, old, 4321, expired)
		var others []string
		for _, more := range []func(*store.Session){
			func(*store.Session) {}, // has its workspace still
			func(x *store.Session) { expired(x); x.Settled = false },
			func(x *store.Session) { expired(x); x.StoppedAt = ptr(before.Add(time.Hour)) },
			func(x *store.Session) { expired(x); x.Status, x.StoppedAt = "creating", nil }, // restarted in the meantime
		} {
			others = append(others, resting(t, s, old, 3, more).ID)
		}
		// What a leader leaves that is killed after its first transaction.
		check(t, store.Exec(t, s, "DELETE FROM events WHERE session_id = ? AND seq <= 2000", gone.ID))
		for _, id := range append(others, gone.ID, gone.ID) {
			check(t, s.PurgeSession(t.Context(), l, id, before))
		}
		if _, err := s.GetSession(t.Context(), gone.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the session: %v", err)
		}
		sessions, turns, events := store.CountRows(t, s, "sessions"), store.CountRows(t, s, "turns"), store.CountRows(t, s, "events")
		if sessions != 4 || turns != 4 || events != 12 {
			t.Errorf("%d sessions, %d turns and %d events are left, want 4, 4 and 12", sessions, turns, events)
		}
	})
}

func TestOnlyTheLeaderPurges(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		before := time.Now()
		sess := resting(t, s, before.Add(-time.Hour), 1, func(x *store.Session) { x.ExpiredAt = &before })
		check(t, s.MarkAgentDeleted(t.Context(), newAgent(t, s).ID, nil))
		old := lead(t, s)
		lead(t, s)
		if err := s.PurgeSession(t.Context(), old, sess.ID, before); !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("session: %v", err)
		}
		if _, err := s.PurgeAgents(t.Context(), old, before.Add(time.Hour), 10); !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("agents: %v", err)
		}
		if n := store.CountRows(t, s, "sessions") + store.CountRows(t, s, "events") + store.CountRows(t, s, "agents"); n != 4 {
			t.Errorf("%d rows are left, want 4", n)
		}
	})
}

func TestDeletedAgentsArePurgedWithTheirLastSession(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		l, soon := lead(t, s), time.Now().Add(time.Hour)
		unused, used, kept := newAgent(t, s), newSession(t, s), newAgent(t, s)
		check(t, s.MarkAgentDeleted(t.Context(), unused.ID, nil))
		check(t, s.MarkAgentDeleted(t.Context(), used.AgentID, nil))
		purge := func(before time.Time, want int) {
			t.Helper()
			if n, err := s.PurgeAgents(t.Context(), l, before, 10); n != want || err != nil {
				t.Errorf("%d agents, %v, want %d", n, err, want)
			}
		}
		purge(time.Now().Add(-time.Hour), 0)
		purge(soon, 1)
		purge(soon, 0)
		check(t, s.Session(t.Context(), used.ID, func(tx *store.SessionTx) error {
			now := tx.Now()
			tx.Session.Status, tx.Session.Desired, tx.Session.Settled, tx.Session.StoppedAt = "dead", "deleted", true, &now
			return nil
		}))
		check(t, s.PurgeSession(t.Context(), l, used.ID, soon))
		purge(soon, 1)
		if _, err := s.GetAgent(t.Context(), kept.ID); err != nil {
			t.Error(err)
		}
		if n := store.CountRows(t, s, "agents") + store.CountRows(t, s, "agent_versions"); n != 2 {
			t.Errorf("%d rows of agents are left, want 2", n)
		}
	})
}

func TestPlacesAreCountedByOneAtATime(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		first, second := newSession(t, s), newSession(t, s)
		resting(t, s, time.Now(), 0, func(*store.Session) {})
		counted := make(chan struct{})
		done := make(chan error, 1)
		check(t, s.Session(t.Context(), first.ID, func(tx *store.SessionTx) error {
			o, err := tx.Others(2)
			if err != nil || o.Placed != 1 || !o.Last.Equal(second.CreatedAt) && o.Last.Before(first.CreatedAt) {
				t.Errorf("beside the first: %+v %v", o, err)
			}
			if o, err := tx.Others(3); err != nil || !o.Last.IsZero() {
				t.Errorf("the third last of two others: %+v %v", o, err)
			}
			go func() {
				close(counted)
				done <- s.Session(context.WithoutCancel(t.Context()), second.ID, func(tx *store.SessionTx) error {
					o, err := tx.Others(0)
					if o.Placed != 0 {
						t.Errorf("the second counted %d places before the first was through", o.Placed)
					}
					return err
				})
			}()
			<-counted
			tx.Session.Status, tx.Session.Desired = "dead", "stopped"
			return nil
		}))
		check(t, <-done)
	})
}
