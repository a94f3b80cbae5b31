package store_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const stateCanary = "canary-5d2e-of-a-state"

// kept stores a checkpoint and reports whether it was.
func kept(t *testing.T, s *store.Store, l store.Lease, id string, attempt int32, number int64, lastTurn, state string) bool {
	t.Helper()
	stored, err := s.PutCheckpoint(t.Context(), l, store.Checkpoint{
		SessionID: id, Attempt: attempt, Number: number, Mark: "mark", Conversation: "native",
	}, lastTurn, []byte(state))
	check(t, err)
	return stored
}

func attempt(t *testing.T, s *store.Store, id string, n int32, more func(tx *store.SessionTx) error) {
	t.Helper()
	check(t, s.Session(t.Context(), id, func(tx *store.SessionTx) error {
		tx.Session.Attempt = n
		return more(tx)
	}))
}

func nothing(*store.SessionTx) error { return nil }

func TestANewerCheckpointReplacesAnOlderOneAndNeverTheOtherWayRound(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		l, sess := lead(t, s), newSession(t, s)
		if _, _, err := s.CheckpointState(t.Context(), sess.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("without one: %v", err)
		}
		attempt(t, s, sess.ID, 3, nothing)
		for _, c := range []struct {
			attempt int32
			number  int64
			stored  bool
		}{{2, 7, true}, {2, 7, false}, {2, 6, false}, {1, 90, false}, {3, 1, true}, {2, 8, false}, {4, 1, false}, {3, 2, true}} {
			if got := kept(t, s, l, sess.ID, c.attempt, c.number, "", "state"); got != c.stored {
				t.Errorf("%+v: stored %v", c, got)
			}
		}
		c, state, err := s.CheckpointState(t.Context(), sess.ID)
		if err != nil || c.Attempt != 3 || c.Number != 2 || string(state) != "state" || c.Conversation != "native" || c.CreatedAt.IsZero() {
			t.Errorf("%+v %q %v", c, state, err)
		}
		if got, err := s.GetCheckpoint(t.Context(), sess.ID); err != nil || got.Sealed != nil || got.Mark != "mark" {
			t.Errorf("%+v %v", got, err)
		}
		lead(t, s)
		if _, err := s.PutCheckpoint(t.Context(), l, store.Checkpoint{SessionID: sess.ID, Attempt: 3, Number: 9}, "", nil); !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("of a former leader: %v", err)
		}
		if err := s.DeleteCheckpoint(t.Context(), l, sess.ID); !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("deletion by a former leader: %v", err)
		}
	})
}

func TestACheckpointCoversTheTurnsThatAreInIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		l, sess := lead(t, s), newSession(t, s)
		var turns []store.Turn
		now := time.Now()
		attempt(t, s, sess.ID, 3, func(tx *store.SessionTx) error {
			for _, of := range []int32{1, 1, 2, 3, 3, 0} {
				turn := store.Turn{Attempt: of, Status: "completed", HandedAt: &now}
				if of == 0 {
					turn.Status, turn.HandedAt = "queued", nil
				}
				check(t, tx.AddTurn(&turn))
				turns = append(turns, turn)
			}
			return nil
		})
		for i, c := range []struct {
			attempt int32
			last    string
			covers  int64
		}{{1, "", 0}, {1, turns[0].ID, 1}, {2, "", 2}, {2, turns[2].ID, 3}, {3, "", 3}, {3, turns[3].ID, 4}, {3, "not an id", 3}, {3, turns[5].ID, 3}} {
			if !kept(t, s, l, sess.ID, c.attempt, int64(i+1), c.last, "x") {
				t.Fatalf("%+v is not stored", c)
			}
			if got, err := s.GetCheckpoint(t.Context(), sess.ID); err != nil || got.Covers != c.covers {
				t.Errorf("%+v: it covers %d, %v", c, got.Covers, err)
			}
		}
	})
}

func TestACheckpointGoesWithItsSession(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		l, old := lead(t, s), time.Now().Add(-time.Hour)
		for _, end := range []func(*store.Session){
			func(x *store.Session) { x.ExpiredAt = &old },
			func(x *store.Session) { x.Desired = "deleted" },
		} {
			sess := resting(t, s, old, 1, func(x *store.Session) { x.Attempt = 1 })
			if !kept(t, s, l, sess.ID, 1, 1, "", "x") {
				t.Fatal("not stored")
			}
			check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { end(tx.Session); return nil }))
			if kept(t, s, l, sess.ID, 1, 2, "", "late") {
				t.Error("one was stored for a session that keeps nothing")
			}
			check(t, s.PurgeSession(t.Context(), l, sess.ID, time.Now()))
		}
		sess := newSession(t, s)
		attempt(t, s, sess.ID, 1, nothing)
		kept(t, s, l, sess.ID, 1, 1, "", "x")
		for range 2 {
			check(t, s.DeleteCheckpoint(t.Context(), l, sess.ID))
		}
		if n := store.CountRows(t, s, "checkpoints"); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

func TestACheckpointIsSealedForItsSession(t *testing.T) {
	t.Parallel()
	eachRotating(t, func(t *testing.T, r rotating) {
		var ids []string
		put := func(s *store.Store, state string) {
			sess := newSession(t, s)
			attempt(t, s, sess.ID, 1, nothing)
			kept(t, s, lead(t, s), sess.ID, 1, 1, "", state)
			ids = append(ids, sess.ID)
		}
		r.with(oldKey, func(s *store.Store) {
			put(s, stateCanary)
			put(s, "other")
			// What was sealed for one session is of no use to another.
			check(t, store.Exec(t, s, "UPDATE checkpoints SET sealed = (SELECT sealed FROM checkpoints WHERE session_id = ?) WHERE session_id = ?", ids[0], ids[1]))
			if _, _, err := s.CheckpointState(t.Context(), ids[1]); !errors.Is(err, store.ErrSealed) {
				t.Errorf("one that was moved: %v", err)
			}
			check(t, s.DeleteCheckpoint(t.Context(), lead(t, s), ids[1]))
			raw := rawDatabase(t, r.o)
			for _, plain := range []string{stateCanary, hex.EncodeToString([]byte(stateCanary))} {
				if strings.Contains(raw, plain) {
					t.Errorf("%q is readable", plain)
				}
			}
			if !strings.Contains(raw, ids[0]) {
				t.Error("the search sees nothing of the database")
			}
		})
		r.with(newKey, func(s *store.Store) {
			if _, _, err := s.CheckpointState(t.Context(), ids[0]); !errors.Is(err, store.ErrSealed) {
				t.Errorf("without its key: %v", err)
			}
			if _, err := s.Rekey(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "1 checkpoints are sealed with key "+keyID(t, oldKey)) {
				t.Errorf("rekey without its key: %v", err)
			}
		})
		r.with(newKey+","+oldKey, func(s *store.Store) {
			put(s, "new")
			uses, err := s.KeyUses(t.Context())
			if check(t, err); uses[0].Checkpoints != 1 || uses[1].Checkpoints != 1 || !uses[1].Needed() {
				t.Errorf("%+v", uses)
			}
			if n, err := s.Rekey(t.Context(), nil); err != nil || n != 1 {
				t.Errorf("%d changed, %v", n, err)
			}
		})
		r.with(newKey, func(s *store.Store) {
			if _, state, err := s.CheckpointState(t.Context(), ids[0]); err != nil || string(state) != stateCanary {
				t.Errorf("%q, %v", state, err)
			}
		})
	})
}
