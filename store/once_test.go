package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var request = store.Request{Scope: "POST /x", Key: "k", Body: []byte(`{"a":1}`)}

var ignored atomic.Int32

// creating is work that makes one agent, in a transaction of its own, and tells its id.
func creating(s *store.Store, ran *atomic.Int32) func(ctx context.Context) (store.Answer, error) {
	return func(ctx context.Context) (store.Answer, error) {
		ran.Add(1)
		a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{Model: "m"}}
		if err := s.CreateAgent(ctx, &a); err != nil {
			return store.Answer{}, err
		}
		return store.Answer{Status: 200, Header: map[string]string{"ETag": `"1"`}, Body: []byte(a.ID)}, nil
	}
}

func TestARepeatGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var ran atomic.Int32
		first, replayed, err := s.Once(t.Context(), request, creating(s, &ran))
		if err != nil || replayed {
			t.Fatal(replayed, err)
		}
		again, replayed, err := s.Once(t.Context(), request, creating(s, &ran))
		if err != nil || !replayed || !reflect.DeepEqual(again, first) || ran.Load() != 1 {
			t.Fatalf("got %+v %t %v after %d runs, want %+v", again, replayed, err, ran.Load(), first)
		}
		for name, r := range map[string]store.Request{
			"scope": {Scope: request.Scope + "y", Key: request.Key, Body: request.Body},
			"key":   {Scope: request.Scope, Key: request.Key + "k", Body: request.Body},
		} {
			other, replayed, err := s.Once(t.Context(), r, creating(s, &ran))
			if err != nil || replayed || string(other.Body) == string(first.Body) {
				t.Errorf("another %s: %s %t %v", name, other.Body, replayed, err)
			}
		}
		changed := request
		changed.Body = []byte(`{"a":2}`)
		if _, replayed, err := s.Once(t.Context(), changed, creating(s, &ran)); !errors.Is(err, store.ErrKeyReused) || replayed {
			t.Errorf("another body: %t %v", replayed, err)
		}
		if n := store.CountRows(t, s, "agents"); n != 3 {
			t.Errorf("%d agents", n)
		}
	})
}

func TestConcurrentRepeatsAreDoneOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const callers = 40 // more than there are connections
		var ran, fresh atomic.Int32
		answers := make([]store.Answer, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				a, replayed, err := s.Once(within(t), request, creating(s, &ran))
				if err != nil {
					t.Error(err)
				}
				if !replayed {
					fresh.Add(1)
				}
				answers[i] = a
			})
		}
		wg.Wait()
		for _, a := range answers {
			if !reflect.DeepEqual(a, answers[0]) {
				t.Errorf("got %+v and %+v", a, answers[0])
			}
		}
		if n := store.CountRows(t, s, "agents"); n != 1 || fresh.Load() != 1 {
			t.Errorf("%d agents, %d fresh answers, %d runs", n, fresh.Load(), ran.Load())
		}
	})
}

func TestAConcurrentRepeatTakesOverWhenTheFirstFails(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var ran atomic.Int32
		began, fail := make(chan struct{}), make(chan struct{})
		first := make(chan error, 1)
		go func() {
			_, _, err := s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
				if _, err := creating(s, &ran)(ctx); err != nil {
					return store.Answer{}, err
				}
				close(began)
				<-fail
				return store.Answer{}, errBoom
			})
			first <- err
		}()
		receive(t, began)
		second := make(chan error, 1)
		go func() {
			_, replayed, err := s.Once(t.Context(), request, creating(s, &ran))
			if replayed {
				err = errors.New("there was nothing to repeat")
			}
			second <- err
		}()
		eventually(t, "the second waits", func() bool { return ran.Load() == 2 })
		close(fail)
		if err := receive(t, first); err != errBoom {
			t.Error(err)
		}
		check(t, receive(t, second))
		if n := store.CountRows(t, s, "agents"); n != 1 {
			t.Errorf("%d agents", n)
		}
	})
}

// events counts the events of a session.
func events(t *testing.T, s *store.Store, id string) int {
	t.Helper()
	list, err := s.Events(t.Context(), id, 0, 100)
	check(t, err)
	return len(list)
}

func TestReadsOfWorkSeeItsChangesAndOthersDoNot(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		id := newSession(t, s).ID
		var r recorder
		defer s.Subscribe(r.add)()
		_, _, err := s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			check(t, s.Session(t.Context(), id, appendOne("others"))) // no transaction is open yet
			check(t, s.Session(ctx, id, appendOne("own")))
			if mine, err := s.Events(ctx, id, 0, 10); err != nil || len(mine) != 2 {
				t.Errorf("work sees %d events, %v", len(mine), err)
			}
			if n := events(t, s, id); n != 1 {
				t.Errorf("others see %d events", n)
			}
			wantIDs(t, &r, id)
			return store.Answer{Status: 200}, nil
		})
		check(t, err)
		wantIDs(t, &r, id)
		if n := events(t, s, id); n != 2 {
			t.Errorf("%d events", n)
		}
	})
}

func TestASingleStatementOfWorkJoinsItsTransaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		_, _, err := s.Once(t.Context(), store.Request{Key: "old"}, creating(s, &ignored))
		check(t, err)
		check(t, store.Exec(t, s, "UPDATE answers SET created_at = 1"))
		_, _, err = s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			n, err := s.ForgetAnswers(ctx)
			if n != 1 || err != nil {
				t.Errorf("forgot %d, %v", n, err)
			}
			return store.Answer{}, errBoom
		})
		if n := store.CountRows(t, s, "answers"); err != errBoom || n != 1 {
			t.Errorf("%v, %d answers", err, n)
		}
	})
}

