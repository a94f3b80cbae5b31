package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

type messages struct {
	store    *store.Store
	sessions *session.Service
}

func (h messages) SendMessage(ctx context.Context, r gen.SendMessageRequestObject) (gen.SendMessageResponseObject, error) {
	m, err := newMessage(r)
	if err != nil {
		return nil, err
	}
	turn, err := h.sessions.Send(ctx, r.SessionID, m)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	if wantsAsync(r.Params.Prefer) {
		return accepted(turn)
	}
	if turn, err = h.sessions.Wait(ctx, r.SessionID, turn.ID); err != nil {
		return nil, err
	}
	return ended(turn)
}

// wantsAsync reads the Prefer header, a list of preferences with optional parameters.
func wantsAsync(prefer *string) bool {
	if prefer == nil {
		return false
	}
	for p := range strings.SplitSeq(*prefer, ",") {
		name, _, _ := strings.Cut(p, ";")
		if strings.EqualFold(strings.TrimSpace(name), "respond-async") {
			return true
		}
	}
	return false
}

func accepted(turn store.Turn) (gen.SendMessageResponseObject, error) {
	answer, err := turnAnswer(turn)
	if err != nil {
		return nil, err
	}
	location := turnPath(turn)
	return gen.SendMessage202JSONResponse{Body: answer, Headers: gen.SendMessage202ResponseHeaders{Location: &location}}, nil
}

// ended answers with a turn that has ended: with its reply if the harness ended it, and else with why it never will.
func ended(turn store.Turn) (gen.SendMessageResponseObject, error) {
	if name := turn.ErrorName; name != nil && (*name == session.TurnInterrupted || *name == session.TurnNotReady) {
		p := &problem{status: http.StatusBadGateway, code: *name, text: "the turn has failed", location: turnPath(turn)}
		if turn.ErrorMessage != nil {
			p.text = *turn.ErrorMessage
		}
		return nil, p
	}
	answer, err := turnAnswer(turn)
	if err != nil {
		return nil, err
	}
	return gen.SendMessage200JSONResponse{Info: answer.Info, Parts: answer.Parts}, nil
}

func (h messages) GetTurn(ctx context.Context, r gen.GetTurnRequestObject) (gen.GetTurnResponseObject, error) {
	turn, err := h.store.GetTurn(ctx, r.SessionID, r.TurnID)
	if err != nil {
		return nil, orNotFound(err, turnNotFound(r.TurnID))
	}
	answer, err := turnAnswer(turn)
	if err != nil {
		return nil, err
	}
	return gen.GetTurn200JSONResponse(answer), nil
}

func (h messages) AbortTurn(ctx context.Context, r gen.AbortTurnRequestObject) (gen.AbortTurnResponseObject, error) {
	aborted, err := h.sessions.Abort(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	return gen.AbortTurn200JSONResponse{Aborted: aborted}, nil
}

func turnPath(t store.Turn) string {
	return "/api/v1/managed_agents/sessions/" + t.SessionID + "/turns/" + t.ID
}

// newMessage is what a request says, with one form for requests that say the same.
func newMessage(r gen.SendMessageRequestObject) (session.Message, error) {
	var m session.Message
	if key := r.Params.IdempotencyKey; key != nil {
		m.Key = *key
	}
	if text := given(r.Body.Text); text != nil {
		m.Parts = []sandboxd.InputPart{{Type: "text", Text: text}}
	}
	for _, part := range orZero(r.Body.Parts) {
		p, err := inputPart(part)
		if err != nil {
			return m, err
		}
		m.Parts = append(m.Parts, p)
	}
	if m.Key == "" {
		return m, nil
	}
	var err error
	if m.Body, err = json.Marshal(m.Parts); err != nil {
		return m, fmt.Errorf("encode message: %w", err)
	}
	return m, nil
}

// inputPart decodes a part that was validated. It reads all variants at once, for images are large and the generated union
// would scan them once to find the variant and twice to decode it.
func inputPart(part gen.MessagePartCreate) (sandboxd.InputPart, error) {
	raw, err := part.MarshalJSON()
	if err != nil {
		return sandboxd.InputPart{}, fmt.Errorf("decode part: %w", err)
	}
	var p struct {
		Type   string          `json:"type"`
		Text   *string         `json:"text"`
		Source gen.ImageSource `json:"source"`
	}
	if err := jsonv2.Unmarshal(raw, &p); err != nil {
		return sandboxd.InputPart{}, fmt.Errorf("decode part: %w", err)
	}
	in := sandboxd.InputPart{Type: p.Type, Text: p.Text}
	if p.Type == string(gen.ImagePartCreateTypeImage) {
		media := string(p.Source.MediaType)
		in.MediaType, in.Data = &media, p.Source.Data
	}
	return in, nil
}

func turnAnswer(t store.Turn) (gen.Turn, error) {
	info, parts, err := session.Reply(t)
	if err != nil {
		return gen.Turn{}, err
	}
	answer := gen.Turn{
		ID: t.ID, SessionID: t.SessionID, Status: t.Status, Parts: make([]gen.MessagePart, len(parts)),
		Info: gen.TurnInfo{
			TurnID: info.TurnID, Model: orNull(info.Model), Tokens: gen.Tokens(info.Tokens), Cost: info.Cost,
			DurationMs: info.DurationMs, Error: orNull((*gen.TurnError)(info.Error)),
		},
	}
	for i, p := range parts {
		answer.Parts[i] = gen.MessagePart{
			ID: p.ID, Type: p.Type, Text: p.Text, Tool: p.Tool, CallID: p.CallID, Status: p.Status, Output: p.Output,
		}
		if p.Input != nil {
			// What a sandbox sent may be anything; only an object is an input.
			_ = json.Unmarshal(*p.Input, &answer.Parts[i].Input)
		}
	}
	return answer, nil
}
