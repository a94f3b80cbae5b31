package session_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// bounded is another service with bounds, beside the rig's own.
func (r *rig) bounded(sessions, rate int) *session.Service {
	o := r.o
	o.MaxSessions, o.SessionRate = sessions, rate
	s := session.NewService(o)
	r.t.Cleanup(s.Close)
	return s
}

// flood makes n requests at once, of all services in turn, and counts those that succeeded. The others must be refused as want.
func flood(t *testing.T, n int, want error, services []*session.Service, do func(*session.Service) error) int {
	t.Helper()
	var ok atomic.Int64
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			switch err := do(services[i%len(services)]); {
			case err == nil:
				ok.Add(1)
			case !errors.Is(err, want):
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
	wg.Wait()
	return int(ok.Load())
}

// replicas are two stores on one database, or on SQLite twice the same.
func replicas(t *testing.T, fn func(t *testing.T, a, b *rig)) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		first := storetest.OpenWith(t, o)
		second := first
		if kind == storetest.KindPostgres {
			second = storetest.OpenWith(t, o)
		}
		a, b := newRig(t, first), newRig(t, second)
		a.stop()
		b.stop()
		fn(t, a, b)
	})
}

func TestReplicasTogetherNeverOpenMoreSessionsThanThereAreFor(t *testing.T) {
	replicas(t, func(t *testing.T, a, b *rig) {
		agent := a.agent(nil)
		other := a.agent(nil)
		var turn atomic.Int64
		open := func(s *session.Service) error {
			id := agent
			if turn.Add(1)%2 == 0 {
				id = other
			}
			_, err := s.Create(t.Context(), session.CreateParams{AgentID: id, EnvVars: map[string]string{"K": "v"}})
			return err
		}
		if n := flood(t, 50, session.ErrCapacity, []*session.Service{a.bounded(7, 0), b.bounded(7, 0)}, open); n != 7 {
			t.Errorf("%d sessions were opened, want 7", n)
		}
		_, _, here := a.rt.count()
		_, _, there := b.rt.count()
		if here+there != 7 {
			t.Errorf("settings of %d sessions are kept, want 7", here+there)
		}
		if n := flood(t, 50, session.ErrRate, []*session.Service{a.bounded(0, 20), b.bounded(0, 20)}, open); n != 13 {
			t.Errorf("%d more sessions were opened within the minute, want 13", n)
		}
	})
}

func TestARateRefusalSaysHowLong(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		s, agent := r.bounded(0, 1), r.agent(nil)
		if _, err := s.Create(t.Context(), session.CreateParams{AgentID: agent}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Create(t.Context(), session.CreateParams{AgentID: agent})
		var rate *session.RateError
		if !errors.As(err, &rate) || rate.After <= 0 || rate.After > time.Minute {
			t.Errorf("got %v", err)
		}
	})
}

func TestStoppedAndSuspendedSessionsLeaveTheirPlace(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		s := r.bounded(1, 0)
		sleeper := r.idle(100 * time.Millisecond)
		r.suspended(sleeper)
		first, err := s.Create(t.Context(), session.CreateParams{AgentID: r.agent(nil)})
		if err != nil {
			t.Fatal(err)
		}
		r.await(first.ID, session.Ready)
		events := len(r.events(sleeper))
		if _, err := s.Send(t.Context(), sleeper, text("wake up")); !errors.Is(err, session.ErrCapacity) {
			t.Errorf("wake without a place: %v", err)
		}
		if got := r.session(sleeper); got.SandboxState != "suspended" || got.TurnCount != 0 || len(r.events(sleeper)) != events {
			t.Errorf("the refusal changed the session: %+v", got)
		}
		if _, err := s.Restart(t.Context(), sleeper); !errors.Is(err, session.ErrCapacity) {
			t.Errorf("restart without a place: %v", err)
		}
		if _, err := s.Restart(t.Context(), first.ID); err != nil {
			t.Errorf("restart of the session that has the place: %v", err)
		}
		r.await(first.ID, session.Ready)
		if _, err := s.Send(t.Context(), first.ID, text("hello")); err != nil {
			t.Errorf("message to the session that has the place: %v", err)
		}
		if _, err := s.Stop(t.Context(), first.ID); err != nil {
			t.Fatal(err)
		}
		turn, err := s.Send(t.Context(), sleeper, text("wake up"))
		if err != nil {
			t.Fatalf("wake when there is a place: %v", err)
		}
		if got := r.wait(turn); got.Status != session.TurnCompleted {
			t.Errorf("turn = %+v", got)
		}
		if _, err := s.Restart(t.Context(), first.ID); !errors.Is(err, session.ErrCapacity) && r.session(sleeper).SandboxState != "suspended" {
			t.Errorf("restart of a stopped session without a place: %v", err)
		}
	})
}

func TestWakesAndRestartsAtOnceKeepToTheBound(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var ids []string
		for range 8 {
			id := r.open(session.CreateParams{})
			if _, err := r.service.Stop(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		r.stop()
		for _, id := range ids[4:] { // these sleep
			if err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
				tx.Session.Status, tx.Session.Desired, tx.Session.SandboxState, tx.Session.StoppedAt = session.Ready, "suspended", "suspended", nil
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		var next atomic.Int64
		n := flood(t, len(ids), session.ErrCapacity, []*session.Service{r.bounded(3, 0), r.bounded(3, 0)}, func(s *session.Service) error {
			id := ids[next.Add(1)-1]
			if r.session(id).Desired == "suspended" {
				_, err := s.Send(t.Context(), id, text("wake up"))
				return err
			}
			_, err := s.Restart(t.Context(), id)
			return err
		})
		if n != 3 {
			t.Errorf("%d sessions got a place, want 3", n)
		}
	})
}