func TestAnswersAreForgottenAfterADay(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var ran atomic.Int32
		first, _, err := s.Once(t.Context(), request, creating(s, &ran))
		check(t, err)
		age := func(d time.Duration) {
			t.Helper()
			check(t, store.Exec(t, s, "UPDATE answers SET created_at = ?", time.Now().Add(-d).UnixMilli()))
		}
		age(23*time.Hour + 59*time.Minute)
		if n, err := s.ForgetAnswers(t.Context()); n != 0 || err != nil {
			t.Fatalf("forgot %d, %v", n, err)
		}
		if a, replayed, err := s.Once(t.Context(), request, creating(s, &ran)); !replayed || err != nil || string(a.Body) != string(first.Body) {
			t.Fatalf("young: %t %v", replayed, err)
		}
		age(24*time.Hour + time.Minute)
		changed := request
		changed.Body = []byte("other")
		next, replayed, err := s.Once(t.Context(), changed, creating(s, &ran))
		if replayed || err != nil || string(next.Body) == string(first.Body) {
			t.Fatalf("old: %t %v", replayed, err)
		}
		if n, err := s.ForgetAnswers(t.Context()); n != 0 || err != nil {
			t.Fatalf("forgot %d of what was taken over, %v", n, err)
		}
		if _, replayed, err := s.Once(t.Context(), changed, creating(s, &ran)); !replayed || err != nil {
			t.Fatalf("taken over: %t %v", replayed, err)
		}
		age(25 * time.Hour)
		many := "INSERT INTO answers (scope, key, digest, status, header, body, created_at) " +
			"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) " +
			"SELECT 's', CAST(i AS TEXT), CAST('' AS %s), 200, '{}', CAST('' AS %[1]s), 1 FROM n"
		if err := store.Exec(t, s, fmt.Sprintf(many, "BLOB")); err != nil {
			check(t, store.Exec(t, s, fmt.Sprintf(many, "bytea")))
		}
		if n, err := s.ForgetAnswers(t.Context()); n != 2501 || err != nil || store.CountRows(t, s, "answers") != 0 {
			t.Fatalf("forgot %d, %v", n, err)
		}
	})
}

func TestAnyScopeKeyAndAnswerCanBeStored(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		dense := "" // does not shrink into an index
		for i := range 200 {
			dense += fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i)}))
		}
		odd := []string{"", "a\x00", "a\xff", "a\uFFFD", strings.Repeat("x", 600), dense, dense + "y"}
		answer := func(i int) store.Answer {
			return store.Answer{Status: 200 + i, Header: map[string]string{"Location": "/ä"}, Body: []byte{0, 0xff, byte(i)}}
		}
		for pass, want := range []bool{false, true} {
			for i, text := range odd {
				for j, r := range []store.Request{{Scope: text, Key: "k"}, {Scope: "s", Key: text}} {
					a, replayed, err := s.Once(t.Context(), r, func(context.Context) (store.Answer, error) { return answer(2*i + j), nil })
					if err != nil || replayed != want || !reflect.DeepEqual(a, answer(2*i+j)) {
						t.Errorf("pass %d, %.20q: %+v %t %v", pass, text, a, replayed, err)
					}
				}
			}
		}
	})
}

func TestARepeatIsRecognisedAfterARotationOfTheKey(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		open := func(keys string) *store.Store {
			o.Keyring = keyring(t, keys)
			s, err := store.Open(t.Context(), o)
			check(t, err)
			return s
		}
		var ran atomic.Int32
		s := open(oldKey)
		_, _, err := s.Once(t.Context(), request, creating(s, &ran))
		check(t, errors.Join(err, s.Close()))
		s = open(newKey + "," + oldKey)
		_, replayed, err := s.Once(t.Context(), request, creating(s, &ran))
		if check(t, errors.Join(err, s.Close())); !replayed {
			t.Error("done again")
		}
		s = open(newKey)
		_, _, err = s.Once(t.Context(), request, creating(s, &ran))
		check(t, s.Close())
		if !errors.Is(err, store.ErrKeyReused) || ran.Load() != 1 {
			t.Errorf("without the old key: %v after %d runs", err, ran.Load())
		}
	})
}

func TestOnceIsNotNested(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		inner := func(context.Context) (store.Answer, error) { t.Error("ran"); return store.Answer{}, nil }
		_, _, err := s.Once(t.Context(), request, func(ctx context.Context) (store.Answer, error) {
			_, _, err := s.Once(ctx, request, inner)
			return store.Answer{}, err
		})
		if err == nil {
			t.Error("inside its own work")
		}
		err = s.InTx(t.Context(), func(s *store.Store) error {
			_, _, err := s.Once(t.Context(), request, inner)
			return err
		})
		if err == nil {
			t.Error("inside InTx")
		}
	})
}

func TestWritersOfAllKindsGetTheirTurn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const writers, each = 32, 6
		id := newSession(t, s).ID
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					err := s.Session(within(t), id, appendOne("plain"))
					if w%2 == 0 {
						r := store.Request{Scope: fmt.Sprint("s", w), Key: fmt.Sprint("k", i)}
						_, _, err = s.Once(within(t), r, func(ctx context.Context) (store.Answer, error) {
							if _, err := s.GetSession(ctx, id); err != nil {
								return store.Answer{}, err
							}
							a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{Model: "m"}}
							return store.Answer{Status: 200}, errors.Join(s.Session(ctx, id, appendOne("once")), s.CreateAgent(ctx, &a))
						})
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n, want := store.CountRows(t, s, "events"), int64(writers*each*3/2); n != want {
			t.Errorf("%d events, want %d", n, want)
		}
		if n := store.CountRows(t, s, "answers"); n != writers*each/2 {
			t.Errorf("%d answers", n)
		}
	})
}
