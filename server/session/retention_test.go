package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// keep starts another leader that keeps what sessions leave for so long. Zero is for ever.
func (r *rig) keep(workspace, rows time.Duration) {
	r.stop()
	r.o.SessionRetention, r.o.DataRetention = workspace, rows
	r.lead()
}

// workspaces are what the restarts of a session said of its workspace.
func (r *rig) workspaces(id string) (out []string) {
	for _, e := range r.events(id) {
		var d struct{ Workspace string }
		if err := json.Unmarshal(e.Data, &d); err != nil {
			r.t.Fatal(err)
		}
		if d.Workspace != "" {
			out = append(out, d.Workspace)
		}
	}
	return out
}

func (r *rig) gone(what string) {
	r.t.Helper()
	eventually(r.t, what+" to be gone", func() bool {
		boxes, workspaces, settings := r.rt.count()
		return boxes+workspaces+settings == 0
	})
}

func TestWhatAStoppedSessionLeavesExpires(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.keep(time.Hour, 0)
		id := r.open(session.CreateParams{EnvVars: map[string]string{"K": "v"}})
		r.await(id, session.Ready)
		if _, err := r.service.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the session to be settled", func() bool { return r.session(id).Settled })
		r.keep(time.Hour, 0)
		if _, workspaces, settings := r.rt.count(); workspaces != 1 || settings != 1 || r.session(id).ExpiredAt != nil {
			t.Fatalf("%d workspaces and %d settings before the hour has passed", workspaces, settings)
		}
		r.keep(time.Millisecond, 0)
		r.gone("workspace and settings")
		if s := r.session(id); s.Status != session.Dead || *s.FailureReason != "stopped" || s.ExpiredAt == nil || s.HarnessSessionID != nil {
			t.Errorf("session = %+v", s)
		}
		if _, err := r.service.Restart(t.Context(), id); !errors.Is(err, session.ErrExpired) {
			t.Errorf("restart without its settings: %v", err)
		}
		if s := r.session(id); s.Status != session.Dead || s.Attempt != 1 {
			t.Errorf("the refusal changed the session: %+v", s)
		}
	})
}

func TestAnExpiredSessionRestartsOnAFreshWorkspace(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		r.rt.only().crash("no luck")
		r.await(id, session.Dead)
		r.keep(time.Millisecond, 0)
		r.gone("the workspace")
		r.keep(0, 0)
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.await(id, session.Ready)
		if s := r.session(id); s.ExpiredAt != nil {
			t.Errorf("it is still expired: %+v", s)
		}
		if b := r.rt.only(); b.bound.HarnessSessionID != nil {
			t.Errorf("the harness is to resume %s, which went with the workspace", *b.bound.HarnessSessionID)
		}
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := r.workspaces(id); len(got) != 2 || got[0] != "fresh" || got[1] != "kept" {
			t.Errorf("workspaces %v, want a fresh one and then a kept one", got)
		}
	})
}

func TestARestartBeforeTheCleanUpOfAnExpiredSessionFindsNothingOfIt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		if _, err := r.service.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the session to be settled", func() bool { return r.session(id).Settled })
		r.stop()
		r.expire(id) // what a leader leaves that is killed as soon as it has committed
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		removed := make(chan string, 1)
		r.o.Runtime = hookedRuntime{fakeRuntime: r.rt, onWorkspace: func(id string) { removed <- id }}
		r.lead()
		r.await(id, session.Ready)
		select {
		case got := <-removed:
			if got != id {
				t.Errorf("workspace of %s was removed", got)
			}
		default:
			t.Error("the new attempt began in the expired workspace")
		}
	})
}

// expire writes what the sweep writes when a session expires.
func (r *rig) expire(id string) {
	err := r.o.Store.Session(r.t.Context(), id, func(tx *store.SessionTx) error {
		now := tx.Now()
		tx.Session.ExpiredAt, tx.Session.Settled = &now, false
		return nil
	})
	if err != nil {
		r.t.Error(err)
	}
}

// hookedRuntime tells of what it removes, before it does. A hook may be nil.
type hookedRuntime struct {
	*fakeRuntime
	onSandbox   func()
	onWorkspace func(id string)
}

func (r hookedRuntime) Delete(ctx context.Context, id sandbox.ID) error {
	if r.onSandbox != nil {
		r.onSandbox()
	}
	return r.fakeRuntime.Delete(ctx, id)
}

func (r hookedRuntime) DeleteWorkspace(ctx context.Context, id string) error {
	if r.onWorkspace != nil {
		r.onWorkspace(id)
	}
	return r.fakeRuntime.DeleteWorkspace(ctx, id)
}

