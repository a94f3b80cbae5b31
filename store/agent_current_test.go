package store_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestEveryoneWhoAsksAtOnceGetsTheVersionOfTheirAgent(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const asking = 300
		one, two, gone := newAgent(t, s), newAgent(t, s), newAgent(t, s)
		change(t, s, two.ID)
		check(t, s.MarkAgentDeleted(t.Context(), gone.ID, nil))
		left, leave := context.WithCancel(t.Context())
		leave()
		var all sync.WaitGroup
		for i := range asking {
			all.Go(func() {
				switch i % 5 {
				case 0:
					expectVersion(t, s, one.ID, 1)
				case 1:
					expectVersion(t, s, two.ID, 2)
				case 2:
					expectVersion(t, s, gone.ID, 0)
				case 3:
					expectVersion(t, s, uuid.NewString(), 0)
				default:
					if v, err := s.CurrentVersion(left, one.ID); err != nil && !errors.Is(err, context.Canceled) || err == nil && v != 1 {
						t.Errorf("whoever left got %d, %v", v, err)
					}
				}
			})
		}
		all.Wait()
		check(t, s.InTx(t.Context(), func(s *store.Store) error {
			change(t, s, one.ID)
			expectVersion(t, s, one.ID, 2) // of its own transaction
			return nil
		}))
	})
}

func TestAChangeIsSeenByWhoeverAsksAfterIt(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const changes, readers = 60, 8
		a := newAgent(t, s)
		var committed atomic.Int32
		committed.Store(1)
		var all sync.WaitGroup
		for range readers {
			all.Go(func() {
				for committed.Load() < changes {
					atLeast := committed.Load()
					if v, err := s.CurrentVersion(t.Context(), a.ID); err != nil || v < atLeast {
						t.Errorf("version %d, %v after %d was committed", v, err, atLeast)
						return
					}
				}
			})
		}
		for committed.Load() < changes {
			change(t, s, a.ID)
			committed.Add(1)
		}
		all.Wait()
	})
}

// change makes a version of an agent.
func change(t *testing.T, s *store.Store, id string) {
	t.Helper()
	_, err := s.UpdateAgent(t.Context(), id, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
		current.Model += "x"
		return current.AgentConfig, nil
	})
	check(t, err)
}

func expectVersion(t *testing.T, s *store.Store, id string, want int32) {
	t.Helper()
	v, err := s.CurrentVersion(t.Context(), id)
	if v != want || (want == 0) != errors.Is(err, store.ErrNotFound) || want > 0 && err != nil {
		t.Errorf("version %d, %v, want %d", v, err, want)
	}
}
