package store_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var errBoom = errors.New("boom")

func appendOne(typ string) func(tx *store.SessionTx) error {
	return func(tx *store.SessionTx) error {
		tx.Append(store.NewEvent{Type: typ})
		return nil
	}
}

func TestEventsComeBackInOrder(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess, turn := newSession(t, s), newAgent(t, s).ID
		at := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
		var now time.Time
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			now = tx.Now()
			tx.Append(store.NewEvent{Type: "a", TurnID: &turn, Time: at.Add(1), Data: map[string]any{"z": 1, "a": "<\n>"}})
			tx.Append(store.NewEvent{Type: "b", Data: json.RawMessage(`{"z": 1,  "a": 2}`)})
			return nil
		}))
		want := []store.Event{
			{SessionID: sess.ID, Seq: 1, Type: "a", TurnID: &turn, Time: at, Data: json.RawMessage(`{"a":"\u003c\n\u003e","z":1}`)},
			{SessionID: sess.ID, Seq: 2, Type: "b", Time: now, Data: json.RawMessage(`{"z":1,"a":2}`)},
		}
		got, err := s.Events(t.Context(), sess.ID, 0, 10)
		check(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		for _, x := range []struct {
			after int64
			limit int
			want  []store.Event
		}{{0, 1, want[:1]}, {1, 10, want[1:]}, {2, 10, want[:0]}} {
			if got, err := s.Events(t.Context(), sess.ID, x.after, x.limit); err != nil || !reflect.DeepEqual(got, x.want) {
				t.Errorf("after %d limit %d: %v %v", x.after, x.limit, got, err)
			}
		}
	})
}

func TestManyEventsOfOneUnitAreStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			for range 1234 {
				tx.Append(store.NewEvent{Type: "a"})
			}
			return nil
		}))
		got, err := s.Events(t.Context(), sess.ID, 0, 5000)
		check(t, err)
		if len(got) != 1234 || got[1233].Seq != 1234 {
			t.Fatalf("%d events", len(got))
		}
	})
}

func TestEventsThatCannotBeStoredUndoTheUnit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		for name, e := range map[string]store.NewEvent{
			"not an object": {Data: []int{1}}, "not JSON": {Data: json.RawMessage(`{`)}, "no encoding": {Data: func() {}},
			"ill-formed turn": {TurnID: ptr("x")},
		} {
			err := s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
				tx.Append(store.NewEvent{Type: "good"})
				tx.Append(e)
				return nil
			})
			if err == nil || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := store.CountRows(t, s, "events"); n != 0 {
			t.Fatalf("%d events stayed", n)
		}
	})
}

func TestRecordOfASandboxLogIsStoredOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		add := func(attempt int32, n int64) error {
			return s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
				tx.Append(store.NewEvent{Type: "x", Attempt: attempt, N: n})
				return nil
			})
		}
		check(t, add(1, 1))
		check(t, add(2, 1))
		check(t, add(1, 0))
		check(t, add(1, 0))
		if err := add(1, 1); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("the same record: %v", err)
		}
		if got, err := s.GetSession(t.Context(), sess.ID); err != nil || got.LastSeq != 4 {
			t.Fatalf("seq %d %v", got.LastSeq, err)
		}
	})
}

func TestFailedUnitLeavesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		dirty := func(tx *store.SessionTx) {
			tx.Session.Status = "dead"
			tx.Append(store.NewEvent{Type: "x"})
			check(t, tx.AddTurn(&store.Turn{}))
		}
		if err := s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { dirty(tx); return errBoom }); err != errBoom {
			t.Fatalf("got %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { dirty(tx); panic("p") })
		}()
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		if !reflect.DeepEqual(got, sess) || store.CountRows(t, s, "events")+store.CountRows(t, s, "turns") != 0 {
			t.Fatalf("something stayed: %+v", got)
		}
		check(t, s.Session(t.Context(), sess.ID, appendOne("x"))) // the connection is free again
	})
}

