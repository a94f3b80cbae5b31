package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

const (
	startWithin = 3 * time.Minute  // for a harness to become ready
	abortWithin = 15 * time.Second // for a turn to end once it was asked to
	endWithin   = 5 * time.Second  // for a turn to end once its harness is gone
)

// keeper keeps a harness running and gives it one turn after the other. It belongs to the session's goroutine.
type keeper struct {
	s       *session
	h       harness.Harness
	hc      harness.Config
	rec     *recorder
	secrets *redactor
	running harness.Running
	spare   bool // one restart is left until a turn completes

	restored *harness.State // from a checkpoint; nil: it was not
}

// serve starts the harness and runs turns until ctx ends or the harness is lost for good.
func (k *keeper) serve(ctx context.Context, notes string) {
	if err := k.begin(ctx); err != nil {
		k.rec.end()
		k.s.fail(ctx, k.secrets.clean(err.Error()))
		return
	}
	defer func() {
		k.s.kept.ended()
		k.running.Close()
	}()
	k.rec.end()
	t, terminal := k.running.(harness.Terminal)
	if terminal {
		k.s.show(t.Terminal())
	}
	k.s.ready(ctx, k.running.SessionID(), k.conversation(), notes)
	k.spare = true
	for {
		lost := k.next(ctx)
		if ctx.Err() != nil {
			break
		}
		if lost != "" && terminal { // whoever ended the program meant it
			k.exited(ctx, k.secrets.clean(lost))
			break
		}
		if lost != "" && !k.restart(ctx, lost) {
			break
		}
	}
	k.dropTurn(ctx)
}

// begin is the first start. With a state of which the harness can make nothing it starts without.
func (k *keeper) begin(ctx context.Context) error {
	err := k.start(ctx)
	if err == nil || k.restored == nil || ctx.Err() != nil {
		return err
	}
	k.s.refuseCheckpoint(k.restored, &k.hc, errors.New(k.secrets.clean(err.Error())))
	k.restored = nil
	return k.start(ctx)
}

// conversation tells how it began.
func (k *keeper) conversation() string {
	began := harness.ConversationOf(k.running, k.hc)
	if began == harness.ConversationResumed && k.restored != nil {
		return harness.ConversationRestored
	}
	return began
}

func (k *keeper) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	r, err := k.h.Start(ctx, k.hc)
	if err != nil {
		return err
	}
	k.running = r
	if state, err := harness.StateOf(k.h, k.hc.Env); err == nil {
		k.s.kept.keeps(state, r.SessionID)
	}
	return nil
}

// next waits for a turn and runs it. It returns why the harness is lost, if it is.
func (k *keeper) next(ctx context.Context) (lost string) {
	select {
	case <-ctx.Done():
		return ""
	case <-k.running.Done():
		return k.running.ExitReason()
	case t := <-k.s.turns:
		return k.turn(ctx, t)
	}
}

// restart starts the harness again from its own conversation, once between two completed turns. If that cannot be it ends the
// session's service.
func (k *keeper) restart(ctx context.Context, lost string) bool {
	lost = k.secrets.clean(lost)
	k.s.log.Warn("harness is lost", "reason", lost, "restart", k.spare)
	k.hc.Resume, k.hc.Replay, k.hc.Missed = k.running.SessionID(), "", "" // more was said since
	k.running.Close()
	if !k.spare {
		k.exited(ctx, lost)
		return false
	}
	k.spare = false
	if err := k.start(ctx); err != nil {
		if ctx.Err() == nil {
			k.exited(ctx, lost+"; starting it again: "+k.secrets.clean(err.Error()))
		}
		return false
	}
	k.rec.emit(harness.Event{Type: typeHarnessEvent, Data: map[string]string{"kind": "restarted", "message": *cut(&lost, maxMessage)}})
	k.rec.end()
	return true
}

// exited ends a turn that came meanwhile, before it says that there will be no other.
func (k *keeper) exited(ctx context.Context, reason string) {
	k.s.refuseTurns()
	k.dropTurn(ctx)
	k.s.conclude(ctx, stateFailed, typeHarnessExited, "", map[string]string{"reason": *cut(&reason, maxMessage)})
}

