package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// endsTurn tells whether an event or record of this type ends its turn.
func endsTurn(typ string) bool {
	return typ == "turn.completed" || typ == "turn.failed" || typ == "turn.aborted"
}

// slot is the place of the one turn that a connection to a sandbox has in hand. Who takes it, the link or a message that comes,
// looks for a turn then, so that there is never a second one.
type slot struct {
	taken atomic.Bool // a turn is looked for or added, or was sent and its end is not stored yet
	given chan given  // buffered 1: the one that was added by who took the slot
}

// given is a turn that is handed already.
type given struct {
	turn  store.Turn
	parts []sandboxd.InputPart
}

func newSlot() *slot { return &slot{given: make(chan given, 1)} }

func (s *slot) take() bool { return s.taken.CompareAndSwap(false, true) }

// busy tells whether the sandbox has a turn in hand, or is about to.
func (l *link) busy() bool {
	own := l.slot.Load()
	return own != nil && own.taken.Load()
}

// direct is the slot of a sandbox that was taken for a message that comes. It ends with give or leave.
type direct struct {
	c    *Controller
	link *link
	slot *slot
}

// direct takes the slot of a session's sandbox, if it is free; else it returns nil.
func (c *Controller) direct(id string) *direct {
	c.mu.Lock()
	l := c.links[id]
	c.mu.Unlock()
	if l == nil {
		return nil
	}
	own := l.slot.Load()
	if own == nil || !own.take() {
		return nil
	}
	return &direct{c, l, own}
}

// serves tells whether a turn may be handed to the sandbox now.
func (d *direct) serves(s *store.Session) bool {
	return d != nil && takesTurns(s) && s.SandboxID == string(d.link.box) && s.Attempt == d.link.attempt
}

// give passes on a turn that was committed as handed.
func (d *direct) give(t store.Turn, parts []sandboxd.InputPart) {
	d.slot.given <- given{t, parts}
	if d.link.slot.Load() != d.slot { // the connection has ended, and the next one may have looked before the commit
		d.c.pokeLink(t.SessionID)
	}
}

// leave gives the slot back, and the link looks: a turn may have come while it was taken, or been committed nevertheless.
func (d *direct) leave() {
	d.slot.taken.Store(false)
	d.c.pokeLink(d.link.session)
}

// takesTurns tells whether the session's sandbox is ready for turns.
func takesTurns(s *store.Session) bool {
	return s.Status == Ready && s.SandboxState == sandboxRunning && s.Desired == wantRunning
}

// handOver gives the sandbox one turn after the other: one that is given, or else the next that is committed as handed. A turn is
// sent again only to this same attempt, which runs it once.
func (l *link) handOver(ctx context.Context, own *slot) error {
	var sent store.Turn
	var late <-chan time.Time
	waiting := true // a turn may be
	send := func(g given) error {
		taken, err := l.send(ctx, g.turn, g.parts)
		switch {
		case err != nil:
			return err
		case taken:
			sent, late = store.Turn{ID: g.turn.ID}, l.deadline(g.turn)
			if g.turn.Abort || waiting { // news that came before may have been that it shall end
				l.poke()
			}
		default:
			own.taken.Store(false)
			time.AfterFunc(200*time.Millisecond, l.poke)
		}
		return nil
	}
	signal(l.wake)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case g := <-own.given:
			if err := send(g); err != nil {
				return err
			}
		case <-l.wake:
			if l.news.Swap(false) {
				waiting = true
				if err := l.abort(ctx, own, &sent); err != nil {
					return err
				}
			}
			if !waiting {
				continue
			}
			// Most often there is none, which is seen without keeping a message from the slot: one that comes later is told of.
			var err error
			if waiting, err = l.r.c.o.Store.HasOpenTurns(ctx, l.session); err != nil {
				return err
			}
			// Taken before looking closely, so that an end that is ingested meanwhile is not overlooked.
			if !waiting || !own.take() {
				continue
			}
			next, more, err := l.nextTurn(ctx)
			if err != nil {
				return err
			}
			waiting = more
			if next == nil {
				own.taken.Store(false)
				continue
			}
			if err := send(*next); err != nil {
				return err
			}
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
func (l *link) abort(ctx context.Context, own *slot, sent *store.Turn) error {
	if !own.taken.Load() || sent.ID == "" || sent.Abort {
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

// nextTurn is the handed turn, or else the first queued one, which is handed from now on; more says that others wait behind it. Nil
// if there is none, or the session is not ready.
func (l *link) nextTurn(ctx context.Context) (next *given, more bool, err error) {
	err = l.observe(ctx, func(tx *store.SessionTx) error {
		if !takesTurns(tx.Session) {
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
		next, more = &given{turn: t}, len(open) > 1
		return nil
	})
	if err != nil || next == nil {
		return nil, false, err
	}
	input, err := l.r.c.o.Store.TurnInput(ctx, l.session, next.turn.ID)
	if err != nil {
		return nil, false, err
	}
	if err := json.Unmarshal(input, &next.parts); err != nil {
		return nil, false, fmt.Errorf("decode turn %s: %w", next.turn.ID, err)
	}
	return next, more, nil
}

// send hands a turn to sandboxd. It reports false if sandboxd cannot take it yet.
func (l *link) send(ctx context.Context, t store.Turn, parts []sandboxd.InputPart) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
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
