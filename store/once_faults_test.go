package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestWorkAndItsAnswerAreStoredTogetherOrNotAtAll(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		work func(ctx context.Context, s *store.Store, id string, cancel func()) (store.Answer, error)
		kept int  // events
		done bool // the answer is stored
	}{
		"two units of work": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			return store.Answer{Status: 200}, errors.Join(s.Session(ctx, id, appendOne("a")), s.Session(ctx, id, appendOne("b")))
		}, 2, true},
		"a unit that fails, with an answer": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			err := s.Session(ctx, id, func(tx *store.SessionTx) error { tx.Append(store.NewEvent{Type: "a"}); return errBoom })
			if err != errBoom {
				return store.Answer{}, err
			}
			return store.Answer{Status: 409}, nil
		}, 0, true},
		"nothing done, with an answer": {func(context.Context, *store.Store, string, func()) (store.Answer, error) {
			return store.Answer{Status: 400}, nil
		}, 0, true},
		"a statement that the database refuses, then another": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			if err := s.Session(ctx, id, appendOne("a")); err != nil {
				return store.Answer{}, err
			}
			if err := s.CreateSession(ctx, &store.Session{ID: id, AgentID: agentOf(ctx, s, id)}, nil); !errors.Is(err, store.ErrConflict) {
				return store.Answer{}, fmt.Errorf("no conflict: %w", err)
			}
			return store.Answer{Status: 409}, s.Session(ctx, id, appendOne("b"))
		}, 2, true},
		"an error at the end": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			return store.Answer{Status: 200}, errors.Join(s.Session(ctx, id, appendOne("a")), errBoom)
		}, 0, false},
		"a panic": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			_ = s.Session(ctx, id, appendOne("a"))
			panic("boom")
		}, 0, false},
		"a panic in the unit of work": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			return store.Answer{}, s.Session(ctx, id, func(*store.SessionTx) error { panic("boom") })
		}, 0, false},
		"cancelled before": {func(ctx context.Context, s *store.Store, id string, cancel func()) (store.Answer, error) {
			cancel()
			_ = s.Session(ctx, id, appendOne("a"))
			return store.Answer{Status: 200}, nil
		}, 0, false},
		"cancelled in the middle": {func(ctx context.Context, s *store.Store, id string, cancel func()) (store.Answer, error) {
			_ = s.Session(ctx, id, func(tx *store.SessionTx) error { tx.Append(store.NewEvent{Type: "a"}); cancel(); return nil })
			return store.Answer{Status: 200}, nil
		}, 0, false},
		"cancelled before the commit": {func(ctx context.Context, s *store.Store, id string, cancel func()) (store.Answer, error) {
			err := s.Session(ctx, id, appendOne("a"))
			cancel()
			return store.Answer{Status: 200}, err
		}, 0, false},
		"the transaction is lost in the middle": {func(ctx context.Context, s *store.Store, id string, _ func()) (store.Answer, error) {
			_ = s.InTx(ctx, func(s *store.Store) error { return store.Disrupt(ctx, s) })
			_ = s.Session(ctx, id, appendOne("a"))
			return store.Answer{Status: 200}, nil
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Each(t, func(t *testing.T, s *store.Store) {
				id := newSession(t, s).ID
				var r recorder
				defer s.Subscribe(r.add)()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				once := func() (err error) {
					defer func() {
						if v := recover(); v != nil {
							err = fmt.Errorf("panic: %v", v)
						}
					}()
					_, _, err = s.Once(ctx, request, func(ctx context.Context) (store.Answer, error) { return c.work(ctx, s, id, cancel) })
					return err
				}
				err := once()
				if (err == nil) != c.done || events(t, s, id) != c.kept || store.CountRows(t, s, "answers") != int64(len(map[bool][]int{true: {1}}[c.done])) {
					t.Errorf("%v, %d events, %d answers", err, events(t, s, id), store.CountRows(t, s, "answers"))
				}
				if told := len(r.take()); (told > 0) != (c.kept > 0) {
					t.Errorf("told of %d commits", told)
				}
				check(t, s.Session(t.Context(), id, appendOne("x"))) // the writer is free again
			})
		})
	}
}

func agentOf(ctx context.Context, s *store.Store, id string) string {
	sess, err := s.GetSession(ctx, id)
	if err != nil {
		return err.Error()
	}
	return sess.AgentID
}

func TestABrokenTransactionIsNotTakenForACommittedOne(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		one, two := newSession(t, s).ID, newSession(t, s).ID
		for _, after := range []func(s *store.Store) error{
			func(*store.Store) error { return nil },
			func(s *store.Store) error { return s.Session(t.Context(), two, appendOne("after")) },
		} {
			err := s.InTx(t.Context(), func(s *store.Store) error {
				check(t, s.Session(t.Context(), one, appendOne("before")))
				if err := s.InTx(t.Context(), func(s *store.Store) error { return store.Disrupt(t.Context(), s) }); err == nil {
					t.Error("not disrupted")
				}
				_ = after(s)
				return nil
			})
			if !errors.Is(err, store.ErrUnavailable) || events(t, s, one)+events(t, s, two) != 0 {
				t.Errorf("%v, %d and %d events", err, events(t, s, one), events(t, s, two))
			}
		}
		check(t, s.Session(t.Context(), one, appendOne("x")))
	})
}

func TestOnceConcernsItsOwnDatabaseOnly(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		s, other := storetest.Open(t, kind), storetest.Open(t, kind)
		id, otherID := newSession(t, s).ID, newSession(t, other).ID
		_, _, err := s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			return store.Answer{}, errors.Join(s.Session(ctx, id, appendOne("x")), other.Session(ctx, otherID, appendOne("x")), errBoom)
		})
		if !errors.Is(err, errBoom) || events(t, s, id) != 0 || events(t, other, otherID) != 1 {
			t.Errorf("%v, %d and %d events", err, events(t, s, id), events(t, other, otherID))
		}
	})
}

