package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// Message is what a user sends.
type Message struct {
	Parts []sandboxd.InputPart
	Key   string // Idempotency-Key; empty: none
	Body  []byte // the request's body, to tell a repeat from another request with the same key
}

// Send stores a turn, and wakes a suspended session. It is queued, or handed over at once if nothing is before it and this process
// speaks to the sandbox. With a key that the session knows it returns that turn instead.
// Errors: store.ErrNotFound, ErrEnded, ErrTUI, ErrQueueFull, store.ErrKeyReused, ErrNoGateway, ErrCapacity.
func (s *Service) Send(ctx context.Context, sessionID string, m Message) (store.Turn, error) {
	var turn store.Turn
	way, added, handed := s.direct(sessionID), false, false
	defer func() {
		if way != nil && !handed {
			way.leave()
		}
	}()
	err := s.o.Store.Session(ctx, sessionID, func(tx *store.SessionTx) error {
		var digest []byte
		if m.Key != "" {
			known, err := tx.TurnByKey(m.Key)
			if err == nil {
				if !s.o.Keyring.SameDigest(known.BodyDigest, messageDigest, m.Body) {
					return store.ErrKeyReused
				}
				turn = known
				return nil
			}
			if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			digest = s.o.Keyring.Digest(messageDigest, m.Body)
		}
		if SupportsTUI(tx.Session.HarnessID) {
			return ErrTUI
		}
		if !live(tx.Session.Status) {
			return ErrEnded
		}
		suspended := tx.Session.Desired == wantSuspended
		if suspended && s.o.Gateway.BaseURL == "" {
			return ErrNoGateway
		}
		var err error
		if turn, err = addTurn(tx, m, digest, way); err == nil && suspended {
			s.o.wake(tx)
			err = s.o.admit(tx, false)
		}
		added = err == nil
		return err
	})
	if handed = err == nil && added && turn.Status == Handed; handed {
		way.give(turn, m.Parts)
	}
	return turn, err
}

// direct takes the slot of a session's sandbox for a message, nil if that cannot be.
func (s *Service) direct(id string) *direct {
	if c := s.controller.Load(); c != nil {
		return c.direct(id)
	}
	return nil
}

// Ask is Send and Wait. stored is called in between.
func (s *Service) Ask(ctx context.Context, sessionID string, m Message, stored func()) (store.Turn, error) {
	changed, cancel := s.hub.watch(sessionID)
	defer cancel()
	t, err := s.Send(ctx, sessionID, m)
	if err != nil {
		return t, err
	}
	stored()
	return s.ended(ctx, t, changed)
}

// messageDigest labels what is kept of a message's body, to recognise a repeat.
const messageDigest = "message"

// addTurn stores a turn: handed, if way leads to the session's sandbox and nothing is before it, else queued.
func addTurn(tx *store.SessionTx, m Message, digest []byte, way *direct) (store.Turn, error) {
	queued, handed, err := tx.CountOpenTurns()
	if err != nil {
		return store.Turn{}, err
	}
	if queued >= MaxQueued {
		return store.Turn{}, ErrQueueFull
	}
	input, err := json.Marshal(m.Parts)
	if err != nil {
		return store.Turn{}, fmt.Errorf("encode message: %w", err)
	}
	now := tx.Now()
	t := store.Turn{ID: uuid.Must(uuid.NewV7()).String(), SessionID: tx.Session.ID, Status: Queued, Input: input, CreatedAt: now}
	if queued+handed == 0 && way.serves(tx.Session) {
		t.Status, t.Attempt, t.HandedAt = Handed, tx.Session.Attempt, &now
	}
	if m.Key != "" {
		t.IdemKey, t.BodyDigest = &m.Key, digest
	}
	if err := tx.AddTurn(&t); err != nil {
		return store.Turn{}, err
	}
	tx.Session.TurnCount++
	tx.Session.LastSeenAt = &now
	if tx.Session.TitlePreview == nil {
		tx.Session.TitlePreview = preview(m.Parts)
	}
	tx.Append(store.NewEvent{Type: "turn.queued", TurnID: &t.ID, Data: map[string]any{"parts": eventParts(m.Parts)}})
	return t, nil
}

// eventParts is a message as its event shows it: images by size only.
func eventParts(parts []sandboxd.InputPart) []map[string]any {
	out := make([]map[string]any, len(parts))
	for i, p := range parts {
		out[i] = map[string]any{"type": p.Type}
		if p.Text != nil {
			out[i]["text"] = *p.Text
		}
		if p.MediaType != nil {
			out[i]["media_type"], out[i]["size"] = *p.MediaType, len(p.Data)
		}
	}
	return out
}

// Wait returns the turn when it has ended. Errors: store.ErrNotFound, ErrClosing, and ctx's when it ends first.
func (s *Service) Wait(ctx context.Context, sessionID, turnID string) (store.Turn, error) {
	changed, cancel := s.hub.watch(sessionID)
	defer cancel()
	t, err := s.o.Store.GetTurn(ctx, sessionID, turnID)
	if errors.Is(err, store.ErrUnavailable) {
		t, err = store.Turn{SessionID: sessionID, ID: turnID}, nil
	}
	if err != nil {
		return t, err
	}
	return s.ended(ctx, t, changed)
}

