package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/marked"
)

// box is one sandbox. Until it is cancelled, or the sandbox has exited, the goroutine of live alone changes its state; after
// that whoever holds ending does.
type box struct {
	r         *Runtime
	rec       record
	dir       string
	inherited bool               // made by a former Runtime
	cancel    context.CancelFunc // ends live
	lived     chan struct{}      // closed when live has returned
	ending    sync.Mutex         // held while the sandbox is stopped or removed

	mu      sync.Mutex // guards the rest
	state   sandbox.State
	detail  string
	exit    exit
	proc    *process // sandboxd, once there is one
	removed bool
}

const (
	acceptPoll    = 10 * time.Millisecond  // while sandboxd does not accept connections yet
	acceptPollMax = 100 * time.Millisecond // the longest it gets to
	logPoll       = 30 * time.Second       // between looks at the size of the log
)

func newBox(r *Runtime, rec record) *box {
	return &box{
		r: r, rec: rec, dir: filepath.Join(r.sandboxes, string(rec.ID)), lived: make(chan struct{}), state: sandbox.Starting,
	}
}

func (b *box) status() sandbox.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := sandbox.Status{ID: b.rec.ID, SessionID: b.rec.SessionID, State: b.state, CreatedAt: b.rec.CreatedAt}
	switch b.state {
	case sandbox.Starting:
		s.Detail = b.detail
	case sandbox.Exited:
		s.Reason, s.ExitCode = b.exit.Reason, b.exit.Code
	}
	return s
}

// live brings the sandbox up, or goes on with a process that runs already, and sees it to its end.
func (b *box) live(ctx context.Context, p *process) {
	defer close(b.lived)
	if b.status().State == sandbox.Exited {
		return
	}
	var err error
	if p == nil {
		p, err = b.bringUp(ctx)
	}
	for err == nil && p != nil {
		b.routeFor(p)
		b.take(p)
		if !b.follow(ctx, p) {
			return
		}
		p, err = b.successor(ctx, p)
	}
	if ctx.Err() != nil {
		return
	}
	b.finish(ctx, b.cause(err))
}

// bringUp returns the sandboxd that serves the directory, started now if there never was one.
func (b *box) bringUp(ctx context.Context) (*process, error) {
	if b.inherited {
		p, err := b.awaitIdentity(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			p, err = b.clear(ctx)
		}
		if p != nil || err != nil {
			return p, err
		}
	}
	bin, err := b.r.installer.Install(ctx, b.rec.Harness, b.progress)
	if err != nil {
		return nil, fmt.Errorf("install %s: %w", b.rec.Harness, err)
	}
	b.progress("starting sandboxd")
	p, err := b.start(bin)
	if err != nil {
		return nil, fmt.Errorf("start sandboxd: %w", err)
	}
	return p, nil
}

// clear makes room for the first sandboxd of the directory: one that a former server had started, but that had not locked the
// directory when it was looked at, is ended, or returned if it cannot be found that way and has said who it is.
func (b *box) clear(ctx context.Context) (*process, error) {
	if err := b.sweep(ctx); err != nil {
		return nil, err
	}
	p, err := b.awaitIdentity(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, errEnded):
		return nil, errors.Join(removeFile(b.dir, pidFile), removeFile(b.dir, sockFile))
	}
	return p, err
}

// sweep ends every process of the sandbox, also those that left their session.
func (b *box) sweep(ctx context.Context) error {
	if err := marked.End(ctx, sandboxEnv+"="+string(b.rec.ID)); err != nil {
		return fmt.Errorf("end processes of sandbox %s: %w", b.rec.ID, err)
	}
	return nil
}

// awaitIdentity is find, but waits for a sandboxd that holds the lock and has not written its identity yet.
func (b *box) awaitIdentity(ctx context.Context) (*process, error) {
	for {
		held, err := locked(b.dir)
		if err != nil {
			return nil, err
		}
		p, err := b.r.find(b.dir)
		if !held || !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		if !pause(ctx, acceptPoll) {
			return nil, ctx.Err()
		}
	}
}

// take makes p the process of the sandbox.
func (b *box) take(p *process) {
	runs := b.accepts()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.proc = p
	if runs && b.state == sandbox.Starting {
		b.state = sandbox.Running
	}
}

// follow keeps the state up to date until the process ends; it reports false if ctx ended first.
func (b *box) follow(ctx context.Context, p *process) bool {
	for wait := acceptPoll; b.status().State == sandbox.Starting; wait = min(wait*5/4, acceptPollMax) {
		if p.waitFor(ctx, wait) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if b.accepts() {
			b.set(func() { b.state = sandbox.Running })
			b.r.log.Info("sandbox runs", "sandbox_id", b.rec.ID, "session_id", b.rec.SessionID)
		}
	}
	b.r.notify(b.rec.ID)
	for !p.waitFor(ctx, logPoll) {
		if ctx.Err() != nil {
			return false
		}
		if err := trimLog(filepath.Join(b.dir, logFile)); err != nil {
			b.r.log.Warn("log is not trimmed", "sandbox_id", b.rec.ID, "err", err)
		}
	}
	return true
}

// successor returns the sandboxd that really serves the directory when p, which has ended, found it locked: one that a server
// had started that was killed right after. It is errEnded if that one has ended as well, and nil if p was the only one.
func (b *box) successor(ctx context.Context, p *process) (*process, error) {
	q, err := b.awaitIdentity(ctx)
	var who identity
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case readJSON(filepath.Join(b.dir, pidFile), &who) == nil && who.PID == p.pid:
		if q != nil {
			q.close()
		}
		return nil, nil
	}
	p.reap()
	p.close()
	b.mu.Lock()
	b.proc = q
	b.mu.Unlock()
	return q, err
}

func (b *box) progress(detail string) {
	b.set(func() { b.detail = detail })
}

// set changes the state and tells the watchers.
func (b *box) set(change func()) {
	b.mu.Lock()
	change()
	b.mu.Unlock()
	b.r.notify(b.rec.ID)
}
