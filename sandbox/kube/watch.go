package kube

import (
	"context"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// subscriber is one Watch. Its goroutine sends what is pending; a slow reader gets merged changes and delays nobody.
type subscriber struct {
	wake    chan struct{}           // capacity 1
	pending map[sandbox.ID]struct{} // guarded by the runtime's mutex
}

// Watch implements sandbox.Runtime. The channel is also closed by Close.
func (r *Runtime) Watch(ctx context.Context) <-chan sandbox.ID {
	out := make(chan sandbox.ID)
	s := &subscriber{wake: make(chan struct{}, 1), pending: map[sandbox.ID]struct{}{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		close(out)
		return out
	}
	r.subs[s] = struct{}{}
	r.wg.Go(func() {
		defer close(out)
		r.feed(ctx, s, out)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subs, s)
	})
	return out
}

func (r *Runtime) feed(ctx context.Context, s *subscriber, out chan<- sandbox.ID) {
	for {
		id, ok := r.next(s)
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-ctx.Done():
			case <-r.ctx.Done():
			}
			return
		}
		select {
		case out <- id:
		case <-ctx.Done():
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// next takes an id before it is sent: a change that comes while the reader hesitates is sent again.
func (r *Runtime) next(s *subscriber) (sandbox.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range s.pending {
		delete(s.pending, id)
		return id, true
	}
	return "", false
}

// notify tells all watchers that something about a sandbox changed. The caller holds the mutex; it never blocks.
func (r *Runtime) notify(id sandbox.ID) {
	for s := range r.subs {
		s.pending[id] = struct{}{}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}