// dropTurn ends a turn that was taken and never begun.
func (k *keeper) dropTurn(ctx context.Context) {
	select {
	case t := <-k.s.turns:
		k.s.conclude(ctx, "", typeTurnFailed, t.ID, interrupted(sandboxd.TurnResult{}, "the harness is gone"))
	default:
	}
}

// refuseTurns makes startTurn refuse from now on.
func (s *session) refuseTurns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateReady {
		s.state = stateFailed
	}
}

func (k *keeper) limit() time.Duration {
	if k.s.c.abortWithin > 0 {
		return k.s.c.abortWithin
	}
	return abortWithin
}

type turnEnd struct {
	status string
	result sandboxd.TurnResult
	err    error
}

// turn runs one turn to its end on the log and returns why the harness is lost, if it is.
func (k *keeper) turn(ctx context.Context, t sandboxd.Turn) (lost string) {
	if k.s.isAborted(t.ID) {
		k.s.conclude(ctx, "", typeTurnAborted, t.ID, boundedResult(sandboxd.TurnResult{}))
		return ""
	}
	k.rec.begin(t.ID)
	turnCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan turnEnd, 1)
	go func() {
		var e turnEnd
		e.status, e.result, e.err = k.running.Turn(turnCtx, t)
		ended <- e
	}()
	end, aborted := k.await(ctx, cancel, ended)
	k.rec.end()
	typ, result := k.judge(ctx, end, aborted)
	k.s.conclude(ctx, "", typ, t.ID, result)
	if end.err == nil {
		k.spare = k.spare || end.status == harness.Completed
		return ""
	}
	return k.secrets.clean(end.err.Error())
}

// await returns when the turn's goroutine has ended. It passes an abort on, and takes the harness away from a turn that does not
// end by itself when it should.
func (k *keeper) await(ctx context.Context, cancel func(), ended <-chan turnEnd) (e turnEnd, aborted bool) {
	done, stop := k.running.Done(), ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case e = <-ended:
			return e, aborted
		case <-k.s.aborts:
			aborted = true
			late = time.After(k.limit())
			abortCtx, done := context.WithTimeout(ctx, k.limit())
			if err := k.running.Abort(abortCtx); err != nil {
				k.s.log.Warn("abort was not taken", "err", err)
			}
			done()
		case <-done:
			done, late = nil, time.After(endWithin)
		case <-stop:
			stop, late = nil, time.After(endWithin)
		case <-late:
			cancel()
			k.running.Close()
			late = nil
		}
	}
}

// judge says what a turn's end is on the log.
func (k *keeper) judge(ctx context.Context, e turnEnd, aborted bool) (string, sandboxd.TurnResult) {
	switch {
	case e.err != nil && aborted:
		return typeTurnAborted, boundedResult(e.result)
	case ctx.Err() != nil && (e.err != nil || e.status != harness.Completed):
		return typeTurnFailed, interrupted(e.result, "the sandbox was stopped")
	case e.err != nil:
		return typeTurnFailed, interrupted(e.result, k.secrets.clean(e.err.Error()))
	case e.status == harness.Completed:
		return typeTurnCompleted, boundedResult(e.result)
	case e.status == harness.Aborted:
		return typeTurnAborted, boundedResult(e.result)
	}
	if e.result.Error == nil {
		e.result.Error = &sandboxd.TurnError{Name: "harness_error", Message: fmt.Sprintf("the harness ended the turn as %q and gave no reason", e.status)}
	}
	e.result.Error.Message = k.secrets.clean(e.result.Error.Message)
	return typeTurnFailed, boundedResult(e.result)
}

// interrupted is the result of a turn that was lost in the middle.
func interrupted(r sandboxd.TurnResult, reason string) sandboxd.TurnResult {
	r.Error = &sandboxd.TurnError{Name: "turn_interrupted", Message: reason}
	return boundedResult(r)
}

func (s *session) isAborted(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current == id && s.aborted
}
