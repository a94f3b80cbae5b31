package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// rotating opens the same database with one list of keys after the other.
type rotating struct {
	t *testing.T
	o store.Options
}

func (r rotating) with(keys string, fn func(s *store.Store)) {
	r.t.Helper()
	r.o.Keyring = keyring(r.t, keys)
	s, err := store.Open(r.t.Context(), r.o)
	check(r.t, err)
	defer func() { check(r.t, s.Close()) }()
	fn(s)
}

func secretAgent(t *testing.T, s *store.Store, secret string) string {
	t.Helper()
	a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{Model: "m", EnvVars: map[string]string{"K": secret}}}
	check(t, s.CreateAgent(t.Context(), &a))
	return a.ID
}

func secretOf(t *testing.T, s *store.Store, id string) string {
	t.Helper()
	a, err := s.GetAgent(t.Context(), id)
	check(t, err)
	return a.EnvVars["K"]
}

func keyID(t *testing.T, key string) string { return keyring(t, key).IDs()[0] }

func eachRotating(t *testing.T, fn func(t *testing.T, r rotating)) {
	storetest.EachKind(t, func(t *testing.T, kind string) { fn(t, rotating{t, storetest.Options(t, kind)}) })
}

func TestAfterRekeyOnlyTheNewKeyIsNeeded(t *testing.T) {
	t.Parallel()
	eachRotating(t, func(t *testing.T, r rotating) {
		ids := map[string]string{}
		r.with(oldKey, func(s *store.Store) {
			newAgent(t, s) // without secrets
			for i := range 230 {
				secret := fmt.Sprint("secret ", i)
				ids[secretAgent(t, s, secret)] = secret
			}
		})
		r.with(newKey+","+oldKey, func(s *store.Store) {
			ids[secretAgent(t, s, "new")] = "new"
			var told []int64
			n, err := s.Rekey(t.Context(), func(done int64) { told = append(told, done) })
			if err != nil || n != 230 || !slices.Equal(told, []int64{100, 200, 230}) {
				t.Fatalf("%d changed, told %v, %v", n, told, err)
			}
			if n, err := s.Rekey(t.Context(), nil); err != nil || n != 0 {
				t.Errorf("again: %d changed, %v", n, err)
			}
		})
		r.with(newKey, func(s *store.Store) {
			for id, secret := range ids {
				if got := secretOf(t, s, id); got != secret {
					t.Errorf("%q, want %q", got, secret)
				}
			}
		})
	})
}

func TestRekeyChangesNothingWithoutAllKeys(t *testing.T) {
	t.Parallel()
	eachRotating(t, func(t *testing.T, r rotating) {
		const third = "third-key-0123456789abcdef-0123456789"
		var kept, lost string
		r.with(oldKey, func(s *store.Store) { kept = secretAgent(t, s, "kept") })
		r.with(third, func(s *store.Store) { lost = secretAgent(t, s, "a"); secretAgent(t, s, "b") })
		r.with(newKey+","+oldKey, func(s *store.Store) {
			n, err := s.Rekey(t.Context(), nil)
			want := "2 versions of agents are sealed with key " + keyID(t, third)
			if n != 0 || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "third") {
				t.Errorf("%d changed, %v", n, err)
			}
		})
		r.with(oldKey+","+third, func(s *store.Store) {
			if secretOf(t, s, kept) != "kept" || secretOf(t, s, lost) != "a" {
				t.Error("changed")
			}
		})
	})
}

func TestRekeyLeavesWhatIsDamagedAndGoesOn(t *testing.T) {
	t.Parallel()
	eachRotating(t, func(t *testing.T, r rotating) {
		var damaged, whole string
		r.with(oldKey, func(s *store.Store) {
			damaged, whole = secretAgent(t, s, "x"), secretAgent(t, s, "whole")
			cut := "UPDATE agent_versions SET env_sealed = substr(env_sealed, 1, 30) WHERE agent_id = ?"
			check(t, store.Exec(t, s, cut, damaged))
		})
		r.with(newKey+","+oldKey, func(s *store.Store) {
			n, err := s.Rekey(t.Context(), nil)
			if n != 1 || err == nil || !strings.Contains(err.Error(), "1 versions") {
				t.Errorf("%d changed, %v", n, err)
			}
			uses, err := s.KeyUses(t.Context())
			if check(t, err); uses[0].Sealed != 1 || uses[1].Sealed != 1 {
				t.Errorf("%+v", uses)
			}
		})
		r.with(newKey, func(s *store.Store) {
			if got := secretOf(t, s, whole); got != "whole" {
				t.Error(got)
			}
		})
	})
}

