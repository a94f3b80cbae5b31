package store_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(storetest.Runner(m))
}

func TestPingAnswers(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func ptr[T any](v T) *T { return &v }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newAgent(t *testing.T, s *store.Store) store.Agent {
	t.Helper()
	a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{Model: "m"}}
	check(t, s.CreateAgent(t.Context(), &a))
	return a
}

func newSession(t *testing.T, s *store.Store) store.Session {
	t.Helper()
	sess := store.Session{AgentID: newAgent(t, s).ID}
	check(t, s.CreateSession(t.Context(), &sess, nil))
	return sess
}

// within is a context for something that must happen soon.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// receive waits for a value.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-within(t).Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually polls until ok, for what gives no signal.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}
