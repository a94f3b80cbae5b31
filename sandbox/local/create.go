package local

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// record is what spec.json holds: a directory with one is a sandbox, whatever else is there.
type record struct {
	ID        sandbox.ID `json:"id"`
	SessionID string     `json:"session_id"`
	Harness   string     `json:"harness"`
	CallerKey []byte     `json:"caller_key"`
	CreatedAt time.Time  `json:"created_at"`
}

// sandboxID is what can be the name of a directory and is never one of the hidden ones.
var sandboxID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Create implements sandbox.Runtime. When it has returned nil, the sandbox is started even if the server is killed: by the next
// Runtime on the same directory.
func (r *Runtime) Create(ctx context.Context, spec sandbox.Spec) error {
	if err := r.check(spec); err != nil {
		return fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	ctx = context.WithoutCancel(ctx) // its caller must learn whether the sandbox is made
	return r.once(ctx, "create sandbox "+string(spec.ID), func() error {
		if err := r.create(spec); err != nil {
			return fmt.Errorf("create sandbox %s: %w", spec.ID, err)
		}
		return nil
	})
}

func (r *Runtime) check(spec sandbox.Spec) error {
	switch {
	case !sandboxID.MatchString(string(spec.ID)):
		return fmt.Errorf("%q cannot be a sandbox id", spec.ID)
	case !isSessionID(spec.SessionID):
		return fmt.Errorf("%q is not a session id", spec.SessionID)
	case len(spec.CallerKey) != ed25519.PublicKeySize:
		return errors.New("no caller key")
	case !slices.Contains(r.installer.Harnesses(), spec.Harness):
		return fmt.Errorf("the local runtime cannot run harness %q, only %s", spec.Harness, strings.Join(r.installer.Harnesses(), ", "))
	}
	return nil
}

func (r *Runtime) create(spec sandbox.Spec) error {
	if b, err := r.box(spec.ID); err == nil {
		return b.rec.same(spec)
	}
	rec := record{
		ID: spec.ID, SessionID: spec.SessionID, Harness: spec.Harness, CallerKey: spec.CallerKey,
		CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
	}
	b := newBox(r, rec)
	if err := makePrivate(b.dir); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(b.dir, specFile), rec); err != nil {
		return errors.Join(err, removeTree(r.sandboxes, string(rec.ID)))
	}
	if err := syncDir(r.sandboxes); err != nil {
		return errors.Join(err, removeTree(r.sandboxes, string(rec.ID)))
	}
	if !r.add(b, nil) {
		return errors.Join(ErrClosed, removeTree(r.sandboxes, string(rec.ID)))
	}
	r.notify(rec.ID)
	return nil
}

func (rec record) same(spec sandbox.Spec) error {
	if rec.SessionID != spec.SessionID || rec.Harness != spec.Harness || !bytes.Equal(rec.CallerKey, spec.CallerKey) {
		return errors.New("there is one of that id with another specification")
	}
	return nil
}

// add makes a sandbox known and starts its goroutine, which begins with p if there is one. It reports false after Close.
func (r *Runtime) add(b *box, p *process) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	ctx, cancel := context.WithCancel(r.ctx)
	b.cancel = cancel
	r.boxes[b.rec.ID] = b
	r.wg.Go(func() {
		defer cancel()
		b.live(ctx, p)
	})
	return true
}

// takeOver makes the sandboxes of a former Runtime known and ends what it had begun to remove.
func (r *Runtime) takeOver() error {
	if err := errors.Join(r.removeGone(r.sandboxes), r.removeGone(r.sessions)); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.sandboxes)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && sandboxID.MatchString(e.Name()) {
			if err := r.takeOverOne(e.Name()); err != nil {
				return fmt.Errorf("sandbox %s: %w", e.Name(), err)
			}
		}
	}
	return nil
}

func (r *Runtime) removeGone(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), gonePrefix) {
			continue
		}
		if !r.spawn(func() {
			if err := removeTree(dir, e.Name()); err != nil {
				r.log.Error("removal left unfinished", "dir", dir, "name", e.Name(), "err", err)
			}
		}) {
			return ErrClosed
		}
	}
	return nil
}

func (r *Runtime) takeOverOne(name string) error {
	var rec record
	err := readJSON(filepath.Join(r.sandboxes, name, specFile), &rec)
	if errors.Is(err, fs.ErrNotExist) { // Create never came as far as to return
		return removeTree(r.sandboxes, name)
	}
	if err == nil && string(rec.ID) != name {
		err = fmt.Errorf("%s names sandbox %q", specFile, rec.ID)
	}
	if err != nil {
		r.log.Error("sandbox is not readable", "sandbox_id", name, "err", err)
		return r.removeUnreadable(name)
	}
	b := newBox(r, rec)
	b.inherited = true
	p, err := r.find(b.dir)
	switch {
	case err == nil:
		b.take(p)
	case errors.Is(err, errEnded), b.hasExit():
		b.finish(r.ctx, exit{Reason: endReason(err)})
	case !errors.Is(err, fs.ErrNotExist):
		b.finish(r.ctx, exit{Reason: err.Error()})
	}
	r.add(b, p)
	return nil
}

// removeUnreadable ends and removes a directory of which not even the session is known.
func (r *Runtime) removeUnreadable(name string) error {
	b := newBox(r, record{ID: sandbox.ID(name)})
	b.cancel = func() {}
	close(b.lived)
	return b.remove()
}
