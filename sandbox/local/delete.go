package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const (
	termTime     = 8 * time.Second // for sandboxd to end its harness and itself
	killTime     = 5 * time.Second // for the kernel, after SIGKILL
	identityTime = 2 * time.Second // for a sandboxd that has just been started to say who it is
)

// Delete implements sandbox.Runtime. It goes on when ctx ends first; calling it again joins it.
func (r *Runtime) Delete(ctx context.Context, id sandbox.ID) error {
	b, err := r.box(id)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.once(ctx, "delete sandbox "+string(id), func() error {
		if err := b.remove(); err != nil {
			return fmt.Errorf("delete sandbox %s: %w", id, err)
		}
		return nil
	})
}

// KeepsWorkspaces implements sandbox.Runtime.
func (r *Runtime) KeepsWorkspaces() bool { return true }

// DeleteWorkspace implements sandbox.Runtime. Like Delete it goes on when ctx ends first.
func (r *Runtime) DeleteWorkspace(ctx context.Context, sessionID string) error {
	if !isSessionID(sessionID) { // such an id has no workspace
		return nil
	}
	return r.once(ctx, "delete workspace of session "+sessionID, func() error {
		if err := r.deleteWorkspace(sessionID); err != nil {
			return fmt.Errorf("delete workspace of session %s: %w", sessionID, err)
		}
		return nil
	})
}

func (r *Runtime) deleteWorkspace(sessionID string) error {
	gone := gonePrefix + sessionID
	if err := removeTree(r.sessions, gone); err != nil {
		return err
	}
	if err := r.detachWorkspace(sessionID, gone); err != nil {
		return err
	}
	return removeTree(r.sessions, gone)
}

// detachWorkspace takes the files out of reach in one step, so that a sandbox made from now on finds an empty workspace.
func (r *Runtime) detachWorkspace(sessionID, gone string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, b := range r.boxes {
		if b.rec.SessionID == sessionID {
			return fmt.Errorf("sandbox %s of it is left", id)
		}
	}
	err := os.Rename(filepath.Join(r.sessions, sessionID), filepath.Join(r.sessions, gone))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// stop ends the sandbox and keeps it, Exited.
func (b *box) stop(reason string) error {
	b.ending.Lock()
	defer b.ending.Unlock()
	if b.isRemoved() {
		return nil
	}
	return b.end(reason)
}

// remove ends the sandbox and forgets it.
func (b *box) remove() error {
	b.ending.Lock()
	defer b.ending.Unlock()
	if b.isRemoved() {
		return nil
	}
	if err := b.end("deleted"); err != nil {
		return err
	}
	gone := gonePrefix + string(b.rec.ID)
	err := os.Rename(b.dir, filepath.Join(b.r.sandboxes, gone))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := removeTree(b.r.sandboxes, gone); err != nil {
		return err
	}
	b.r.forget(b)
	return nil
}

func (r *Runtime) forget(b *box) {
	b.set(func() { b.removed = true })
	r.mu.Lock()
	if r.boxes[b.rec.ID] == b {
		delete(r.boxes, b.rec.ID)
	}
	r.mu.Unlock()
	r.notify(b.rec.ID)
}

func (b *box) isRemoved() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.removed
}

// end ends every process of the sandbox, however far it is, and leaves it Exited. The caller holds ending.
func (b *box) end(reason string) error {
	b.cancel()
	<-b.lived
	if p := b.serving(); p != nil {
		if err := terminate(b.r.ctx, p, b.r.termTime); err != nil {
			return err
		}
		p.reap()
		p.close()
	}
	if err := b.sweep(b.r.ctx); err != nil {
		return err
	}
	if held, err := locked(b.dir); held || err != nil {
		return errors.Join(err, errors.New("its sandboxd runs and does not say who it is"))
	}
	if b.status().State != sandbox.Exited {
		b.finish(b.r.ctx, exit{Reason: reason})
	}
	return b.r.ctx.Err()
}

// serving returns the sandboxd of the sandbox, also one that a former server had started and that is about to say who it is. It
// is nil if there is none, or none that says so.
func (b *box) serving() *process {
	b.mu.Lock()
	p, exited := b.proc, b.state == sandbox.Exited
	b.mu.Unlock()
	if p != nil || exited {
		return p
	}
	ctx, cancel := context.WithTimeout(b.r.ctx, identityTime)
	defer cancel()
	p, err := b.awaitIdentity(ctx)
	if err != nil {
		return nil
	}
	b.take(p)
	return p
}

// terminate ends a process, with force if it does not end by itself.
func terminate(ctx context.Context, p *process, patience time.Duration) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.signal(unix.SIGTERM); err != nil {
		return err
	}
	if p.waitFor(ctx, patience) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	if !p.waitFor(ctx, killTime) {
		return fmt.Errorf("process %d does not end", p.pid)
	}
	return nil
}