func TestTheTransactionOfOnceIsBoundedFromItsBegin(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		o.Timeout = 300 * time.Millisecond
		s := storetest.OpenWith(t, o)
		id := newSession(t, s).ID
		slow := func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(2 * o.Timeout):
			}
		}
		_, _, err := s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			slow(ctx)
			return store.Answer{Status: http.StatusOK}, s.Session(ctx, id, appendOne("a"))
		})
		check(t, err)
		request := request
		request.Key = "other"
		_, _, err = s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			check(t, s.Session(ctx, id, appendOne("b")))
			slow(ctx)
			return store.Answer{Status: http.StatusOK}, s.Session(ctx, id, appendOne("c"))
		})
		if !errors.Is(err, store.ErrUnavailable) || events(t, s, id) != 1 || store.CountRows(t, s, "answers") != 1 {
			t.Errorf("%v, %d events", err, events(t, s, id))
		}
	})
}

func TestWorkThatGoesOnAfterItsEndChangesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		id := newSession(t, s).ID
		for _, change := range []bool{true, false} {
			var late context.Context
			_, _, err := s.Once(t.Context(), store.Request{Key: fmt.Sprint(change)}, func(ctx context.Context) (store.Answer, error) {
				late = context.WithoutCancel(ctx)
				if change {
					check(t, s.Session(ctx, id, appendOne("a")))
				}
				return store.Answer{Status: 200}, nil
			})
			check(t, err)
			if err := s.Session(late, id, appendOne("late")); err == nil {
				t.Error("written after the end")
			}
		}
		if n := events(t, s, id); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}

func TestNoAnswerWithoutItsWorkWhenPostgresIsLost(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name       string
		lose, back func(*storetest.Server)
	}{
		{"stopped", (*storetest.Server).Stop, (*storetest.Server).Start},
		{"killed", (*storetest.Server).Kill, (*storetest.Server).Start},
		{"hung", (*storetest.Server).Pause, (*storetest.Server).Resume},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			server := storetest.NewServer(t)
			s := storetest.OpenWith(t, store.Options{DatabaseURL: server.DSN(), Keyring: storetest.Keyring(t), Timeout: time.Second})
			id := newSession(t, s).ID
			work := func(lose func(*storetest.Server)) func(ctx context.Context) (store.Answer, error) {
				return func(ctx context.Context) (store.Answer, error) {
					err := s.Session(ctx, id, appendOne("x"))
					lose(server)
					return store.Answer{Status: 200}, err
				}
			}
			_, _, err := s.Once(t.Context(), request, work(how.lose))
			if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("lost before the commit: %v", err)
			}
			if _, _, err = s.Once(t.Context(), request, work(func(*storetest.Server) {})); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("while lost: %v", err)
			}
			how.back(server)
			eventually(t, "the database answers again", func() bool { return s.Ping(t.Context()) == nil })
			if n := store.CountRows(t, s, "answers"); n != 0 || events(t, s, id) != 0 {
				t.Errorf("%d answers, %d events", n, events(t, s, id))
			}
			_, replayed, err := s.Once(t.Context(), request, work(func(*storetest.Server) {}))
			if err != nil || replayed || events(t, s, id) != 1 {
				t.Errorf("again: %t %v, %d events", replayed, err, events(t, s, id))
			}
		})
	}
}

// asKilled is set in a copy of the test binary that works through requests until it is killed.
const asKilled = "LAP_STORETEST_ONCE"

func TestAKilledProcessLeavesWorkAndAnswerOrNeither(t *testing.T) {
	t.Parallel()
	if where := os.Getenv(asKilled); where != "" {
		workUntilKilled(t, where)
	}
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		cmd := exec.Command(os.Args[0], "-test.run=^TestAKilledProcessLeavesWorkAndAnswerOrNeither$")
		cmd.Env = append(os.Environ(), asKilled+"="+o.DatabaseURL+"|"+o.Path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 1)
			for range 40 { // requests are done by then
				if _, err := out.Read(buf); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		receive(t, done)
		check(t, cmd.Process.Kill())
		cmd.Wait()
		s := storetest.OpenWith(t, o)
		eventually(t, "the transactions of the killed process have ended", func() bool {
			agents, answers := store.CountRows(t, s, "agents"), store.CountRows(t, s, "answers")
			return agents >= 40 && agents == answers
		})
		var ran atomic.Int32
		agents := store.CountRows(t, s, "agents")
		for i := range agents {
			r := store.Request{Scope: "s", Key: strings.Repeat("k", int(i)+1)}
			a, replayed, err := s.Once(t.Context(), r, creating(s, &ran))
			check(t, err)
			if _, err := s.GetAgent(t.Context(), string(a.Body)); err != nil || !replayed {
				t.Fatalf("request %d: replayed %t, its agent: %v", i, replayed, err)
			}
		}
	})
}

func workUntilKilled(t *testing.T, where string) {
	url, path, _ := strings.Cut(where, "|")
	s, err := store.Open(t.Context(), store.Options{DatabaseURL: url, Path: path, Keyring: storetest.Keyring(t)})
	for key := "k"; err == nil; key += "k" {
		_, _, err = s.Once(t.Context(), store.Request{Scope: "s", Key: key}, creating(s, &ignored))
		os.Stdout.WriteString(".")
	}
	os.Stderr.WriteString(err.Error())
	os.Exit(1)
}
