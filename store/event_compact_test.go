package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// talk appends what a turn says: "p+" is a delta of part p, "p=" the whole part, "p!" a tool of that name.
func talk(tx *store.SessionTx, turnID, script string) {
	for _, word := range strings.Fields(script) {
		part, kind := word[:len(word)-1], map[byte]string{'+': "message.delta", '=': "message.part", '!': "tool.completed"}[word[len(word)-1]]
		tx.Append(store.NewEvent{Type: kind, TurnID: &turnID, Data: map[string]any{"part_id": part, "text": "x\x00\u2028"}})
	}
}

// told is the log of a session in the words of talk, and its numbers.
func told(t *testing.T, s *store.Store, id string) (words string, seqs []int64) {
	t.Helper()
	events, err := s.Events(t.Context(), id, 0, 0)
	check(t, err)
	for _, e := range events {
		mark := map[string]string{"message.delta": "+", "message.part": "=", "tool.completed": "!"}[e.Type]
		_, rest, _ := strings.Cut(string(e.Data), `"part_id"`)
		words += strings.Split(rest, `"`)[1] + mark + " "
		seqs = append(seqs, e.Seq)
	}
	return strings.TrimSpace(words), seqs
}

func TestCompactionDropsTheDeltasOfWholePartsOnly(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		var turns [2]store.Turn
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			return errors.Join(tx.AddTurn(&turns[0]), tx.AddTurn(&turns[1]))
		}))
		unit := func(compact bool, scripts ...string) error {
			return s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
				for i, script := range scripts {
					talk(tx, turns[i].ID, script)
				}
				if compact {
					tx.Compact(turns[0])
				}
				return nil
			})
		}
		check(t, unit(false, "p+ p+ q+ t! p+ q+", "p+ p="))
		boom := errors.New("boom")
		err := s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			talk(tx, turns[0].ID, "p=")
			tx.Compact(turns[0])
			return boom
		})
		before, _ := told(t, s, sess.ID)
		if !errors.Is(err, boom) || before != "p+ p+ q+ t! p+ q+ p+ p=" {
			t.Fatalf("a unit of work that failed left %s, %v", before, err)
		}
		// The last ones come in the same unit of work; one is behind its part, and no reader would have its text otherwise.
		check(t, unit(true, "q+ p+ p= r+ r= p+"))
		after, seqs := told(t, s, sess.ID)
		if after != "q+ t! q+ p+ p= q+ p= r= p+" {
			t.Errorf("log %s", after)
		}
		if want := []int64{3, 4, 6, 7, 8, 9, 11, 13, 14}; fmt.Sprint(seqs) != fmt.Sprint(want) {
			t.Errorf("numbers %v, want %v", seqs, want)
		}
		if rest, err := s.Events(t.Context(), sess.ID, 1, 1); err != nil || len(rest) != 1 || rest[0].Seq != 3 {
			t.Errorf("a cursor among the dropped ones resumes at %+v, %v", rest, err)
		}
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		check(t, unit(true))
		check(t, unit(false, "", "z!"))
		if again, seqs := told(t, s, sess.ID); again != after+" z!" || seqs[len(seqs)-1] != got.LastSeq+1 {
			t.Errorf("afterwards %s, %v", again, seqs)
		}
	})
}

// A turn whose deltas and parts come in the unit of work that compacts it leaves those of other turns alone.
func TestCompactionOfWhatIsAboutToBeStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		var turns [3]store.Turn
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			for i := range turns {
				check(t, tx.AddTurn(&turns[i]))
				tx.Append(store.NewEvent{Type: "turn.started", TurnID: &turns[i].ID, Data: map[string]any{"part_id": "start"}})
				talk(tx, turns[i].ID, "p+ q+ p=")
			}
			tx.Compact(turns[0])
			tx.Compact(turns[2])
			return nil
		}))
		log, seqs := told(t, s, sess.ID)
		if log != "start q+ p= start p+ q+ p= start q+ p=" || fmt.Sprint(seqs) != "[1 3 4 5 6 7 8 9 11 12]" {
			t.Errorf("log %s, %v", log, seqs)
		}
	})
}

func BenchmarkCompact(b *testing.B) {
	benchEach(b, func(b *testing.B, s *store.Store) {
		a := benchAgent(b, s)
		for b.Loop() {
			b.StopTimer()
			sess := store.Session{AgentID: a.ID}
			if err := s.CreateSession(b.Context(), &sess, nil); err != nil {
				b.Fatal(err)
			}
			var turn store.Turn
			err := s.Session(b.Context(), sess.ID, func(tx *store.SessionTx) error {
				if err := tx.AddTurn(&turn); err != nil {
					return err
				}
				for i := range 7000 { // as many deltas as a turn may have
					talk(tx, turn.ID, fmt.Sprintf("part%d+", i%1000))
				}
				for i := range 1000 {
					talk(tx, turn.ID, fmt.Sprintf("part%d=", i))
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := s.Session(b.Context(), sess.ID, func(tx *store.SessionTx) error { tx.Compact(turn); return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
