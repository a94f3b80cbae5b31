package store_test

import (
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestNewSessionIsPinnedToItsAgent(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := store.Agent{HarnessID: "codex", AgentConfig: store.AgentConfig{Model: "m", IdleTimeoutMs: ptr(int64(90000))}}
		check(t, s.CreateAgent(t.Context(), &a))
		sess := store.Session{AgentID: a.ID, AgentVersion: 7, HarnessID: "other", Title: ptr("t")}
		check(t, s.CreateSession(t.Context(), &sess, nil))
		if sess.AgentVersion != 1 || sess.HarnessID != "codex" || sess.IdleTimeoutMs != 90000 {
			t.Fatalf("not pinned: %+v", sess)
		}
		if sess.Desired != "running" || sess.Status != "creating" || sess.SandboxState != "none" || sess.AttemptStartedAt != sess.CreatedAt {
			t.Fatalf("start values: %+v", sess)
		}
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		if !reflect.DeepEqual(got, sess) {
			t.Fatalf("got  %+v\nwant %+v", got, sess)
		}
		check(t, s.MarkAgentDeleted(t.Context(), a.ID, nil))
		if err := s.CreateSession(t.Context(), &store.Session{AgentID: a.ID}, nil); !errors.Is(err, store.ErrAgentGone) || !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("of a deleted agent: %v", err)
		}
		if got, err := s.GetSession(t.Context(), sess.ID); err != nil || got.AgentID != a.ID {
			t.Fatalf("the session of a deleted agent: %v %v", got, err)
		}
	})
}

func TestSessionKeepsItsVersionWhenTheAgentChanges(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := newAgent(t, s)
		old := store.Session{AgentID: a.ID}
		check(t, s.CreateSession(t.Context(), &old, nil))
		_, err := s.UpdateAgent(t.Context(), a.ID, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
			current.Model = "newer"
			return current.AgentConfig, nil
		})
		check(t, err)
		fresh := store.Session{AgentID: a.ID}
		check(t, s.CreateSession(t.Context(), &fresh, nil))
		for sess, model := range map[*store.Session]string{&old: "m", &fresh: "newer"} {
			v, err := s.GetAgentVersion(t.Context(), a.ID, sess.AgentVersion)
			check(t, err)
			if v.Model != model {
				t.Fatalf("version %d has model %q", sess.AgentVersion, v.Model)
			}
		}
		if now, err := s.GetAgent(t.Context(), a.ID); err != nil || now.Version != 2 || now.Model != "newer" {
			t.Fatalf("current: %+v %v", now, err)
		}
	})
}

func TestCreateSessionIsOneUnitWithItsFirstTurn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, boom := newAgent(t, s), errors.New("boom")
		first := func(tx *store.SessionTx) error {
			tx.Append(store.NewEvent{Type: "session.status"})
			tx.Session.TitlePreview = ptr("hello")
			return tx.AddTurn(&store.Turn{IdemKey: ptr("k")})
		}
		sess := store.Session{AgentID: a.ID}
		err := s.CreateSession(t.Context(), &sess, func(tx *store.SessionTx) error { return errors.Join(first(tx), boom) })
		if !errors.Is(err, boom) || store.CountRows(t, s, "sessions")+store.CountRows(t, s, "turns")+store.CountRows(t, s, "events") != 0 {
			t.Fatalf("something stayed: %v", err)
		}
		check(t, s.CreateSession(t.Context(), &sess, first))
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		if got.LastSeq != 1 || *got.TitlePreview != "hello" || sess.LastSeq != 1 {
			t.Fatalf("%+v", got)
		}
		again := store.Session{ID: sess.ID, AgentID: a.ID}
		if err := s.CreateSession(t.Context(), &again, nil); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("the same id: %v", err)
		}
	})
}

func TestListSessionsFilters(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, b := newAgent(t, s), newAgent(t, s)
		for _, x := range []struct{ agent, status string }{{a.ID, "ready"}, {a.ID, "dead"}, {b.ID, "ready"}} {
			check(t, s.CreateSession(t.Context(), &store.Session{AgentID: x.agent, Status: x.status}, nil))
		}
		for _, x := range []struct {
			f store.SessionFilter
			n int
		}{
			{store.SessionFilter{}, 3},
			{store.SessionFilter{AgentID: a.ID}, 2},
			{store.SessionFilter{Status: "ready"}, 2},
			{store.SessionFilter{AgentID: a.ID, Status: "ready"}, 1},
			{store.SessionFilter{Status: "failed"}, 0},
		} {
			page, err := s.ListSessions(t.Context(), x.f, store.PageRequest{Limit: 1, Total: true})
			check(t, err)
			if len(page.Rows) != min(x.n, 1) || *page.Total != int64(x.n) || (page.Next != nil) != (x.n > 1) {
				t.Errorf("%+v: %d rows, total %d, next %v", x.f, len(page.Rows), *page.Total, page.Next)
			}
		}
	})
}

func TestUnsettledSessionsAreThoseWithWorkLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		one, two := newSession(t, s), newSession(t, s)
		check(t, s.Session(t.Context(), one.ID, func(tx *store.SessionTx) error {
			tx.Session.Settled = true
			return nil
		}))
		ids, err := s.UnsettledSessions(t.Context())
		check(t, err)
		if !reflect.DeepEqual(ids, []string{two.ID}) {
			t.Fatalf("%v, want %s", ids, two.ID)
		}
	})
}

