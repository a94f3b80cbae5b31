package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

// Where a workspace goes with its sandbox, the state of the harness is fetched from it: when the session is quiet and it may have
// changed, and before the sandbox is deleted. The next attempt gets it back before its harness starts. What was said after it the
// harness is told.

const (
	maxCheckpoint   = 32 << 20         // bytes
	checkpointQuiet = time.Second      // after the end of a turn
	checkpointEvery = 15 * time.Second // between two looks at the harness of a terminal, and before another try
	salvageWithin   = 8 * time.Second  // for the last state of a sandbox that is to be deleted
	fetchesAtOnce   = 4                // each may hold some times maxCheckpoint in memory
	checkpointPath  = "/v1/checkpoint"
)

// keepCheckpoint fetches the state of the harness until ctx ends. What keeps it from that is no reason to end the link.
func (l *link) keepCheckpoint(ctx context.Context, sess store.Session) error {
	have, due := l.r.c.o.markOf(ctx, l.session, l.attempt), true
	timer := time.NewTimer(checkpointQuiet)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.settled:
			due = true
			timer.Reset(checkpointQuiet)
			continue
		case <-timer.C:
		}
		next := checkpointEvery
		switch {
		case l.busy():
			next = checkpointQuiet
		case due || SupportsTUI(sess.HarnessID):
			begun := time.Now()
			mark, err := l.r.fetch(ctx, l.api, l.session, l.attempt, have)
			if err == nil {
				have, due = mark, false
			} else if ctx.Err() == nil {
				l.r.c.o.Logger.Debug("no checkpoint", "session_id", l.session, "attempt", l.attempt, "err", err)
			}
			next = max(next, 10*time.Since(begun)) // a large one costs its share and no more
		}
		timer.Reset(next)
	}
}

// markOf is what the state that is stored of an attempt is called; empty if there is none.
func (o *Options) markOf(ctx context.Context, id string, attempt int32) string {
	c, err := o.Store.GetCheckpoint(ctx, id)
	if err != nil || c.Attempt != attempt { // one more is fetched
		return ""
	}
	return c.Mark
}

// fetch fetches the state of a harness and stores it, unless it is the one that is called have. It returns what it is called.
func (r *reconciler) fetch(
	ctx context.Context, api *sandboxd.ClientWithResponses, id string, attempt int32, have string,
) (mark string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case r.c.fetches <- struct{}{}:
		defer func() { <-r.c.fetches }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	res, err := api.GetCheckpointWithResponse(ctx, &sandboxd.GetCheckpointParams{Have: &have})
	switch {
	case err != nil:
		return "", fmt.Errorf("fetch checkpoint: %w", err)
	case res.StatusCode() == http.StatusNoContent:
		return have, nil
	case res.StatusCode() != http.StatusOK:
		return "", fmt.Errorf("fetch checkpoint: %s", refusal(res.StatusCode(), res.Body))
	}
	h := res.Headers200
	if len(res.Body) > maxCheckpoint || h.CheckpointNumber < 1 || len(h.CheckpointMark) > 256 || sumOf(res.Body) != h.CheckpointSha256 {
		return "", errors.New("fetch checkpoint: it is not what its sandbox says")
	}
	last := ""
	if h.CheckpointTurn != nil {
		last = *h.CheckpointTurn
	}
	c := store.Checkpoint{SessionID: id, Attempt: attempt, Number: h.CheckpointNumber, Mark: h.CheckpointMark, Conversation: clip(h.CheckpointConversation, 256)}
	stored, err := r.c.o.Store.PutCheckpoint(ctx, r.lease, c, last, res.Body)
	if err != nil {
		return "", err
	}
	r.c.o.Logger.Debug("checkpoint", "session_id", id, "attempt", attempt, "number", c.Number, "bytes", len(res.Body), "last_turn", last, "stored", stored)
	return h.CheckpointMark, nil
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// salvage fetches the last state of a sandbox that is about to be deleted, if its session will have another one and nothing else is
// left to go on from. What does not come in time is lost.
func (r *reconciler) salvage(ctx context.Context, s store.Session, box sandbox.ID) {
	o := &r.c.o
	if box == "" || o.keepsWorkspaces() || s.Desired == wantDeleted || s.ExpiredAt != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, salvageWithin)
	defer cancel()
	if st, err := o.Runtime.Get(ctx, box); err != nil || st.State != sandbox.Running {
		return
	}
	err := func() error {
		_, key, err := callerKey(o.Keyring, s.KeyID)
		if err != nil {
			return err
		}
		client, api := r.c.speak(box, key)
		defer client.CloseIdleConnections()
		health, err := api.GetHealthWithResponse(ctx)
		if err != nil {
			return err
		}
		h := health.JSON200
		if h != nil && h.State == "unbound" {
			return nil // it has never had any
		}
		if h == nil || h.SandboxID != string(box) || h.SessionID == nil || *h.SessionID != s.ID || h.Attempt < 1 || h.Attempt > s.Attempt {
			return fmt.Errorf("the sandbox serves no attempt of the session: %s", refusal(health.StatusCode(), health.Body))
		}
		_, err = r.fetch(ctx, api, s.ID, h.Attempt, o.markOf(ctx, s.ID, h.Attempt))
		return err
	}()
	if err != nil {
		o.Logger.Info("the last state of a sandbox was not fetched", "session_id", s.ID, "sandbox_id", box, "err", err)
	}
}

