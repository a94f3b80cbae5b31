package agent_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// fakeHarness is a harness without a process. What a turn does stands in its text:
//
//	say WORDS      a delta for each word, then the part
//	wait           until it is aborted
//	stuck          until its context or its harness ends, whatever is asked
//	crash          the harness is lost in the middle
//	fail           ends as failed
type fakeHarness struct {
	mu       sync.Mutex // guards the fields below
	configs  []harness.Config
	runs     []*fakeRun
	turns    []string
	startErr func(n int) error // for the nth start, from 1
	database string            // what it keeps; empty: files
}

// State is what is below ~/kept.
func (h *fakeHarness) State(env map[string]string) harness.State {
	return harness.State{Dir: env["HOME"] + "/kept", Database: h.database}
}

func (h *fakeHarness) Start(_ context.Context, c harness.Config) (harness.Running, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.configs = append(h.configs, c)
	for _, p := range []string{"waiting_harness", "harness_listening", "harness_ready"} {
		c.Emit(harness.Event{Type: "phase", Data: map[string]string{"phase": p, "detail": ""}})
	}
	if h.startErr != nil {
		if err := h.startErr(len(h.configs)); err != nil {
			return nil, err
		}
	}
	r := &fakeRun{h: h, c: c, done: make(chan struct{}), abort: make(chan struct{}, 1), id: c.Resume}
	if r.id == "" {
		r.id = "native-1"
	}
	h.runs = append(h.runs, r)
	return r, nil
}

func (h *fakeHarness) config(n int) harness.Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.configs[n-1]
}

func (h *fakeHarness) run(n int) *fakeRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.runs[n-1]
}

func (h *fakeHarness) heard() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string{}, h.turns...)
}

type fakeRun struct {
	h     *fakeHarness
	c     harness.Config
	id    string
	abort chan struct{}
	done  chan struct{}
	once  sync.Once
}

func (r *fakeRun) SessionID() string     { return r.id }
func (r *fakeRun) Done() <-chan struct{} { return r.done }
func (r *fakeRun) ExitReason() string    { return "fake exited with code 7: boom" }
func (r *fakeRun) die()                  { r.once.Do(func() { close(r.done) }) }
func (r *fakeRun) Close()                { r.die() }

func (r *fakeRun) Abort(context.Context) error {
	select {
	case r.abort <- struct{}{}:
	default:
	}
	return nil
}

func (r *fakeRun) Turn(ctx context.Context, t sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	text := *t.Parts[0].Text
	r.h.mu.Lock()
	r.h.turns = append(r.h.turns, t.ID)
	r.h.mu.Unlock()
	verb, rest, _ := strings.Cut(text, " ")
	switch verb {
	case "say":
		for w := range strings.FieldsSeq(rest) {
			r.c.Emit(harness.Event{Type: "message.delta", TurnID: t.ID, Data: map[string]string{"part_id": "p", "text": w + " "}})
		}
		part := sandboxd.OutputPart{ID: "p", Type: "text", Text: &rest}
		r.c.Emit(harness.Event{Type: "message.part", TurnID: t.ID, Data: map[string]any{"part_id": "p", "part": part}})
		return harness.Completed, sandboxd.TurnResult{Parts: []sandboxd.OutputPart{part}}, nil
	case "wait":
		select {
		case <-r.abort:
			return harness.Aborted, sandboxd.TurnResult{}, nil
		case <-ctx.Done():
			return "", sandboxd.TurnResult{}, ctx.Err()
		}
	case "stuck":
		select {
		case <-r.done:
		case <-ctx.Done():
		}
		return "", sandboxd.TurnResult{}, errors.New("stuck until the end")
	case "crash":
		r.die()
		return "", sandboxd.TurnResult{}, errors.New(r.ExitReason())
	case "fail":
		return harness.Failed, sandboxd.TurnResult{Error: &sandboxd.TurnError{Name: "APIError", Message: "no"}}, nil
	}
	return "", sandboxd.TurnResult{}, fmt.Errorf("what is %q?", verb)
}
