package session_test

import (
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
