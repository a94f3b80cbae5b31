package session

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// The initial prompt of a session with a terminal is its only turn. It is queued until the first attempt is ready, whose sandbox
// types it in, and fails with that attempt.

// typed is the text of the queued turn, nil if there is none.
func (r *reconciler) typed(ctx context.Context, sessionID string) (*string, error) {
	turns, err := r.c.o.Store.RecentTurns(ctx, sessionID, 1)
	if err != nil || len(turns) == 0 || turns[0].Status != Queued {
		return nil, err
	}
	input, err := r.c.o.Store.TurnInput(ctx, sessionID, turns[0].ID)
	if err != nil {
		return nil, fmt.Errorf("read initial prompt: %w", err)
	}
	var parts []sandboxd.InputPart
	if err := json.Unmarshal(input, &parts); err != nil {
		return nil, fmt.Errorf("decode turn %s: %w", turns[0].ID, err)
	}
	for _, p := range parts {
		return p.Text, nil
	}
	return nil, nil
}

// endTyped completes the turn of a session with a terminal that has become ready.
func endTyped(tx *store.SessionTx) error {
	if !SupportsTUI(tx.Session.HarnessID) {
		return nil
	}
	open, err := tx.OpenTurns()
	if err != nil {
		return err
	}
	for i := range open {
		now := tx.Now()
		open[i].Attempt, open[i].HandedAt = tx.Session.Attempt, &now
		if err := endTurn(tx, &open[i], TurnCompleted, sandboxd.TurnResult{}, 0); err != nil {
			return err
		}
	}
	return nil
}
