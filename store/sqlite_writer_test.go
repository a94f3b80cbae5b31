package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// turns runs units of work one after the other, for which they wait together.
type turns struct {
	t       *testing.T
	s       *store.Store
	proceed chan struct{}
	held    chan error
	n       int
}

// newTurns holds the turn until begin is called.
func newTurns(t *testing.T, s *store.Store) *turns {
	t.Helper()
	store.Patient(s)
	u := &turns{t: t, s: s, proceed: make(chan struct{}), held: make(chan error, 1)}
	holds := make(chan struct{})
	go func() {
		u.held <- s.InTx(t.Context(), func(*store.Store) error {
			close(holds)
			<-u.proceed
			return errBoom // so that the transaction does not go on
		})
	}()
	<-holds
	return u
}

// unit starts fn, which takes its turn after those before it.
func (u *turns) unit(fn func() error) <-chan error {
	u.t.Helper()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		done <- fn()
	}()
	u.n++
	for tick := time.NewTicker(time.Millisecond); store.UnitsWaiting(u.s) < u.n; {
		<-tick.C
	}
	return done
}

// session is a unit that appends an event to a session.
func (u *turns) session(id string) <-chan error {
	u.t.Helper()
	return u.unit(func() error { return u.s.Session(u.t.Context(), id, appendOne("x")) })
}

// begin lets them run.
func (u *turns) begin() {
	u.t.Helper()
	close(u.proceed)
	if err := <-u.held; err != errBoom {
		u.t.Fatal(err)
	}
}

func TestUnitsThatWaitAreCommittedTogetherAndFailAlone(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindSQLite)
	ids := make([]string, 6)
	for i := range ids {
		ids[i] = newSession(t, s).ID
	}
	var told recorder
	defer s.Subscribe(told.add)()
	u := newTurns(t, s)
	first := u.session(ids[0])
	fails := u.unit(func() error {
		return s.Session(t.Context(), ids[1], func(tx *store.SessionTx) error {
			tx.Append(store.NewEvent{Type: "x"})
			return errBoom
		})
	})
	panics := u.unit(func() error {
		return s.InTx(t.Context(), func(s *store.Store) error {
			check(t, s.Session(t.Context(), ids[2], appendOne("x")))
			panic("boom")
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	canceled := u.unit(func() error {
		return s.InTx(ctx, func(s *store.Store) error {
			check(t, s.Session(ctx, ids[3], appendOne("x")))
			cancel()
			return s.Session(ctx, ids[3], appendOne("x"))
		})
	})
	entered, leave := make(chan struct{}), make(chan struct{})
	slow := u.unit(func() error {
		return s.InTx(t.Context(), func(s *store.Store) error {
			close(entered)
			<-leave
			return s.Session(t.Context(), ids[4], appendOne("x"))
		})
	})
	last := u.session(ids[5])
	u.begin()
	if err := receive(t, fails); !errors.Is(err, errBoom) {
		t.Errorf("a unit that fails: %v", err)
	}
	if err := receive(t, panics); err == nil || err.Error() != "panic: boom" {
		t.Errorf("a unit that panics: %v", err)
	}
	if err := receive(t, canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("a unit whose caller goes: %v", err)
	}
	<-entered
	if len(first) > 0 || events(t, s, ids[0]) != 0 || len(told.take()) > 0 {
		t.Error("a unit has succeeded before the commit")
	}
	close(leave)
	for i, done := range []<-chan error{first, slow, last} {
		if err := receive(t, done); err != nil {
			t.Errorf("unit %d: %v", i, err)
		}
	}
	var kept []int
	for i, id := range ids {
		if events(t, s, id) > 0 {
			kept = append(kept, i)
		}
	}
	if !slices.Equal(kept, []int{0, 4, 5}) {
		t.Errorf("kept %v", kept)
	}
	wantIDs(t, &told, ids[0], ids[4], ids[5])
}

func TestWhatMayTakeLongDoesNotDelayWhatWasBeforeIt(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindSQLite)
	one, two := newSession(t, s).ID, newSession(t, s).ID
	u := newTurns(t, s)
	first := u.session(one)
	leave := make(chan struct{})
	once := u.unit(func() error {
		_, _, err := s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			err := s.Session(ctx, two, appendOne("x"))
			<-leave
			return store.Answer{Status: 200}, err
		})
		return err
	})
	u.begin()
	if err := receive(t, first); err != nil || events(t, s, one) != 1 {
		t.Errorf("%v, %d events", err, events(t, s, one))
	}
	close(leave)
	if err := receive(t, once); err != nil || events(t, s, two) != 1 {
		t.Errorf("%v, %d events", err, events(t, s, two))
	}
}