func TestUnitOfAnUnknownSessionIsNotFound(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		err := s.Session(t.Context(), newAgent(t, s).ID, func(*store.SessionTx) error {
			t.Error("ran")
			return nil
		})
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

func TestConcurrentAppendsAreNumberedWithoutGapOrDouble(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const writers, each = 16, 10
		sess := newSession(t, s)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					err := s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
						tx.Append(store.NewEvent{Type: fmt.Sprintf("%d-%d", w, i)})
						tx.Session.TurnCount++
						if i%3 == 2 {
							return errBoom // its numbers are used by others
						}
						return nil
					})
					if err != nil && err != errBoom {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		events, err := s.Events(t.Context(), sess.ID, 0, writers*each)
		check(t, err)
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		n := writers * each * 7 / 10
		if len(events) != n || got.LastSeq != int64(n) || got.TurnCount != int64(n) {
			t.Fatalf("%d events, last seq %d, count %d, want %d", len(events), got.LastSeq, got.TurnCount, n)
		}
		types := map[string]bool{}
		for i, e := range events {
			if e.Seq != int64(i+1) || types[e.Type] {
				t.Fatalf("event %d: %+v", i, e)
			}
			types[e.Type] = true
		}
	})
}

func TestTurns(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess, other := newSession(t, s), newSession(t, s)
		one := store.Turn{IdemKey: ptr("k"), BodyDigest: []byte{0, 1}, Input: json.RawMessage(`{"b":1, "a":2}`)}
		var two, three store.Turn
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			return errors.Join(tx.AddTurn(&one), tx.AddTurn(&two), tx.AddTurn(&three))
		}))
		if one.Position != 1 || two.Position != 2 || three.Position != 3 || one.Status != "queued" || one.SessionID != sess.ID {
			t.Fatalf("%+v %+v %+v", one, two, three)
		}
		input, err := s.TurnInput(t.Context(), sess.ID, one.ID)
		if check(t, err); string(input) != `{"b":1, "a":2}` {
			t.Errorf("input %s", input)
		}
		one.Input = nil
		one.Status, one.Attempt, one.Model, one.Result = "completed", 3, ptr("m"), json.RawMessage(`{"x":1}`)
		one.HandedAt, one.EndedAt = ptr(time.Now()), ptr(time.Now())
		two.Status = "handed"
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			if err := errors.Join(tx.SaveTurn(&one), tx.SaveTurn(&two)); err != nil {
				return err
			}
			if err := tx.AddTurn(&store.Turn{IdemKey: ptr("k")}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("the same key: %v", err)
			}
			if err := tx.AddTurn(&store.Turn{ID: one.ID}); !errors.Is(err, store.ErrConflict) {
				t.Errorf("the same id: %v", err)
			}
			open, err := tx.OpenTurns() // the unit goes on after a conflict
			if len(open) != 2 || open[0].ID != two.ID || open[1].ID != three.ID {
				t.Errorf("open: %+v", open)
			}
			byKey, err2 := tx.TurnByKey("k")
			byID, err3 := tx.Turn(one.ID)
			if !reflect.DeepEqual(byKey, one) || !reflect.DeepEqual(byID, one) {
				t.Errorf("got  %+v\nand  %+v\nwant %+v", byKey, byID, one)
			}
			return errors.Join(err, err2, err3)
		}))
		got, err := s.GetTurn(t.Context(), sess.ID, one.ID)
		check(t, err)
		if !reflect.DeepEqual(got, one) {
			t.Fatalf("got  %+v\nwant %+v", got, one)
		}
		if _, err := s.GetTurn(t.Context(), other.ID, one.ID); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("through another session: %v", err)
		}
		check(t, s.Session(t.Context(), other.ID, func(tx *store.SessionTx) error {
			if _, err := tx.TurnByKey("k"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a key of another session: %v", err)
			}
			if err := tx.SaveTurn(&one); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("save through another session: %v", err)
			}
			same := store.Turn{IdemKey: ptr("k")}
			if err := tx.AddTurn(&same); err != nil || same.Position != 1 {
				t.Errorf("position %d: %v", same.Position, err)
			}
			return nil
		}))
	})
}

