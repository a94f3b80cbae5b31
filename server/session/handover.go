package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// endsTurn tells whether an event or record of this type ends its turn.
func endsTurn(typ string) bool {
	return typ == "turn.completed" || typ == "turn.failed" || typ == "turn.aborted"
}

// handOver gives the sandbox one turn after the other: it commits that the turn is handed, then sends it. A turn is sent again
// only to this same attempt, which runs it once.
func (l *link) handOver(ctx context.Context) error {
	var sent store.Turn
	var late <-chan time.Time
	for {
		if err := l.abort(ctx, &sent); err != nil {
			return err
		}
		// Set before looking, so that an end that is ingested meanwhile is not overlooked.
		if l.busy.CompareAndSwap(false, true) {
			t, err := l.nextTurn(ctx)
			if err != nil {
				return err
			}
			taken := false
			if t != nil {
				if taken, err = l.send(ctx, *t); err != nil {
					return err
				}
				if taken {
					sent, late = store.Turn{ID: t.ID}, l.deadline(*t)
					l.poke() // its end may have been asked for already
				} else {
					time.AfterFunc(200*time.Millisecond, l.poke)
				}
			}
			if !taken {
				l.busy.Store(false)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.wake:
		case <-late:
			if err := l.expire(ctx, sent.ID); err != nil {
				return err
			}
		}
	}
}

// deadline fires when the turn has taken too long.
func (l *link) deadline(t store.Turn) <-chan time.Time {
	if t.HandedAt == nil {
		return nil
	}
	return time.After(time.Until(t.HandedAt.Add(l.r.c.o.turnTimeout())))
}

// DefaultTurnTimeout bounds a turn that nothing else ends: a harness whose tool or model goes round in circles. It is longer than
// any turn that makes progress, for its end is a failure.
const DefaultTurnTimeout = 6 * time.Hour

func (o Options) turnTimeout() time.Duration {
	if o.TurnTimeout > 0 {
		return o.TurnTimeout
	}
	return DefaultTurnTimeout
}

// expire asks for the end of a turn that has taken too long. What it may still say by itself comes first.
func (l *link) expire(ctx context.Context, turnID string) error {
	return l.observe(ctx, func(tx *store.SessionTx) error {
		t, err := tx.Turn(turnID)
		if err != nil || t.Status != Handed || t.Attempt != l.attempt || t.Abort {
			return err
		}
		name := TurnTimeout
		message := fmt.Sprintf("the turn did not end within %s, so it was ended", l.r.c.o.turnTimeout())
		t.Abort, t.ErrorName, t.ErrorMessage = true, &name, &message
		return tx.SaveTurn(&t)
	})
}

// abort passes on that the end of the turn that was sent is asked for, once.
func (l *link) abort(ctx context.Context, sent *store.Turn) error {
	if !l.busy.Load() || sent.ID == "" || sent.Abort {
		return nil
	}
	asked, err := l.r.c.o.Store.AbortAsked(ctx, l.session, sent.ID)
	if err != nil || !asked {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := l.api.AbortTurnWithResponse(ctx, sent.ID)
	if err != nil {
		return fmt.Errorf("abort turn: %w", err)
	}
	if res.StatusCode() != http.StatusAccepted {
		return fmt.Errorf("abort turn: %s", refusal(res.StatusCode(), res.Body))
	}
	sent.Abort = true
	return nil
}

// nextTurn is the handed turn, or else the first queued one, which is handed from now on. Nil if there is none, or the session
// is not ready.
func (l *link) nextTurn(ctx context.Context) (*store.Turn, error) {
	// Most often there is none, which needs no lock to be seen: one that comes later is told of.
	if has, err := l.r.c.o.Store.HasOpenTurns(ctx, l.session); err != nil || !has {
		return nil, err
	}
	var next *store.Turn
	err := l.observe(ctx, func(tx *store.SessionTx) error {
		if tx.Session.Status != Ready || tx.Session.SandboxState != sandboxRunning {
			return nil
		}
		open, err := tx.OpenTurns()
		if err != nil || len(open) == 0 {
			return err
		}
		t := open[0]
		if t.Status == Queued {
			now := tx.Now()
			t.Status, t.Attempt, t.HandedAt = Handed, l.attempt, &now
			tx.Session.LastSeenAt = &now
			if err := tx.SaveTurn(&t); err != nil {
				return err
			}
		}
		next = &t
		return nil
	})
	return next, err
}

// send hands a turn to sandboxd. It reports false if sandboxd cannot take it yet.
func (l *link) send(ctx context.Context, t store.Turn) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	input, err := l.r.c.o.Store.TurnInput(ctx, l.session, t.ID)
	if err != nil {
		return false, err
	}
	var parts []sandboxd.InputPart
	if err := json.Unmarshal(input, &parts); err != nil {
		return false, fmt.Errorf("decode turn %s: %w", t.ID, err)
	}
	res, err := l.api.StartTurnWithResponse(ctx, sandboxd.Turn{ID: t.ID, Model: l.model, Parts: parts})
	if err != nil {
		return false, fmt.Errorf("hand over turn: %w", err)
	}
	switch res.StatusCode() {
	case http.StatusAccepted:
		return true, nil
	case http.StatusConflict:
		return false, nil
	}
	return false, fmt.Errorf("hand over turn: %s", refusal(res.StatusCode(), res.Body))
}