// ended waits for the end of a turn that was read when changed was watched already.
func (s *Service) ended(ctx context.Context, t store.Turn, changed <-chan struct{}) (store.Turn, error) {
	// The tick is a net under notifications lost while the database was away.
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for t.EndedAt == nil {
		select {
		case <-ctx.Done():
			return t, ctx.Err()
		case <-s.closing:
			return t, ErrClosing
		case <-changed:
		case <-tick.C:
		}
		now, err := s.o.Store.GetTurn(ctx, t.SessionID, t.ID)
		if err == nil {
			t = now
		} else if !errors.Is(err, store.ErrUnavailable) {
			return t, err
		}
	}
	return t, nil
}

// abortWait bounds how long Aborted waits for the turn to end.
const abortWait = 30 * time.Second

// Abort asks for the end of the turn of a session that runs now and returns its id, empty if none runs. Queued turns stay.
// store.ErrNotFound if the session never existed.
func (s *Service) Abort(ctx context.Context, sessionID string) (turnID string, err error) {
	err = s.o.Store.Session(ctx, sessionID, func(tx *store.SessionTx) error {
		open, err := tx.OpenTurns()
		if err != nil || len(open) == 0 || open[0].Status != Handed {
			return err
		}
		turnID, open[0].Abort = open[0].ID, true
		return tx.SaveTurn(&open[0])
	})
	return turnID, err
}

// Aborted waits for the end of a turn that Abort returned and reports whether it was aborted; false as well if it goes on, or
// there is none.
func (s *Service) Aborted(ctx context.Context, sessionID, turnID string) (bool, error) {
	if turnID == "" {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, abortWait)
	defer cancel()
	t, err := s.Wait(ctx, sessionID, turnID)
	if errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	return t.Status == TurnAborted, err
}

// Info is what a turn's end says about it, in the words of the public API.
type Info struct {
	TurnID     string              `json:"turn_id"`
	Model      *string             `json:"model"`
	Tokens     sandboxd.Tokens     `json:"tokens"`
	Cost       float64             `json:"cost"`
	DurationMs int64               `json:"duration_ms"`
	Error      *sandboxd.TurnError `json:"error"`
}

// Reply is a turn's info and the parts of its reply; empty parts until it has ended.
func Reply(t store.Turn) (Info, []sandboxd.OutputPart, error) {
	info := Info{TurnID: t.ID, Model: t.Model}
	if t.HandedAt != nil && t.EndedAt != nil {
		info.DurationMs = t.EndedAt.Sub(*t.HandedAt).Milliseconds()
	}
	if t.EndedAt != nil && t.ErrorName != nil && t.ErrorMessage != nil {
		info.Error = &sandboxd.TurnError{Name: *t.ErrorName, Message: *t.ErrorMessage}
	}
	if len(t.Result) == 0 {
		return info, nil, nil
	}
	var r sandboxd.TurnResult
	if err := json.Unmarshal(t.Result, &r); err != nil {
		return info, nil, fmt.Errorf("decode result of turn %s: %w", t.ID, err)
	}
	info.Tokens, info.Cost = r.Tokens, r.Cost
	return info, r.Parts, nil
}

// failTurns ends every open turn of a session that has ended.
func failTurns(tx *store.SessionTx, reason string) error {
	return failOpen(tx, "session has ended: "+reason, true)
}

// interruptTurns ends the turn that runs; queued ones stay.
func interruptTurns(tx *store.SessionTx, reason string) error { return failOpen(tx, reason, false) }

func failOpen(tx *store.SessionTx, reason string, queued bool) error {
	open, err := tx.OpenTurns()
	if err != nil {
		return err
	}
	for i := range open {
		name := TurnInterrupted
		if open[i].Status == Queued {
			if !queued {
				continue
			}
			name = TurnNotReady
		}
		if err := endTurn(tx, &open[i], TurnFailed, sandboxd.TurnResult{Error: &sandboxd.TurnError{Name: name, Message: reason}}, 0); err != nil {
			return err
		}
	}
	return nil
}

// endTurn writes the end of a turn and its event; n is the record that said so, 0 if none did.
func endTurn(tx *store.SessionTx, t *store.Turn, status string, r sandboxd.TurnResult, n int64) error {
	if r.Parts == nil {
		r.Parts = []sandboxd.OutputPart{}
	}
	result, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode result of turn %s: %w", t.ID, err)
	}
	now := tx.Now()
	t.Status, t.Result, t.EndedAt = status, result, &now
	if r.Model != nil {
		t.Model = r.Model
	}
	t.ErrorName, t.ErrorMessage = nil, nil
	if r.Error != nil {
		t.ErrorName, t.ErrorMessage = &r.Error.Name, &r.Error.Message
	}
	if err := tx.SaveTurn(t); err != nil {
		return err
	}
	info, _, err := Reply(*t)
	if err != nil {
		return err
	}
	if t.HandedAt != nil {
		tx.Compact(*t)
	}
	tx.Append(store.NewEvent{Type: "turn." + status, TurnID: &t.ID, Attempt: tx.Session.Attempt, N: n, Data: map[string]any{"info": info}})
	return nil
}