func TestASessionThatExpiresDuringItsCleanUpIsCleanedUpAgain(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.stop()
		var id string
		r.o.Runtime = hookedRuntime{fakeRuntime: r.rt, onSandbox: sync.OnceFunc(func() { r.expire(id) })}
		id = r.open(session.CreateParams{EnvVars: map[string]string{"K": "v"}})
		r.lead()
		r.await(id, session.Ready)
		if _, err := r.service.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.gone("workspace and settings")
		eventually(t, "the session to be settled", func() bool { return r.session(id).Settled })
	})
}

func TestASuspendedSessionExpiresAndSaysSo(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.idle(100 * time.Millisecond)
		r.suspended(id)
		r.keep(48*time.Hour, 0)
		if err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
			long := tx.Now().Add(-48*time.Hour - time.Second)
			tx.Session.SuspendedAt = &long
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		r.keep(48*time.Hour, 0)
		r.gone("workspace and settings")
		s := r.await(id, session.Dead)
		if *s.FailureReason != "expired: it was suspended for 2 days" || s.StoppedAt == nil {
			t.Errorf("session = %+v, %s", s, *s.FailureReason)
		}
		eventually(t, "the session to be settled", func() bool { return r.session(id).Settled })
		if _, err := r.service.Send(t.Context(), id, text("late")); !errors.Is(err, session.ErrEnded) {
			t.Errorf("send to an expired session: %v", err)
		}
		if got := r.states(id); got[len(got)-1] != "none" {
			t.Errorf("states %v", got)
		}
	})
}

func TestALiveSessionNeverExpires(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.keep(time.Millisecond, time.Millisecond)
		id := r.idle(500 * time.Millisecond)
		r.await(id, session.Ready)
		for range 3 { // one term of leadership each, with its sweep
			r.keep(time.Millisecond, time.Millisecond)
			if got := r.wait(r.send(id, "hello")); got.Status != session.TurnCompleted {
				t.Fatalf("turn = %+v", got)
			}
		}
		if s := r.session(id); s.Status != session.Ready || s.ExpiredAt != nil {
			t.Errorf("session = %+v", s)
		}
	})
}

func TestRowsOfEndedSessionsAndDeletedAgentsAreRemoved(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		agent := r.agent(func(a *store.Agent) { a.EnvVars = map[string]string{"K": "v"} })
		kept := r.open(session.CreateParams{AgentID: r.agent(nil)})
		old := r.open(session.CreateParams{AgentID: agent, InitialPrompt: new("hello")})
		r.await(old, session.Ready)
		r.await(kept, session.Ready)
		if err := r.service.DeleteAgent(t.Context(), agent, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the session to be settled", func() bool { return r.session(old).Settled })
		r.keep(time.Hour, time.Hour)
		r.session(old)
		r.keep(time.Millisecond, time.Millisecond)
		eventually(t, "the rows to be gone", func() bool {
			_, err := r.o.Store.GetSession(t.Context(), old)
			return errors.Is(err, store.ErrNotFound) && len(r.events(old)) == 0
		})
		eventually(t, "the agent to be gone", func() bool {
			_, err := r.o.Store.GetAgentVersion(t.Context(), agent, 1)
			return errors.Is(err, store.ErrNotFound)
		})
		if s := r.session(kept); s.Status != session.Ready {
			t.Errorf("the other session is %+v", s)
		}
	})
}

func TestASessionThatWasUsedSinceItWasListedDoesNotExpire(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		listed := time.Now()
		stopped, err := r.service.Stop(t.Context(), id) // after it was listed
		if err != nil {
			t.Fatal(err)
		}
		for before, expired := range map[time.Time]bool{listed.Add(-time.Second): false, stopped.StoppedAt.Add(time.Second): true} {
			err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
				if err := session.ExpireOne(tx, before, time.Hour); err != nil {
					return err
				}
				if got := tx.Session.ExpiredAt != nil; got != expired {
					t.Errorf("before %v: expired is %v", before.Sub(listed), got)
				}
				tx.Session.ExpiredAt = nil
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestADiagnosisNamesTheKindOfWhatFailedAndNothingElse(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		context.DeadlineExceeded:                  "it did not come in time",
		store.ErrUnavailable:                      "the database does not answer",
		store.ErrNotFound:                         "it does not exist",
		session.ErrNoSandbox:                      "it does not exist",
		errors.New("dial tcp 10.0.0.7: no route"): "it could not be read",
	} {
		if got := session.Missed(fmt.Errorf("read part: %w", err)); got != want {
			t.Errorf("%v: %s", err, got)
		}
	}
}
