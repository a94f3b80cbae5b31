package session_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

func TestATurnThatTakesTooLongFailsAndTheNextOneRuns(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.stop()
		r.o.TurnTimeout = time.Second
		var stuck atomic.Bool
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
			switch *turn.Parts[0].Text {
			case "stuck":
				b.emit("turn.started", turn.ID, `{}`)
				b.emit("message.delta", turn.ID, `{"part_id":"p","offset":0,"text":"half"}`)
				stuck.Store(true)
			default:
				b.reply(turn.ID, "ok")
			}
		}
		id := r.open(session.CreateParams{})
		r.lead()
		first, next := r.send(id, "stuck"), r.send(id, "next")
		eventually(t, "the turn runs", stuck.Load)
		r.stop() // another leader goes on with the same deadline
		r.lead()
		ended := r.wait(first)
		if ended.Status != session.TurnFailed || *ended.ErrorName != "turn_timeout" || *ended.ErrorMessage != "the turn did not end within 1s, so it was ended" {
			t.Errorf("turn %+v", ended)
		}
		if took := ended.EndedAt.Sub(*ended.HandedAt); took < time.Second {
			t.Errorf("it ended after %v", took)
		}
		if ended := r.wait(next); ended.Status != session.TurnCompleted || ended.ErrorName != nil {
			t.Errorf("next turn %+v", ended)
		}
		types := []string{}
		for _, e := range r.events(id) {
			if e.TurnID != nil && *e.TurnID == first.ID {
				types = append(types, e.Type)
			}
		}
		if want := []string{"turn.queued", "turn.started", "message.delta", "turn.failed"}; !slices.Equal(types, want) {
			t.Errorf("events %v", types)
		}
	})
}

func TestATurnThatEndsByItselfWhenItsTimeIsUpIsNotBlamed(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		handed := make(chan struct{})
		r.rt.onTurn = func(*box, sandboxd.Turn) { close(handed) }
		id := r.open(session.CreateParams{})
		turn := r.send(id, "hello")
		<-handed
		err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error { // as the controller does then
			late, err := tx.Turn(turn.ID)
			if err != nil {
				return err
			}
			name := session.TurnTimeout
			late.ErrorName, late.ErrorMessage = &name, &name
			return tx.SaveTurn(&late)
		})
		if err != nil {
			t.Fatal(err)
		}
		if now, err := r.o.Store.GetTurn(t.Context(), id, turn.ID); err != nil || now.Status != session.Handed {
			t.Fatalf("turn %+v, %v", now, err)
		} else if info, _, err := session.Reply(now); err != nil || info.Error != nil {
			t.Errorf("a turn that runs has the error %+v, %v", info.Error, err)
		}
		r.rt.only().reply(turn.ID, "just in time")
		if ended := r.wait(turn); ended.Status != session.TurnCompleted || ended.ErrorName != nil || ended.ErrorMessage != nil {
			t.Errorf("turn %+v", ended)
		}
	})
}

func TestAMessageGoesStraightToAFreeSandbox(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id, first, proceed := r.held()
		second := r.send(id, "two")
		if second.Status != session.Queued || second.HandedAt != nil {
			t.Errorf("behind another one: %+v", second)
		}
		close(proceed)
		if ended := r.wait(first); ended.Status != session.TurnCompleted || ended.Attempt != 1 || !ended.HandedAt.Equal(first.CreatedAt) {
			t.Errorf("first turn %+v", ended)
		}
		if ended := r.wait(second); ended.Status != session.TurnCompleted || ended.HandedAt.Before(*first.HandedAt) {
			t.Errorf("second turn %+v", ended)
		}
		straight := 0
		for range 40 { // who hears of an end finds the sandbox free, unless the link looks just then
			turn := r.send(id, "again")
			if turn.Status == session.Handed {
				straight++
			}
			if ended := r.wait(turn); ended.Status != session.TurnCompleted {
				t.Fatalf("turn %+v", ended)
			}
		}
		if straight < 20 {
			t.Errorf("%d of 40 messages went straight to the sandbox", straight)
		}
	})
}

// held opens a session and sends it a message that goes straight to its sandbox; no turn ends before proceed is closed.
func (r *rig) held() (id string, first store.Turn, proceed chan struct{}) {
	r.t.Helper()
	proceed = make(chan struct{}, 100)
	r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
		<-proceed
		b.reply(turn.ID, "ok")
	}
	id = r.open(session.CreateParams{})
	r.await(id, session.Ready)
	return id, r.straight(id, func() { proceed <- struct{}{} }), proceed
}

