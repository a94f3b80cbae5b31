package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// ingest turns records of a sandbox into what they mean for its session. Records are untrusted: what does not fit is dropped, but
// its number counts, so that it is not read again. Records that were stored before are passed over.
func ingest(tx *store.SessionTx, group []sandboxd.Record) error {
	turns := map[string]*store.Turn{}
	for _, rec := range group {
		if rec.N <= tx.Session.LogN {
			continue
		}
		if rec.N != tx.Session.LogN+1 {
			return &gone{"the event log of its sandbox has a gap"}
		}
		tx.Session.LogN = rec.N
		if err := ingestOne(tx, rec, turns); err != nil {
			return err
		}
	}
	return nil
}

func ingestOne(tx *store.SessionTx, rec sandboxd.Record, turns map[string]*store.Turn) error {
	switch rec.Type {
	case "phase", "ready", "failed", "harness.exited":
		return ingestSession(tx, rec)
	case "turn.started", "message.delta", "message.part", "tool.started", "tool.completed", "harness.event", "error",
		"turn.completed", "turn.failed", "turn.aborted":
		return ingestTurn(tx, rec, turns)
	}
	return nil
}

// ingestSession handles what a sandbox says of itself.
func ingestSession(tx *store.SessionTx, rec sandboxd.Record) error {
	var d struct {
		Phase            string `json:"phase"`
		Detail           string `json:"detail"`
		HarnessSessionID string `json:"harness_session_id"`
		Conversation     string `json:"conversation"`
		Reason           string `json:"reason"`
	}
	if json.Unmarshal(rec.Data, &d) != nil || !live(tx.Session.Status) {
		return nil
	}
	switch {
	case rec.Type == "phase" && starting(tx.Session):
		setPhase(tx, clip(d.Phase, 64), clip(d.Detail, 1000), rec.N)
	case rec.Type == "ready" && starting(tx.Session):
		now := tx.Now()
		if *tx.Session.Phase != "ready" { // else it came with a detail of its own
			setPhase(tx, "ready", "", rec.N)
		}
		tx.Session.Status, tx.Session.SandboxState, tx.Session.ReadyAt = Ready, sandboxRunning, &now
		setNativeID(tx, d.HarnessSessionID)
		appendReady(tx, d.Conversation)
		return endTyped(tx)
	case rec.Type == "ready":
		setNativeID(tx, d.HarnessSessionID) // the harness was restarted
	case rec.Type == "failed", rec.Type == "harness.exited":
		return endLost(tx, clip(d.Reason, 4000))
	}
	return nil
}

// appendReady tells that an attempt is ready, and how its conversation began, if sandboxd says so.
func appendReady(tx *store.SessionTx, conversation string) {
	data := statusData(tx.Session)
	if slices.Contains([]string{"new", "resumed", "restored", "replayed"}, conversation) {
		data["conversation"] = conversation
	}
	tx.Append(store.NewEvent{Type: "session.status", Data: data})
}

func setNativeID(tx *store.SessionTx, id string) {
	if id = clip(id, 256); id != "" {
		tx.Session.HarnessSessionID = &id
	}
}

// ingestTurn handles what happens in a turn. Only a turn that this attempt was handed, and that has not ended, is listened to.
func ingestTurn(tx *store.SessionTx, rec sandboxd.Record, turns map[string]*store.Turn) error {
	if data := bytes.TrimSpace(rec.Data); len(data) == 0 || data[0] != '{' {
		return nil
	}
	e := store.NewEvent{Type: rec.Type, Attempt: tx.Session.Attempt, N: rec.N, Data: rec.Data}
	if rec.TurnID == nil {
		if rec.Type == "harness.event" || rec.Type == "error" {
			tx.Append(e)
		}
		return nil
	}
	t, err := turnOf(tx, *rec.TurnID, turns)
	if err != nil || t == nil || t.Status != Handed || t.Attempt != tx.Session.Attempt {
		return err
	}
	now := tx.Now()
	tx.Session.LastSeenAt = &now
	if endsTurn(rec.Type) {
		return ingestEnd(tx, rec, t)
	}
	e.TurnID = &t.ID
	tx.Append(e)
	return nil
}

func turnOf(tx *store.SessionTx, id string, turns map[string]*store.Turn) (*store.Turn, error) {
	if t, ok := turns[id]; ok {
		return t, nil
	}
	t, err := tx.Turn(id)
	if errors.Is(err, store.ErrNotFound) {
		turns[id] = nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read turn: %w", err)
	}
	turns[id] = &t
	return &t, nil
}

func ingestEnd(tx *store.SessionTx, rec sandboxd.Record, t *store.Turn) error {
	status := strings.TrimPrefix(rec.Type, "turn.")
	var r sandboxd.TurnResult
	if err := json.Unmarshal(rec.Data, &r); err != nil {
		status = TurnFailed
		r = sandboxd.TurnResult{Error: &sandboxd.TurnError{Name: "bad_result", Message: "the sandbox sent a result that cannot be read"}}
	}
	if status == TurnAborted && t.ErrorName != nil && t.ErrorMessage != nil { // it took too long
		status, r.Error = TurnFailed, &sandboxd.TurnError{Name: *t.ErrorName, Message: *t.ErrorMessage}
	}
	if status != TurnCompleted && r.Error == nil {
		r.Error = &sandboxd.TurnError{Name: status, Message: "the turn was " + status}
	}
	if text := replyText(r.Parts); text != "" {
		tx.Session.Response = &text
	}
	return endTurn(tx, t, status, r, rec.N)
}

// replyText is the text of a reply: its last text part.
func replyText(parts []sandboxd.OutputPart) string {
	for i := len(parts) - 1; i >= 0; i-- {
		if parts[i].Type == "text" && parts[i].Text != nil {
			return *parts[i].Text
		}
	}
	return ""
}

// clip cuts untrusted text to n bytes of valid UTF-8.
func clip(s string, n int) string {
	return strings.ToValidUTF8(s[:min(len(s), n)], "")
}
