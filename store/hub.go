package store

import (
	"sync"
)

// Change is what a commit changed.
type Change struct {
	SessionID string // empty: anything may have changed
	Extent    Extent
}

// Extent is how much of a session a commit may have changed.
type Extent int

const (
	// Anything of it: who acts on sessions looks.
	Anything Extent = iota
	// OnlyTurns came and wait, or shall end, and what follows: who hands turns over looks.
	OnlyTurns
	// OnlyEnds of turns, and what follows: who waits for turns looks.
	OnlyEnds
	// OnlyProgress was made: events were added, a turn was handed over, the time of the last activity moved.
	OnlyProgress
)

// hub calls subscribers after commits.
type hub struct {
	mu   sync.RWMutex // guards subs and next; held for reading during calls
	subs map[int]func(Change)
	next int
}

// Subscribe registers fn to be called with what it changed after each commit
// that touched a session, once per commit, by this process or, on Postgres, by
// another one. An empty id says that anything may have changed: notifications
// of others may have been missed. Commits that follow each other closely may be
// announced in another order; a spurious call is possible, a missing one is not
// except for a commit of a process that cannot reach this one.
//
// fn must not block, and must call neither the store nor cancel. After cancel
// has returned fn is not running and is not called again.
func (s *Store) Subscribe(fn func(Change)) (cancel func()) {
	h := &s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[int]func(Change){}
	}
	id := h.next
	h.next++
	h.subs[id] = fn
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs, id)
	}
}

func (h *hub) publish(changes []Change) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, c := range changes {
		for _, fn := range h.subs {
			fn(c)
		}
	}
}