func TestNoSessionIsCreatedOnceItsAgentIsDeleted(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for range 20 {
			a := newAgent(t, s)
			var live []string
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					err := s.CreateSession(t.Context(), &store.Session{AgentID: a.ID}, nil)
					if err != nil && !errors.Is(err, store.ErrAgentGone) {
						t.Error(err)
					}
				})
			}
			wg.Go(func() {
				err := s.InTx(t.Context(), func(s *store.Store) (err error) {
					if err = s.MarkAgentDeleted(t.Context(), a.ID, nil); err == nil {
						live, err = s.LiveSessionsOfAgent(t.Context(), a.ID)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			after, err := s.LiveSessionsOfAgent(t.Context(), a.ID)
			check(t, err)
			if !reflect.DeepEqual(live, after) {
				t.Fatalf("the deletion saw %v, there are %v", live, after)
			}
		}
	})
}

func TestUnitOfWorkWritesEveryField(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.FixedZone("x", 3600))
		want := sess
		fill := reflect.ValueOf(&want).Elem()
		for i := range fill.NumField() {
			switch f := fill.Field(i); fill.Type().Field(i).Name {
			case "ID", "AgentID", "AgentVersion", "CreatedAt", "LastSeq", "Skills":
			case "Desired":
				f.SetString("stopped")
			case "Status":
				f.SetString("dead")
			default:
				setField(t, f, at)
			}
		}
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			*tx.Session = want
			tx.Session.ID, tx.Session.LastSeq, tx.Session.AgentVersion = "x", 99, 99
			tx.Session.Skills = []store.SkillRef{{ID: "x"}}
			return nil
		}))
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		ms := at.UTC().Truncate(time.Millisecond)
		want.AttemptStartedAt, want.ReadyAt, want.LastSeenAt, want.StoppedAt, want.DeletedAt = ms, &ms, &ms, &ms, &ms
		want.SuspendedAt, want.ExpiredAt = &ms, &ms
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			*tx.Session = sess
			return nil
		}))
		if got, err = s.GetSession(t.Context(), sess.ID); err != nil || !reflect.DeepEqual(got, sess) {
			t.Fatalf("back: got  %+v\nwant %+v", got, sess)
		}
	})
}

func setField(t *testing.T, f reflect.Value, at time.Time) {
	switch f.Interface().(type) {
	case string:
		f.SetString("text")
	case *string:
		f.Set(reflect.ValueOf(ptr("text")))
	case int32, int64:
		f.SetInt(42)
	case bool:
		f.SetBool(true)
	case time.Time:
		f.Set(reflect.ValueOf(at))
	case *time.Time:
		f.Set(reflect.ValueOf(ptr(at)))
	default:
		t.Fatalf("no value for a %s", f.Type())
	}
}

func TestChangeBehindAPointerIsWritten(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := store.Session{AgentID: newAgent(t, s).ID, Title: ptr("old")}
		check(t, s.CreateSession(t.Context(), &sess, nil))
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			*tx.Session.Title = "new"
			return nil
		}))
		if got, err := s.GetSession(t.Context(), sess.ID); err != nil || *got.Title != "new" {
			t.Fatalf("%v %v", *got.Title, err)
		}
	})
}

func TestTextThatADatabaseRefusesIsMadeStorable(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		bad := "a\x00b\xff"
		turn := store.Turn{ErrorMessage: &bad, Input: []byte(`{"t":"\u0000 \ud800"}`)}
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
			tx.Session.FailureReason, tx.Session.SandboxState = &bad, bad
			tx.Append(store.NewEvent{Type: "x", Data: map[string]string{"t": bad}})
			return tx.AddTurn(&turn)
		}))
		got, err := s.GetSession(t.Context(), sess.ID)
		check(t, err)
		if *got.FailureReason != "a\uFFFDb\uFFFD" || got.SandboxState != *got.FailureReason {
			t.Fatalf("%q", *got.FailureReason)
		}
		back, err := s.GetTurn(t.Context(), sess.ID, turn.ID)
		check(t, err)
		input, err := s.TurnInput(t.Context(), sess.ID, turn.ID)
		check(t, err)
		if string(input) != `{"t":"\u0000 \ud800"}` || *back.ErrorMessage != *got.FailureReason {
			t.Fatalf("%s %q", input, *back.ErrorMessage)
		}
		events, err := s.Events(t.Context(), sess.ID, 0, 0)
		check(t, err)
		if string(events[0].Data) != `{"t":"a\u0000b\ufffd"}` {
			t.Fatalf("%s", events[0].Data)
		}
	})
}

func TestOpenTurnsAreSeenUntilTheyEnd(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess, other := newSession(t, s), newSession(t, s)
		has := func(want bool) {
			t.Helper()
			for id, want := range map[string]bool{sess.ID: want, other.ID: false, "x'": false} {
				if got, err := s.HasOpenTurns(t.Context(), id); err != nil || got != want {
					t.Errorf("session %s has open turns: %v, %v", id, got, err)
				}
			}
		}
		has(false)
		var turn store.Turn
		check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { return tx.AddTurn(&turn) }))
		for _, status := range []string{"queued", "handed", "completed"} {
			turn.Status = status
			check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { return tx.SaveTurn(&turn) }))
			has(status != "completed")
		}
	})
}