func TestRekeyLosesNoConcurrentWrite(t *testing.T) {
	t.Parallel()
	eachRotating(t, func(t *testing.T, r rotating) {
		var ids []string
		r.with(oldKey, func(s *store.Store) {
			for range 150 {
				ids = append(ids, secretAgent(t, s, "first"))
			}
		})
		r.with(newKey+","+oldKey, func(s *store.Store) {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if _, err := s.Rekey(t.Context(), nil); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Go(func() {
				for _, id := range ids[100:] { // as another writer of the same value would
					sealed := keyring(t, oldKey).Seal([]byte(`{"K":"second"}`), []byte(id))
					check(t, store.Exec(t, s, "UPDATE agent_versions SET env_sealed = ? WHERE agent_id = ?", sealed, id))
				}
			})
			wg.Wait()
			_, err := s.Rekey(t.Context(), nil)
			check(t, err)
		})
		r.with(newKey, func(s *store.Store) {
			for i, id := range ids {
				want := map[bool]string{true: "second", false: "first"}[i >= 100]
				if got := secretOf(t, s, id); got != want {
					t.Fatalf("agent %d has %q, want %q", i, got, want)
				}
			}
		})
	})
}

func TestKeyUsesSayWhatNeedsAKey(t *testing.T) {
	t.Parallel()
	eachRotating(t, func(t *testing.T, r rotating) {
		id := func(key string) string { return keyID(t, key) }
		answer := func(s *store.Store, key string) {
			_, _, err := s.Once(t.Context(), store.Request{Key: key}, creating(s, &ignored))
			check(t, err)
		}
		r.with(oldKey, func(s *store.Store) {
			secretAgent(t, s, "x")
			answer(s, "young")
			answer(s, "old")
			check(t, store.Exec(t, s, "UPDATE answers SET created_at = ? WHERE key = 'old'", time.Now().Add(-25*time.Hour).UnixMilli()))
			live, settled := newSession(t, s), newSession(t, s)
			for _, sess := range []store.Session{live, settled} {
				check(t, s.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error {
					tx.Session.KeyID, tx.Session.SandboxID, tx.Session.Settled = id(oldKey), "box", sess.ID == settled.ID
					digest := keyring(t, oldKey).Digest("message", nil)
					young, old := store.Turn{BodyDigest: digest}, store.Turn{BodyDigest: digest, CreatedAt: time.Now().Add(-25 * time.Hour)}
					return errors.Join(tx.AddTurn(&young), tx.AddTurn(&old), tx.AddTurn(&store.Turn{}))
				}))
			}
		})
		r.with(newKey, func(s *store.Store) {
			answer(s, "new")
			got, err := s.KeyUses(t.Context())
			want := []store.KeyUse{{ID: id(newKey), Listed: true, Digests: 1}, {ID: id(oldKey), Sealed: 1, Sandboxes: 1, Digests: 3}}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v %v, want %+v", got, err, want)
			}
		})
		r.with(newKey+","+oldKey, func(s *store.Store) {
			_, err := s.Rekey(t.Context(), nil)
			check(t, err)
			got, err := s.KeyUses(t.Context())
			want := []store.KeyUse{{ID: id(newKey), Listed: true, Sealed: 1, Digests: 1}, {ID: id(oldKey), Listed: true, Sandboxes: 1, Digests: 3}}
			if err != nil || !reflect.DeepEqual(got, want) || !got[1].Needed() {
				t.Errorf("got %+v %v, want %+v", got, err, want)
			}
		})
	})
}
