package session_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// idle opens a session that is idle after so long.
func (r *rig) idle(after time.Duration) string {
	ms := after.Milliseconds()
	agent := r.agent(func(a *store.Agent) { a.IdleTimeoutMs = &ms })
	return r.open(session.CreateParams{AgentID: agent, EnvVars: map[string]string{"K": "v"}})
}

// suspended waits until a session is suspended and nothing of its sandbox is left.
func (r *rig) suspended(id string) store.Session {
	r.t.Helper()
	eventually(r.t, "the session to be suspended", func() bool {
		s := r.session(id)
		return s.SandboxState == "suspended" && s.Settled && s.SandboxID == ""
	})
	if boxes, workspaces, settings := r.rt.count(); boxes != 0 || workspaces != 1 || settings != 1 {
		r.t.Errorf("%d sandboxes, %d workspaces and %d settings of a suspended session", boxes, workspaces, settings)
	}
	return r.session(id)
}

// states are the states of sandbox that a session's events told of, and the ends of its turns.
func (r *rig) states(id string) (out []string) {
	for _, e := range r.events(id) {
		switch e.Type {
		case "session.status":
			var d struct {
				SandboxState string `json:"sandbox_state"`
			}
			if err := json.Unmarshal(e.Data, &d); err != nil {
				r.t.Fatal(err)
			}
			out = append(out, d.SandboxState)
		case "turn.completed", "turn.failed":
			out = append(out, e.Type)
		}
	}
	return out
}

func TestAnIdleSessionIsSuspendedAndTheNextMessageWakesIt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.idle(100 * time.Millisecond)
		s := r.suspended(id)
		if s.Status != session.Ready || s.FailureReason != nil || s.StoppedAt != nil {
			t.Errorf("suspended = %+v", s)
		}
		r.rt.mu.Lock()
		r.rt.hold = true // so that it is seen waking
		r.rt.mu.Unlock()
		turn := r.send(id, "good morning")
		if s := r.session(id); s.Status != session.Ready || s.SandboxState != "waking" || s.Attempt != 2 || *s.Phase != "creating_sandbox" {
			t.Errorf("waking = %+v", s)
		}
		b := r.rt.only()
		r.rt.mu.Lock()
		r.rt.hold = false
		b.start()
		r.rt.mu.Unlock()
		if got := r.wait(turn); got.Status != session.TurnCompleted || got.Attempt != 2 {
			t.Errorf("turn = %+v", got)
		}
		if b.bound.Env["K"] != "v" || b.bound.Attempt != 2 {
			t.Errorf("the new sandbox is bound with %+v", b.bound)
		}
		r.suspended(id) // idle again
		want := []string{"starting", "running", "suspended", "waking", "running", "turn.completed", "suspended"}
		if got := r.states(id); !slices.Equal(got, want) {
			t.Errorf("states %v, want %v", got, want)
		}
	})
}

func TestARunningTurnIsActivity(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		taken := make(chan *box, 1)
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
			b.emit("turn.started", turn.ID, `{}`)
			taken <- b
		}
		id := r.open(session.CreateParams{AgentID: r.agent(func(a *store.Agent) { a.IdleTimeoutMs = new(int64(150)) }), EnvVars: map[string]string{"K": "v"},
			InitialPrompt: new("think for long")})
		b := <-taken
		var turn store.Turn
		eventually(t, "the turn to be handed over", func() bool { turn = r.open1(id); return turn.Status == session.Handed })
		// Four times the idle timeout, with a look at the session every few milliseconds, and without a word of the harness.
		for start := time.Now(); time.Since(start) < 600*time.Millisecond; {
			if err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
				tx.Append(store.NewEvent{Type: "error", Data: map[string]any{}})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if s := r.session(id); s.SandboxState != "running" {
			t.Fatalf("during its turn the session is %s", s.SandboxState)
		}
		b.reply(turn.ID, "done")
		r.suspended(id)
		if got := r.states(id); !slices.Equal(got, []string{"starting", "running", "turn.completed", "suspended"}) {
			t.Errorf("states %v", got)
		}
	})
}