func TestATransactionThatSQLiteEndedFailsAllThatHadAPartInIt(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindSQLite)
	one, two := newSession(t, s).ID, newSession(t, s).ID
	u := newTurns(t, s)
	first := u.session(one)
	culprit := u.unit(func() error {
		return s.InTx(t.Context(), func(s *store.Store) error { return store.Disrupt(t.Context(), s) })
	})
	next := u.session(two)
	u.begin()
	if err := receive(t, first); !errors.Is(err, store.ErrUnavailable) || events(t, s, one) != 0 {
		t.Errorf("%v, %d events", err, events(t, s, one))
	}
	if err := receive(t, culprit); err == nil {
		t.Error("not disrupted")
	}
	if err := receive(t, next); err != nil || events(t, s, two) != 1 {
		t.Errorf("%v, %d events", err, events(t, s, two))
	}
}

func TestAUnitWhoseCallerGoesWhileItWaitsIsPassedOver(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindSQLite)
	one, two := newSession(t, s).ID, newSession(t, s).ID
	u := newTurns(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	gone := u.unit(func() error { return s.Session(ctx, one, appendOne("x")) })
	next := u.session(two)
	cancel()
	if err := receive(t, gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	u.begin()
	if err := receive(t, next); err != nil || events(t, s, one) != 0 || events(t, s, two) != 1 {
		t.Errorf("%v, %d and %d events", err, events(t, s, one), events(t, s, two))
	}
}

// Whatever units of work do at once: what is there is what they were told.
func TestUnitsOfWorkAreKeptOrNotAsTheyAreTold(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindSQLite)
	id := newSession(t, s).ID
	var mu sync.Mutex
	want := map[string]bool{}
	var all sync.WaitGroup
	for g := range 16 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range 40 {
				name := fmt.Sprintf("%d-%d", g, i)
				err := unit(t.Context(), s, id, name, rnd)
				if err != nil && !errors.Is(err, errBoom) && !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", name, err)
				}
				mu.Lock()
				want[name] = err == nil
				mu.Unlock()
			}
		})
	}
	all.Wait()
	list, err := s.Events(t.Context(), id, 0, 10000)
	check(t, err)
	got := map[string]bool{}
	for _, e := range list {
		got[e.Type] = true
	}
	for name, kept := range want {
		if got[name] != kept {
			t.Errorf("%s is there: %v, told: %v", name, got[name], kept)
		}
	}
}

// unit appends an event and, by chance, goes on to fail, panic, or lose its caller.
func unit(ctx context.Context, s *store.Store, id, name string, rnd *rand.Rand) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errBoom
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	what, nested := rnd.IntN(8), rnd.IntN(2) == 0
	work := func(s *store.Store) error {
		if err := s.Session(ctx, id, appendOne(name)); err != nil {
			return err
		}
		switch what {
		case 0:
			return errBoom
		case 1:
			panic("boom")
		case 2:
			cancel()
			return s.Session(ctx, id, appendOne(name))
		}
		return nil
	}
	if what == 3 {
		time.AfterFunc(time.Duration(rnd.IntN(2000))*time.Microsecond, cancel)
	}
	return s.InTx(ctx, func(s *store.Store) error {
		if nested {
			return s.InTx(ctx, work)
		}
		return work(s)
	})
}
