package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// lead takes leadership and gives it up again.
func lead(t *testing.T, s *store.Store) store.Lease {
	t.Helper()
	var l store.Lease
	check(t, s.Lead(within(t), func(_ context.Context, got store.Lease) error {
		l = got
		return nil
	}))
	return l
}

func TestOnlyTheCurrentLeaseMayObserve(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		old := lead(t, s)
		check(t, s.Observe(t.Context(), old, sess.ID, appendOne("old")))
		current := lead(t, s)
		if current.Epoch <= old.Epoch {
			t.Fatalf("epoch %d after %d", current.Epoch, old.Epoch)
		}
		err := s.Observe(t.Context(), old, sess.ID, func(*store.SessionTx) error {
			t.Error("ran")
			return nil
		})
		if !errors.Is(err, store.ErrLeaseLost) {
			t.Fatal(err)
		}
		check(t, s.Observe(t.Context(), current, sess.ID, appendOne("new")))
		if got, err := s.GetSession(t.Context(), sess.ID); err != nil || got.LastSeq != 2 {
			t.Fatalf("%+v %v", got, err)
		}
	})
}

// What a leader changes is neither overwritten by others nor outlived by its lease.
func TestALeaderKeepsTheSessionAndItsLeaseUntilItCommits(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		l, sess := lead(t, s), newSession(t, s)
		entered, leave, observed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			observed <- s.Observe(t.Context(), l, sess.ID, func(tx *store.SessionTx) error {
				close(entered)
				<-leave
				tx.Session.TurnCount++
				return nil
			})
		}()
		<-entered
		others := make(chan error, 2)
		go func() {
			others <- s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { tx.Session.TurnCount++; return nil })
		}()
		go func() { others <- store.Exec(t, s, "UPDATE leadership SET epoch = epoch + 1") }()
		for range 2 {
			select {
			case err := <-others:
				t.Fatalf("another one was not kept waiting: %v", err)
			case <-time.After(200 * time.Millisecond):
			}
		}
		close(leave)
		check(t, receive(t, observed))
		check(t, receive(t, others))
		check(t, receive(t, others))
		got, err := s.GetSession(t.Context(), sess.ID)
		if check(t, err); got.TurnCount != 2 {
			t.Errorf("count %d", got.TurnCount)
		}
	})
}

func TestLeadReturnsWhatItsFunctionReturns(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		err := s.Lead(t.Context(), func(context.Context, store.Lease) error { return errBoom })
		if err != errBoom {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = s.Lead(ctx, func(ctx context.Context, _ store.Lease) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrLeaseLost) {
			t.Fatal(err)
		}
	})
}

func TestOneLeadsAndTheNextFollows(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		first := storetest.OpenWith(t, o)
		second := first // one process on SQLite
		if kind == storetest.KindPostgres {
			second = storetest.OpenWith(t, o)
		}
		leading, resign := make(chan store.Lease), make(chan struct{})
		firstDone, secondDone := make(chan error, 1), make(chan error, 1)
		go func() {
			firstDone <- first.Lead(t.Context(), func(_ context.Context, l store.Lease) error {
				leading <- l
				<-resign
				return nil
			})
		}()
		old := receive(t, leading)
		waiting, giveUp := context.WithCancel(t.Context())
		go func() {
			secondDone <- second.Lead(waiting, func(context.Context, store.Lease) error {
				t.Error("two lead")
				return nil
			})
		}()
		giveUp()
		if err := receive(t, secondDone); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		go func() {
			secondDone <- second.Lead(t.Context(), func(_ context.Context, l store.Lease) error {
				leading <- l
				return nil
			})
		}()
		close(resign)
		check(t, receive(t, firstDone))
		if l := receive(t, leading); l.Epoch <= old.Epoch {
			t.Fatalf("epoch %d after %d", l.Epoch, old.Epoch)
		}
		check(t, receive(t, secondDone))
	})
}