// giveBack brings the harness's state to a sandbox that is not bound yet, and says in its binding what to do with it.
func (l *link) giveBack(ctx context.Context, s store.Session, cfg *sandboxd.SessionConfig) error {
	o := &l.r.c.o
	if o.keepsWorkspaces() || s.Attempt == 1 {
		return nil
	}
	native := cfg.HarnessSessionID
	cfg.HarnessSessionID = nil // of itself the workspace has nothing
	tui := SupportsTUI(s.HarnessID)
	if !tui && cfg.Transcript == nil {
		return nil
	}
	c, state, err := o.Store.CheckpointState(ctx, s.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case errors.Is(err, store.ErrSealed):
		return l.observe(ctx, func(tx *store.SessionTx) error {
			data := map[string]string{"kind": "checkpoint", "status": "unreadable", "message": "the checkpoint cannot be opened: its key is gone, or it is damaged"}
			tx.Append(store.NewEvent{Type: "harness.event", Data: data})
			return nil
		})
	case err != nil:
		return err
	case !tui && (native == nil || *native != c.Conversation):
		return nil // the conversation began anew since
	}
	taken, err := l.bring(ctx, state)
	if err != nil || !taken {
		return err
	}
	sum := sumOf(state)
	cfg.HarnessSessionID, cfg.Checkpoint = &c.Conversation, &sum
	if tui {
		return nil
	}
	missed, err := replay(ctx, o.Store, s.ID, c.Covers)
	if missed != "" {
		cfg.Missed = &missed
	}
	return err
}

// bring reports false if the sandbox has no use for a checkpoint.
func (l *link) bring(ctx context.Context, state []byte) (taken bool, err error) {
	res, err := l.api.PutCheckpointWithBodyWithResponse(ctx, "application/zstd", bytes.NewReader(state))
	if err != nil {
		return false, fmt.Errorf("bring checkpoint: %w", err)
	}
	switch res.StatusCode() {
	case http.StatusNoContent:
		return true, nil
	case http.StatusNotFound, http.StatusRequestEntityTooLarge: // of another version
		return false, nil
	}
	return false, fmt.Errorf("bring checkpoint: %s", refusal(res.StatusCode(), res.Body))
}

// keepsWorkspaces tells whether an attempt finds the workspace of the one before.
func (o *Options) keepsWorkspaces() bool { return o.Runtime == nil || o.Runtime.KeepsWorkspaces() }

// dropKept removes what is kept of a session between its sandboxes.
func (r *reconciler) dropKept(ctx context.Context, id string) error {
	if err := r.c.o.Runtime.DeleteWorkspace(ctx, id); err != nil {
		return fmt.Errorf("delete workspace: %w", err)
	}
	return r.c.o.Store.DeleteCheckpoint(ctx, r.lease, id)
}
