package local

import (
	"context"
	"slices"
	"sync"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// subscriber is one Watch. Its goroutine sends what is pending; a slow reader gets merged changes and delays nobody.
type subscriber struct {
	out  chan sandbox.ID
	wake chan struct{} // capacity 1

	mu      sync.Mutex // guards pending
	pending []sandbox.ID
}

// Watch implements sandbox.Runtime. The channel is also closed by Close.
func (r *Runtime) Watch(ctx context.Context) <-chan sandbox.ID {
	s := &subscriber{out: make(chan sandbox.ID), wake: make(chan struct{}, 1)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		close(s.out)
		return s.out
	}
	r.subs[s] = struct{}{}
	r.wg.Go(func() {
		s.run(ctx, r.ctx)
		r.mu.Lock()
		delete(r.subs, s)
		r.mu.Unlock()
		close(s.out)
	})
	return s.out
}

// notify tells all watchers that something about a sandbox changed. It never blocks.
func (r *Runtime) notify(id sandbox.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.subs {
		s.add(id)
	}
}

func (s *subscriber) add(id sandbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.pending, id) {
		return
	}
	s.pending = append(s.pending, id)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) run(ctx, closing context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-closing.Done():
			return
		case <-s.wake:
		}
		for id, ok := s.next(); ok; id, ok = s.next() {
			select {
			case s.out <- id:
			case <-ctx.Done():
				return
			case <-closing.Done():
				return
			}
		}
	}
}

// next takes an id before it is sent: a change that comes while the reader hesitates is sent again.
func (s *subscriber) next() (sandbox.ID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return "", false
	}
	id := s.pending[0]
	s.pending = s.pending[1:]
	return id, true
}