// open1 is the session's only open turn.
func (r *rig) open1(id string) (turn store.Turn) {
	err := r.o.Store.Session(r.t.Context(), id, func(tx *store.SessionTx) error {
		open, err := tx.OpenTurns()
		if len(open) == 1 {
			turn = open[0]
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return turn
}

func TestMessagesAtTheMomentOfSuspendingAreAllAnsweredOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.idle(time.Millisecond)
		r.await(id, session.Ready)
		for i := range 30 {
			turn := r.send(id, fmt.Sprint("message ", i))
			if got := r.wait(turn); got.Status != session.TurnCompleted {
				t.Fatalf("message %d: %s %v", i, got.Status, *got.ErrorMessage)
			}
		}
		r.suspended(id)
		if n := r.count(id, "turn.started"); n != 30 {
			t.Errorf("%d turns were started", n)
		}
		if r.session(id).Attempt < 5 {
			t.Errorf("only %d attempts: the test did not meet the moment", r.session(id).Attempt)
		}
	})
}

func TestAWakeThatFailsLeavesTheSessionSuspended(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		patience := r.o.StartTimeout
		restart := func(hold bool, timeout time.Duration) {
			r.stop()
			r.o.StartTimeout = timeout
			r.rt.mu.Lock()
			r.rt.hold = hold
			r.rt.mu.Unlock()
			r.lead()
		}
		id := r.idle(100 * time.Millisecond)
		r.suspended(id)
		restart(true, 400*time.Millisecond)
		if got := r.wait(r.send(id, "wake up")); got.Status != session.TurnFailed || *got.ErrorName != session.TurnNotReady ||
			!contains(*got.ErrorMessage, "could not be woken: did not become ready within 400ms") {
			t.Errorf("turn = %+v", got)
		}
		s := r.suspended(id)
		if s.Status != session.Ready || s.FailureReason == nil || !contains(*s.FailureReason, "did not become ready within 400ms") {
			t.Errorf("session = %+v", s)
		}
		restart(false, patience)
		if got := r.wait(r.send(id, "and now")); got.Status != session.TurnCompleted {
			t.Errorf("turn = %+v", got)
		}
		if s := r.session(id); s.FailureReason != nil {
			t.Errorf("reason left: %s", *s.FailureReason)
		}
	})
}

func TestASandboxLostWhileWakingLeavesTheSessionSuspended(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.idle(100 * time.Millisecond)
		r.suspended(id)
		r.rt.mu.Lock()
		r.rt.hold = true
		r.rt.mu.Unlock()
		turn := r.send(id, "wake up")
		r.rt.only().crash("no luck")
		if got := r.wait(turn); got.Status != session.TurnFailed || !contains(*got.ErrorMessage, "no luck") {
			t.Errorf("turn = %+v", got)
		}
		if s := r.suspended(id); !contains(*s.FailureReason, "no luck") || s.Status != session.Ready {
			t.Errorf("session = %+v", s)
		}
	})
}

func TestANewLeaderGoesOnWithSuspendingAndWaking(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.idle(time.Hour)
		r.await(id, session.Ready)
		r.stop()
		// The last leader had decided to suspend it and came no further.
		err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
			tx.Session.Desired, tx.Session.SandboxState = "suspended", "suspended"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.lead()
		r.suspended(id)
		r.stop()
		turn := r.send(id, "nobody leads")
		r.lead()
		if got := r.wait(turn); got.Status != session.TurnCompleted {
			t.Errorf("turn = %+v", got)
		}
		// A message that comes while the old sandbox is still there gets a new one all the same.
		old := r.rt.only()
		r.stop()
		err = r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
			tx.Session.Desired, tx.Session.SandboxState = "suspended", "suspended"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		turn = r.send(id, "at once")
		r.lead()
		if got := r.wait(turn); got.Status != session.TurnCompleted || old.ran(turn.ID) != 0 {
			t.Errorf("turn = %+v, run by the old sandbox %d times", got, old.ran(turn.ID))
		}
		if b := r.rt.only(); b == old {
			t.Error("the old sandbox was kept")
		}
	})
}

func TestASuspendedSessionCanBeRestartedStoppedAndDeleted(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.idle(100 * time.Millisecond)
		r.suspended(id)
		if s, err := r.service.Restart(t.Context(), id); err != nil || s.Status != session.Creating {
			t.Fatalf("restart: %+v %v", s, err)
		}
		r.await(id, session.Ready)
		r.suspended(id)
		if turn, err := r.service.Abort(t.Context(), id); turn != "" || err != nil {
			t.Errorf("abort of %q: %v", turn, err)
		}
		if s, err := r.service.Stop(t.Context(), id); err != nil || s.Status != session.Dead {
			t.Fatalf("stop: %+v %v", s, err)
		}
		eventually(t, "it to settle", func() bool { s := r.session(id); return s.Settled && s.SandboxState == "none" })
		if err := r.service.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "everything to be gone", func() bool {
			boxes, workspaces, settings := r.rt.count()
			return boxes+workspaces+settings == 0
		})
	})
}