// recorder collects what a subscriber is told.
type recorder struct {
	mu      sync.Mutex // guards the rest
	ids     []string
	extents []store.Extent
}

func (r *recorder) add(c store.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids, r.extents = append(r.ids, c.SessionID), append(r.extents, c.Extent)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := r.ids
	r.ids, r.extents = nil, nil
	return ids
}

func (r *recorder) takeExtents() []store.Extent {
	r.mu.Lock()
	defer r.mu.Unlock()
	extents := r.extents
	r.ids, r.extents = nil, nil
	return extents
}

func TestSubscribersHearOfCommitsOnly(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var r recorder
		seen := int64(-1)
		cancel := s.Subscribe(r.add)
		sess := newSession(t, s)
		wantIDs(t, &r, sess.ID)
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { return nil }))
		wantIDs(t, &r)
		if err := s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { tx.Append(store.NewEvent{}); return errBoom }); err != errBoom {
			t.Fatal(err)
		}
		wantIDs(t, &r)
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { return tx.AddTurn(&store.Turn{}) }))
		wantIDs(t, &r, sess.ID)
		other := s.Subscribe(func(c store.Change) {
			page, err := s.Events(context.WithoutCancel(t.Context()), c.SessionID, 0, 10)
			if err == nil {
				seen = int64(len(page))
			}
		})
		check(t, s.Session(t.Context(), sess.ID, appendOne("x")))
		if seen != 1 {
			t.Fatalf("the call came before the commit: saw %d events", seen)
		}
		wantIDs(t, &r, sess.ID)
		cancel()
		other()
		cancel()
		check(t, s.Session(t.Context(), sess.ID, appendOne("x")))
		wantIDs(t, &r)
	})
}

func TestAChangeSaysWhetherItIsMoreThanProgress(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		turn := store.Turn{}
		save := func(change func()) func(*store.SessionTx) error {
			return func(tx *store.SessionTx) error {
				change()
				return tx.SaveTurn(&turn)
			}
		}
		var r recorder
		defer s.Subscribe(r.add)()
		now := time.Now()
		for _, c := range []struct {
			what   string
			extent store.Extent
			fn     func(*store.SessionTx) error
		}{
			{"an event", store.OnlyProgress, appendOne("x")},
			{"activity", store.OnlyProgress, func(tx *store.SessionTx) error { tx.Session.LastSeenAt, tx.Session.LogN = &now, 7; return nil }},
			{"a status", store.Anything, func(tx *store.SessionTx) error { tx.Session.Status = "ready"; return nil }},
			{"a turn", store.OnlyTurns, func(tx *store.SessionTx) error { return tx.AddTurn(&turn) }},
			{"a turn that is handed over at once", store.OnlyProgress, func(tx *store.SessionTx) error {
				tx.Session.TurnCount++
				return tx.AddTurn(&store.Turn{Status: "handed"})
			}},
			{"a hand-over", store.OnlyProgress, save(func() { turn.Status, turn.HandedAt = "handed", &now })},
			{"an abort", store.OnlyTurns, save(func() { turn.Abort = true })},
			{"an end", store.OnlyEnds, save(func() { turn.Abort, turn.EndedAt = false, &now })},
		} {
			check(t, s.Session(t.Context(), sess.ID, c.fn))
			if got := r.takeExtents(); !slices.Equal(got, []store.Extent{c.extent}) {
				t.Errorf("%s has the extent %v, want %v", c.what, got, c.extent)
			}
		}
		check(t, s.InTx(t.Context(), func(s *store.Store) error {
			for _, fn := range []func(*store.SessionTx) error{appendOne("x"), save(func() {}), appendOne("x")} {
				check(t, s.Session(t.Context(), sess.ID, fn))
			}
			return nil
		}))
		if got := r.takeExtents(); !slices.Equal(got, []store.Extent{store.OnlyEnds}) {
			t.Errorf("more and progress together are progress: %v", got)
		}
	})
}

