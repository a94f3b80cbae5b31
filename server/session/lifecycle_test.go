package session_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestDeleteDuringCreatingStaysDeletedAndLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.hold = true
		id := r.open(session.CreateParams{EnvVars: map[string]string{"K": "v"}})
		turn := r.send(id, "never runs")
		r.rt.only()
		if err := r.service.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := r.wait(turn); got.Status != session.TurnFailed || *got.ErrorName != session.TurnNotReady {
			t.Errorf("turn = %+v", got)
		}
		eventually(t, "everything to be gone", func() bool {
			boxes, workspaces, settings := r.rt.count()
			return boxes+workspaces+settings == 0 && r.session(id).Settled
		})
		if err := r.service.Delete(t.Context(), id); err != nil {
			t.Errorf("second delete: %v", err)
		}
		if s := r.session(id); s.Status != session.Dead || *s.FailureReason != "deleted" || s.SandboxState != "none" {
			t.Errorf("session = %+v", s)
		}
		if _, err := r.service.Send(t.Context(), id, text("late")); !errors.Is(err, session.ErrEnded) {
			t.Errorf("send after delete: %v", err)
		}
		if err := r.service.Delete(t.Context(), "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("delete of unknown: %v", err)
		}
	})
}

func TestASessionWhoseSandboxIsRefusedForGoodFailsAtOnceWithTheReason(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		r := newRig(t, s)
		r.rt.mu.Lock()
		r.rt.refuse = fmt.Errorf("create sandbox x: %w: the cluster does not admit it: no such class", sandbox.ErrRefused)
		r.rt.mu.Unlock()
		failed := r.await(r.open(session.CreateParams{}), session.Failed)
		if !contains(*failed.FailureReason, "the cluster does not admit it: no such class") {
			t.Errorf("reason = %s", *failed.FailureReason)
		}
	})
}

func TestASessionThatNeverBecomesReadyFailsAtItsDeadline(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		r := newRig(t, s)
		r.stop()
		r.o.StartTimeout = 300 * time.Millisecond
		r.rt.hold = true
		r.lead()
		id := r.open(session.CreateParams{})
		failed := r.await(id, session.Failed)
		if !contains(*failed.FailureReason, "did not become ready within 300ms, it was at creating_sandbox") {
			t.Errorf("reason = %s", *failed.FailureReason)
		}
		eventually(t, "the sandbox to be gone", func() bool { n, _, _ := r.rt.count(); return n == 0 })
	})
}

func TestSandboxesAndSettingsWithoutASessionAreRemoved(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.stop()
		r.rt.age = time.Hour
		err := r.rt.Create(t.Context(), sandbox.Spec{ID: "orphan", SessionID: "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.o.Settings.Put(t.Context(), "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a", map[string]string{"A": "b"}); err != nil {
			t.Fatal(err)
		}
		r.lead()
		eventually(t, "the orphans to be gone", func() bool { boxes, _, settings := r.rt.count(); return boxes+settings == 0 })
	})
}

func TestAnAgentsDeletionStopsItsLiveSessions(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		agent := r.agent(nil)
		id, other := r.open(session.CreateParams{AgentID: agent}), r.open(session.CreateParams{})
		r.await(id, session.Ready)
		r.await(other, session.Ready)
		if err := r.service.DeleteAgent(t.Context(), agent, nil); err != nil {
			t.Fatal(err)
		}
		if s := r.session(id); s.Status != session.Dead || *s.FailureReason != "agent deleted" || s.StoppedAt == nil {
			t.Errorf("session = %+v", s)
		}
		eventually(t, "its sandbox to be gone", func() bool { n, _, _ := r.rt.count(); return n == 1 })
		if s := r.session(other); s.Status != session.Ready {
			t.Errorf("the other agent's session is %s", s.Status)
		}
		if err := r.service.DeleteAgent(t.Context(), agent, nil); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("second delete: %v", err)
		}
		if _, err := r.service.Create(t.Context(), session.CreateParams{AgentID: agent}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("create for deleted agent: %v", err)
		}
	})
}

func TestAbortEndsTheRunningTurnOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) { b.emit("turn.started", turn.ID, `{}`) }
		id := r.open(session.CreateParams{})
		abort := func() (bool, error) {
			turn, err := r.service.Abort(t.Context(), id)
			if err != nil {
				return false, err
			}
			return r.service.Aborted(t.Context(), id, turn)
		}
		if aborted, err := abort(); aborted || err != nil {
			t.Errorf("with no turn: %v %v", aborted, err)
		}
		first, second := r.send(id, "one"), r.send(id, "two")
		eventually(t, "the first turn", func() bool { return r.count(id, "turn.started") == 1 })
		if aborted, err := abort(); !aborted || err != nil {
			t.Errorf("abort: %v %v", aborted, err)
		}
		if got := r.wait(first); got.Status != session.TurnAborted || *got.ErrorName != "aborted" {
			t.Errorf("first = %+v", got)
		}
		eventually(t, "the second turn", func() bool { return r.count(id, "turn.started") == 2 })
		if got, err := r.o.Store.GetTurn(t.Context(), id, second.ID); err != nil || got.Status != session.Handed {
			t.Errorf("second = %+v %v", got, err)
		}
		// What was asked for while nobody led is passed on by the next leader.
		r.stop()
		done := make(chan bool)
		go func() {
			aborted, err := abort()
			done <- aborted && err == nil
		}()
		eventually(t, "the wish to be stored", func() bool {
			asked, err := r.o.Store.AbortAsked(t.Context(), id, second.ID)
			return err == nil && asked
		})
		r.lead()
		if !<-done {
			t.Error("not aborted by the next leader")
		}
	})
}

func TestARestartIsANewAttemptOfTheSameConversation(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{EnvVars: map[string]string{"K": "v"}})
		r.await(id, session.Ready)
		old := r.rt.only()
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) { b.emit("turn.started", turn.ID, `{}`) }
		running, queued := r.send(id, "runs"), r.send(id, "waits")
		eventually(t, "the turn to start", func() bool { return r.count(id, "turn.started") == 1 })
		r.rt.mu.Lock()
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) { b.reply(turn.ID, "from the new one") }
		r.rt.mu.Unlock()
		if s, err := r.service.Restart(t.Context(), id); err != nil || s.Status != session.Creating || s.Attempt != 2 {
			t.Fatalf("restart: %+v %v", s, err)
		}
		if got := r.wait(running); got.Status != session.TurnFailed || *got.ErrorName != session.TurnInterrupted {
			t.Errorf("running turn = %+v", got)
		}
		if got := r.wait(queued); got.Status != session.TurnCompleted {
			t.Errorf("queued turn = %+v", got)
		}
		b := r.rt.only()
		if b == old || *b.bound.HarnessSessionID != "native-1" || b.bound.Attempt != 2 || b.bound.Env["K"] != "v" || old.ran(queued.ID) != 0 {
			t.Errorf("new sandbox is bound with %+v", b.bound)
		}

		if s, err := r.service.Stop(t.Context(), id); err != nil || s.Status != session.Dead || *s.FailureReason != "stopped" {
			t.Fatalf("stop: %+v %v", s, err)
		}
		eventually(t, "the sandbox to be gone", func() bool { n, _, _ := r.rt.count(); return n == 0 })
		if _, workspaces, settings := r.rt.count(); workspaces != 1 || settings != 1 {
			t.Errorf("%d workspaces and %d settings are left of a stopped session", workspaces, settings)
		}
		if s, err := r.service.Stop(t.Context(), id); err != nil || s.Status != session.Dead {
			t.Errorf("second stop: %+v %v", s, err)
		}
		r.rt.keep(true)
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := r.service.Restart(t.Context(), id); !errors.Is(err, session.ErrRestart) {
			t.Errorf("restart while creating: %v", err)
		}
		r.rt.keep(false)
		r.await(id, session.Ready)
		if got := r.wait(r.send(id, "once more")); got.Status != session.TurnCompleted {
			t.Errorf("turn after restart = %+v", got)
		}
		if err := r.service.DeleteAgent(t.Context(), r.session(id).AgentID, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.service.Restart(t.Context(), id); !errors.Is(err, session.ErrRestart) {
			t.Errorf("restart without agent: %v", err)
		}
	})
}

func TestAnswersThatNobodyMayAskForAnyMoreAreForgotten(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		r := newRig(t, storetest.OpenWith(t, o))
		for _, key := range []string{"old", "young"} {
			_, _, err := r.o.Store.Once(t.Context(), store.Request{Key: key}, func(context.Context) (store.Answer, error) {
				return store.Answer{Status: 200}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		r.stop()
		storetest.Exec(t, o, "UPDATE answers SET created_at = 1 WHERE key = 'old'")
		r.lead()
		eventually(t, "one answer to be gone", func() bool { return storetest.Rows(t, o, "answers") == 1 })
		_, replayed, err := r.o.Store.Once(t.Context(), store.Request{Key: "young"}, func(context.Context) (store.Answer, error) {
			return store.Answer{}, errors.New("done again")
		})
		if err != nil || !replayed {
			t.Errorf("the young one: %v", err)
		}
	})
}
