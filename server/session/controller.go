package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	workers        = 16
	resyncEvery    = 10 * time.Second
	settingsGrace  = 5 * time.Minute // settings without a row are kept so long: the row may be about to be written
	unreachableMax = 2 * time.Minute // a running sandbox that does not answer for so long is lost
)

// Controller brings sandboxes and sessions together: a level-triggered loop over session ids, run by one leader at a time. It
// may be killed at any instant; the next leader goes on from the rows and the sandboxes it finds.
type Controller struct {
	o       Options
	leading atomic.Bool
	fetches chan struct{} // a place for each checkpoint that is being fetched

	mu    sync.Mutex // guards links
	links map[string]*link
}

// NewController returns a controller that does nothing until Run.
func NewController(o Options) *Controller {
	c := &Controller{o: o, fetches: make(chan struct{}, fetchesAtOnce), links: map[string]*link{}}
	o.Egress.ledBy(c.Leading)
	return c
}

// Leading tells whether this process runs the controller now.
func (c *Controller) Leading() bool { return c.leading.Load() }

// Run leads whenever it can, until ctx ends. Sandboxes go on when it returns.
func (c *Controller) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.o.Store.Lead(ctx, c.lead)
		if ctx.Err() != nil {
			return
		}
		c.o.Logger.Warn("leadership ended", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

type queue = workqueue.TypedRateLimitingInterface[string]

func (c *Controller) lead(ctx context.Context, lease store.Lease) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.o.Logger.Info("leading", "epoch", lease.Epoch)
	c.leading.Store(true)
	defer c.leading.Store(false)

	q := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 10*time.Second))
	resync := make(chan struct{}, 1)
	signal(resync)
	unsub := c.o.Store.Subscribe(func(change store.Change) {
		switch {
		case change.SessionID == "":
			signal(resync)
		case change.Extent == store.OnlyTurns:
			c.pokeLink(change.SessionID) // a sandbox without a link looks for turns when it gets one
		case change.Extent == store.Anything:
			c.pokeLink(change.SessionID)
			q.Add(change.SessionID)
		}
	})
	defer unsub()

	var wg sync.WaitGroup
	r := &reconciler{c: c, q: q, lease: lease}
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	wg.Go(func() { r.watch(ctx) })
	wg.Go(func() { r.resync(ctx, resync) })
	<-ctx.Done()
	q.ShutDown()
	wg.Wait()
	c.dropLinks()
	return ctx.Err()
}

func (c *Controller) dropLinks() {
	c.mu.Lock()
	links := c.links
	c.links = map[string]*link{}
	c.mu.Unlock()
	for _, l := range links {
		l.cancel()
	}
	for _, l := range links {
		<-l.done
	}
}

// reconciler is one term of leadership.
type reconciler struct {
	c     *Controller
	q     queue
	lease store.Lease
}

func (r *reconciler) work(ctx context.Context) {
	for {
		id, down := r.q.Get()
		if down {
			return
		}
		err := r.reconcile(ctx, id)
		switch {
		case err == nil, errors.Is(err, store.ErrNotFound), ctx.Err() != nil:
			r.q.Forget(id)
		default:
			r.c.o.Logger.Warn("reconcile again", "session_id", id, "err", err)
			r.q.AddRateLimited(id)
		}
		r.q.Done(id)
	}
}

func (r *reconciler) watch(ctx context.Context) {
	for id := range r.c.o.Runtime.Watch(ctx) {
		st, err := r.c.o.Runtime.Get(ctx, id)
		if err == nil {
			r.q.Add(st.SessionID)
		}
	}
}

func (r *reconciler) resync(ctx context.Context, now <-chan struct{}) {
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-now:
		}
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.c.o.Logger.Warn("resync", "err", err)
		}
	}
}

// sweep queues every session with something left to do and removes what belongs to no session, and answers nobody may ask for.
func (r *reconciler) sweep(ctx context.Context) error {
	if _, err := r.c.o.Store.ForgetAnswers(ctx); err != nil {
		return err
	}
	ids, err := r.c.o.Store.UnsettledSessions(ctx)
	if err != nil {
		return fmt.Errorf("list unsettled sessions: %w", err)
	}
	for _, id := range ids {
		r.q.Add(id)
	}
	boxes, err := r.c.o.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, b := range boxes {
		if err := r.sweepSandbox(ctx, b); err != nil {
			return err
		}
	}
	if err := r.sweepSettings(ctx); err != nil {
		return err
	}
	return r.retain(ctx)
}

// sweepSandbox deletes a sandbox that no live session names. A row names its sandbox before the sandbox is made.
func (r *reconciler) sweepSandbox(ctx context.Context, b sandbox.Status) error {
	sess, err := r.c.o.Store.GetSession(ctx, b.SessionID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && sess.SandboxID == string(b.ID) {
		return nil // its session's own business
	}
	if err == nil && !sess.Settled {
		r.salvage(ctx, sess, b.ID)
	}
	r.c.o.Logger.Info("deleting orphaned sandbox", "sandbox_id", b.ID, "session_id", b.SessionID)
	return r.c.o.Runtime.Delete(ctx, b.ID)
}

func (r *reconciler) sweepSettings(ctx context.Context) error {
	all, err := r.c.o.Settings.List(ctx)
	if err != nil {
		return fmt.Errorf("list settings: %w", err)
	}
	for id, stored := range all {
		if time.Since(stored) < settingsGrace {
			continue
		}
		sess, err := r.c.o.Store.GetSession(ctx, id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || (sess.Settled && sess.Desired == wantDeleted) {
			if err := r.c.o.Settings.Delete(ctx, id); err != nil {
				return fmt.Errorf("delete settings of %s: %w", id, err)
			}
		}
	}
	return nil
}