// straight sends messages until one goes straight to the sandbox; queued is called for those that do not.
func (r *rig) straight(id string, queued func()) (turn store.Turn) {
	r.t.Helper()
	eventually(r.t, "a message goes straight to the sandbox", func() bool {
		if turn = r.send(id, "hello"); turn.Status != session.Handed {
			queued()
			r.wait(turn)
		}
		return turn.Status == session.Handed
	})
	return turn
}

func TestAnAbortThatFollowsAMessageAtOnceReachesIt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(*box, sandboxd.Turn) {} // goes on until it is aborted
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		straight := 0
		for range 50 {
			turn := r.send(id, "hello")
			if turn.Status == session.Handed {
				straight++
			}
			eventually(t, "the turn is handed over", func() bool {
				asked, err := r.service.Abort(t.Context(), id)
				return err == nil && asked == turn.ID
			})
			if ended := r.wait(turn); ended.Status != session.TurnAborted {
				t.Fatalf("turn %+v", ended)
			}
		}
		if straight == 0 {
			t.Error("no message went straight to the sandbox")
		}
	})
}

// The end of a turn may be asked for, and told of, before the link has the message that was committed.
func TestAnAbortThatOvertakesItsMessageReachesIt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
			if *turn.Parts[0].Text == "hello" {
				b.reply(turn.ID, "ok")
			}
		}
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		r.wait(r.straight(id, func() {}))
		overtaken := r.upon(id, store.OnlyProgress, func() {
			if turn, err := r.service.Abort(context.Background(), id); err != nil || turn == "" {
				t.Errorf("abort of %q: %v", turn, err)
			}
			time.Sleep(100 * time.Millisecond) // the link has heard of it
		})
		turn := r.send(id, "goes on until it is aborted")
		if turn.Status != session.Handed || !overtaken.Load() {
			t.Fatalf("turn %+v", turn)
		}
		if ended := r.wait(turn); ended.Status != session.TurnAborted || ended.EndedAt.Sub(ended.CreatedAt) > 5*time.Second {
			t.Errorf("turn %+v", ended)
		}
	})
}

// upon runs fn after the first commit of this extent, before who has committed goes on.
func (r *rig) upon(id string, extent store.Extent, fn func()) *atomic.Bool {
	var seen atomic.Bool
	r.t.Cleanup(r.o.Store.Subscribe(func(c store.Change) {
		if c.SessionID != id || c.Extent != extent || seen.Swap(true) {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			fn()
		}()
		<-done
	}))
	return &seen
}

// When a turn has ended the sandbox is free, but what waited comes first.
func TestAMessageDoesNotOvertakeOneThatWaits(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id, first, proceed := r.held()
		second := r.send(id, "second")
		var third store.Turn
		seen := r.upon(id, store.OnlyEnds, func() {
			var err error
			if third, err = r.service.Send(context.Background(), id, text("third")); err != nil {
				t.Error(err)
			}
		})
		close(proceed)
		r.wait(first)
		r.wait(second)
		eventually(t, "the third message", seen.Load)
		second, third = r.wait(second), r.wait(third)
		if third.HandedAt.Before(*second.EndedAt) {
			t.Errorf("second turn %+v, third %+v", second, third)
		}
	})
}

// A connection may end, and the next one find nothing to do, while a message that is to go through it waits for the session's row.
func TestAMessageIsNotLostWithTheConnectionItWasFor(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		r.wait(r.straight(id, func() {}))
		locked, unlock, held := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			held <- r.o.Store.Session(t.Context(), id, func(*store.SessionTx) error {
				close(locked)
				<-unlock
				return nil
			})
		}()
		<-locked
		sent := make(chan store.Turn, 1)
		go func() {
			turn, err := r.service.Send(t.Context(), id, session.Message{Parts: []sandboxd.InputPart{{Type: "text", Text: &id}}})
			if err != nil {
				t.Error(err)
			}
			sent <- turn
		}()
		time.Sleep(100 * time.Millisecond) // it has taken its way and waits
		before := r.rt.only().sever()
		eventually(t, "the sandbox is spoken to again", func() bool { return r.rt.only().followed() > before })
		time.Sleep(200 * time.Millisecond) // and it was looked for turns
		close(unlock)
		if err := <-held; err != nil {
			t.Fatal(err)
		}
		turn := <-sent
		if turn.Status != session.Handed {
			t.Fatalf("turn %+v", turn)
		}
		begun := time.Now()
		if ended := r.wait(turn); ended.Status != session.TurnCompleted || time.Since(begun) > 5*time.Second {
			t.Errorf("after %v: turn %+v", time.Since(begun), ended)
		}
	})
}
