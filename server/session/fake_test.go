package session_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/session"
)

// fakeRuntime runs sandboxes that live in this process and speak the real protocol over real connections.
type fakeRuntime struct {
	t     *testing.T
	watch chan sandbox.ID

	forgets bool // workspaces go with their sandboxes; set before it is used

	mu         sync.Mutex // guards all below
	boxes      map[sandbox.ID]*box
	workspaces map[string]bool
	settings   map[string]map[string]string
	made       int
	age        time.Duration // of all settings
	ahead      time.Duration // of the clocks of new sandboxes
	note       string        // of new sandboxes
	hold       bool          // new sandboxes stay starting
	refuse     error         // what Create answers
	onTurn     func(b *box, t sandboxd.Turn)
}

func newFakeRuntime(t *testing.T) *fakeRuntime {
	r := &fakeRuntime{
		t: t, watch: make(chan sandbox.ID, 100), boxes: map[sandbox.ID]*box{}, workspaces: map[string]bool{},
		settings: map[string]map[string]string{},
	}
	r.onTurn = func(b *box, turn sandboxd.Turn) { b.reply(turn.ID, "re: "+*turn.Parts[0].Text) }
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, b := range r.boxes {
			b.stop("test ended")
		}
	})
	return r
}

func (r *fakeRuntime) Create(_ context.Context, spec sandbox.Spec) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	if r.boxes[spec.ID] != nil {
		return nil
	}
	b := &box{r: r, spec: spec, state: sandbox.Starting, runs: map[string]int{}, wake: make(chan struct{}), note: r.note, ahead: r.ahead}
	if session.SupportsTUI(spec.Harness) {
		b.ends = make(chan *websocket.Conn, 100)
	}
	r.boxes[spec.ID] = b
	r.workspaces[spec.SessionID] = true
	r.made++
	if !r.hold {
		b.start()
	}
	return nil
}

func (r *fakeRuntime) Get(_ context.Context, id sandbox.ID) (sandbox.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.boxes[id]
	if b == nil {
		return sandbox.Status{}, sandbox.ErrNotFound
	}
	return sandbox.Status{ID: id, SessionID: b.spec.SessionID, State: b.state, Reason: b.reason}, nil
}

func (r *fakeRuntime) List(context.Context) ([]sandbox.Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []sandbox.Status
	for id, b := range r.boxes {
		out = append(out, sandbox.Status{ID: id, SessionID: b.spec.SessionID, State: b.state, Reason: b.reason})
	}
	return out, nil
}

func (r *fakeRuntime) Delete(_ context.Context, id sandbox.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.boxes[id]; b != nil {
		b.stop("deleted")
		delete(r.boxes, id)
	}
	return nil
}

func (r *fakeRuntime) KeepsWorkspaces() bool { return !r.forgets }

func (r *fakeRuntime) DeleteWorkspace(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.workspaces, id)
	return nil
}

func (r *fakeRuntime) Watch(ctx context.Context) <-chan sandbox.ID {
	out := make(chan sandbox.ID)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case id := <-r.watch:
				select {
				case out <- id:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func (r *fakeRuntime) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	r.mu.Lock()
	b := r.boxes[id]
	r.mu.Unlock()
	if b == nil || b.addr == "" {
		return nil, sandbox.ErrNotFound
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
}

// keep makes new sandboxes stay starting, or lets them and those that are kept run.
func (r *fakeRuntime) keep(starting bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = starting
	for _, b := range r.boxes {
		if !starting && b.state == sandbox.Starting {
			b.start()
		}
	}
}

func (r *fakeRuntime) Logs(context.Context, sandbox.ID, sandbox.LogOptions) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// only returns the one sandbox there is.
func (r *fakeRuntime) only() *box {
	r.t.Helper()
	var found *box
	eventually(r.t, "one sandbox", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, b := range r.boxes {
			found = b
		}
		return len(r.boxes) == 1
	})
	return found
}

func (r *fakeRuntime) count() (boxes, workspaces, settings int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.boxes), len(r.workspaces), len(r.settings)
}

// The settings of the fake runtime.
type fakeSettings struct{ *fakeRuntime }

func (s fakeSettings) Put(_ context.Context, id string, env map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings[id] = env
	return nil
}

func (s fakeSettings) Get(_ context.Context, id string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	env, ok := s.settings[id]
	if !ok {
		return nil, sandbox.ErrNotFound
	}
	return env, nil
}

func (s fakeSettings) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.settings, id)
	return nil
}

func (s fakeSettings) List(context.Context) (map[string]time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]time.Time{}
	for id := range s.settings {
		out[id] = time.Now().Add(-s.age)
	}
	return out, nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("timed out waiting for %s", what)
		case <-tick.C:
		}
	}
}

func contains(s, sub string) bool { return strings.Contains(s, sub) }

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
