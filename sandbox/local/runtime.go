// Package local runs sandboxes as processes of this machine: the embedded default. It owns the directories below the data
// directory (sandboxes, sessions, settings, harnesses), the sandboxd processes and everything they start, and the managed
// installation of harness programs. Sandboxes outlive the server; a new Runtime on the same directory takes them over. A local
// sandbox keeps its files and processes apart, but not its rights: it runs as the server's user, with the server's network unless it
// is to have one of its own.
//
// The package knows nothing of sessions' rows, of turns or of the protocol of sandboxd, and it works on Linux only. A Runtime is
// safe for concurrent use; two of them must not share a data directory at the same time.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// ErrClosed is returned by a Runtime after Close.
var ErrClosed = errors.New("local: runtime is closed")

// Options say where a Runtime keeps its files and how it starts processes. Only DataDir is required.
type Options struct {
	DataDir    string       // made if need be; everything below it is readable by its owner only
	HarnessDir string       // where harness programs are installed; empty: DataDir/harnesses
	Command    []string     // how sandboxd is started; empty: this executable with the argument "sandboxd"
	Installer  Installer    // provides harness programs; nil: pinned npm packages below HarnessDir
	OwnNetwork bool         // sandboxes get a network of their own, with loopback alone; see ProbeNetwork
	Route      string       // host:port that sandboxes with a network of their own reach without the server's proxy; empty: none
	Logger     *slog.Logger // nil: discards
}

// Runtime is a sandbox.Runtime. Its goroutines are one per sandbox, which owns that sandbox's state until it has exited, one per
// process that is watched, one per watcher, and one per deletion. Close waits for all of them.
type Runtime struct {
	sandboxes  string
	sessions   string
	settings   *Settings
	command    []string
	installer  Installer
	log        *slog.Logger
	ownNetwork bool
	route      string
	termTime   time.Duration // how long sandboxd has to end by itself

	ctx    context.Context // ends with Close; the owned goroutines run on it
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards the rest, and that no goroutine is added after Close
	closed bool
	boxes  map[sandbox.ID]*box
	ops    map[string]*op
	subs   map[*subscriber]struct{}
}

var _ sandbox.Runtime = (*Runtime)(nil)

// New returns a Runtime that has taken over the sandboxes a former one left on the same data directory.
func New(o Options) (*Runtime, error) {
	r, err := newRuntime(o)
	if err != nil {
		return nil, err
	}
	if err := r.takeOver(); err != nil {
		r.Close()
		return nil, fmt.Errorf("take over sandboxes: %w", err)
	}
	return r, nil
}

func newRuntime(o Options) (*Runtime, error) {
	if o.DataDir == "" {
		return nil, errors.New("local: no data directory")
	}
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	r := &Runtime{
		sandboxes: filepath.Join(dir, "sandboxes"), sessions: filepath.Join(dir, "sessions"),
		settings: &Settings{dir: filepath.Join(dir, "settings")},
		command:  o.Command, installer: o.Installer, log: o.Logger, ownNetwork: o.OwnNetwork, route: o.Route, termTime: termTime,
		boxes: map[sandbox.ID]*box{}, ops: map[string]*op{}, subs: map[*subscriber]struct{}{},
	}
	for _, d := range []string{r.sandboxes, r.sessions, r.settings.dir} {
		if err := makePrivate(d); err != nil {
			return nil, err
		}
	}
	if err := r.settings.clean(); err != nil {
		return nil, err
	}
	if err := r.defaults(o, dir); err != nil {
		return nil, err
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

func (r *Runtime) defaults(o Options, dir string) error {
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if len(r.command) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this executable: %w", err)
		}
		r.command = []string{exe, "sandboxd"}
	}
	if r.installer != nil {
		return nil
	}
	if o.HarnessDir == "" {
		o.HarnessDir = filepath.Join(dir, "harnesses")
	}
	harnesses, err := filepath.Abs(o.HarnessDir)
	if err != nil {
		return fmt.Errorf("harness directory: %w", err)
	}
	r.installer = NPM(harnesses)
	return nil
}

// Settings keeps session settings in the same data directory.
func (r *Runtime) Settings() sandbox.Settings { return r.settings }

// Harnesses lists the harness ids that Create accepts.
func (r *Runtime) Harnesses() []string { return slices.Clone(r.installer.Harnesses()) }

// Close ends the runtime's goroutines and waits for them. Sandboxes go on; an installation or deletion under way is broken off
// and can be repeated by the next Runtime. It is idempotent.
func (r *Runtime) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// StopAll ends every sandbox, with all its processes, but forgets none: they are Exited from then on. It returns when nothing
// of them runs any more, or ctx has ended.
func (r *Runtime) StopAll(ctx context.Context) error {
	boxes := r.all()
	errs := make([]error, len(boxes))
	var wg sync.WaitGroup
	for i, b := range boxes {
		wg.Go(func() {
			errs[i] = r.once(ctx, "stop "+string(b.rec.ID), func() error { return b.stop("stopped together with the server") })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Get implements sandbox.Runtime.
func (r *Runtime) Get(_ context.Context, id sandbox.ID) (sandbox.Status, error) {
	b, err := r.box(id)
	if err != nil {
		return sandbox.Status{}, err
	}
	return b.status(), nil
}

// List implements sandbox.Runtime; the oldest comes first.
func (r *Runtime) List(context.Context) ([]sandbox.Status, error) {
	boxes := r.all()
	out := make([]sandbox.Status, len(boxes))
	for i, b := range boxes {
		out[i] = b.status()
	}
	slices.SortFunc(out, func(a, b sandbox.Status) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out, nil
}

func (r *Runtime) box(id sandbox.ID) (*box, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.boxes[id]
	if b == nil {
		return nil, fmt.Errorf("sandbox %q: %w", id, sandbox.ErrNotFound)
	}
	return b, nil
}

func (r *Runtime) all() []*box {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*box, 0, len(r.boxes))
	for _, b := range r.boxes {
		out = append(out, b)
	}
	return out
}

// spawn starts a goroutine that Close waits for. It reports false, and starts nothing, after Close.
func (r *Runtime) spawn(fn func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(fn)
	return true
}

// op is work that goes on when its caller gives up, and that later callers join.
type op struct {
	done chan struct{}
	err  error // may be read when done is closed
}

// once runs fn, or joins the run that is under way for the same key, and waits for its end or that of ctx.
func (r *Runtime) once(ctx context.Context, key string, fn func() error) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	o := r.ops[key]
	if o == nil {
		o = &op{done: make(chan struct{})}
		r.ops[key] = o
		r.wg.Go(func() {
			o.err = fn()
			r.mu.Lock()
			delete(r.ops, key)
			r.mu.Unlock()
			close(o.done)
		})
	}
	r.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", key, ctx.Err())
	}
}