func wantIDs(t *testing.T, r *recorder, want ...string) {
	t.Helper()
	if got := r.take(); !slices.Equal(got, want) {
		t.Fatalf("told of %v, want %v", got, want)
	}
}

func TestNestedTransactionsJoinTheOuter(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		one, two, untouched := newSession(t, s), newSession(t, s), newSession(t, s)
		var r recorder
		defer s.Subscribe(r.add)()
		check(t, s.InTx(t.Context(), func(s *store.Store) error {
			for _, id := range []string{two.ID, one.ID, two.ID} {
				if err := s.Session(t.Context(), id, appendOne("kept")); err != nil {
					return err
				}
			}
			err := s.InTx(t.Context(), func(s *store.Store) error {
				check(t, s.Session(t.Context(), one.ID, appendOne("dropped")))
				check(t, s.Session(t.Context(), untouched.ID, appendOne("dropped")))
				return errBoom
			})
			if err != errBoom {
				t.Errorf("inner: %v", err)
			}
			err = s.CreateSession(t.Context(), &store.Session{ID: one.ID, AgentID: one.AgentID}, nil)
			if !errors.Is(err, store.ErrConflict) { // which would end an unprotected transaction
				t.Errorf("conflict: %v", err)
			}
			wantIDs(t, &r)
			return nil
		}))
		wantIDs(t, &r, two.ID, one.ID)
		for id, want := range map[string]int64{one.ID: 1, two.ID: 2} {
			if got, err := s.GetSession(t.Context(), id); err != nil || got.LastSeq != want {
				t.Fatalf("last seq %d, want %d: %v", got.LastSeq, want, err)
			}
		}
		err := s.InTx(t.Context(), func(s *store.Store) error {
			check(t, s.Session(t.Context(), one.ID, appendOne("dropped")))
			return errBoom
		})
		if err != errBoom {
			t.Fatal(err)
		}
		wantIDs(t, &r)
		if n := store.CountRows(t, s, "events"); n != 3 {
			t.Fatalf("%d events", n)
		}
	})
}

func TestCancelledCallerGetsItsOwnError(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Session(ctx, sess.ID, func(tx *store.SessionTx) error {
			tx.Append(store.NewEvent{})
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("unit: %v", err)
		}
		if _, err := s.GetSession(ctx, sess.ID); !errors.Is(err, context.Canceled) {
			t.Fatalf("get: %v", err)
		}
		if got, err := s.GetSession(t.Context(), sess.ID); err != nil || got.LastSeq != 0 {
			t.Fatalf("%+v %v", got, err)
		}
	})
}

func TestWriterThatWaitsTooLongFindsTheDatabaseUnavailable(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		o.Timeout = 300 * time.Millisecond
		s := storetest.OpenWith(t, o)
		sess := newSession(t, s)
		release := lockOut(t, o)
		err := s.Session(t.Context(), sess.ID, appendOne("x"))
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := s.GetSession(t.Context(), sess.ID); err != nil {
			t.Errorf("a reader waits for the writer: %v", err)
		}
		release()
		check(t, s.Session(t.Context(), sess.ID, appendOne("x")))
	})
}

// lockOut keeps every writer of sessions waiting.
func lockOut(t *testing.T, o store.Options) (release func()) {
	t.Helper()
	driver, dsn, statements := "sqlite", o.Path, []string{"BEGIN IMMEDIATE"}
	if o.DatabaseURL != "" {
		driver, dsn, statements = "pgx", o.DatabaseURL, []string{"BEGIN", "SELECT * FROM sessions FOR UPDATE"}
	}
	db, err := sql.Open(driver, dsn)
	check(t, err)
	conn, err := db.Conn(t.Context())
	check(t, err)
	for _, statement := range statements {
		_, err := conn.ExecContext(t.Context(), statement)
		check(t, err)
	}
	return func() {
		_, err := conn.ExecContext(t.Context(), "ROLLBACK")
		check(t, errors.Join(err, conn.Close(), db.Close()))
	}
}
