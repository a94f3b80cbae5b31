package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

type messages struct {
	store        *store.Store
	sessions     *session.Service
	writeTimeout time.Duration // of one write to a reader of a stream
}

func (h messages) SendMessage(ctx context.Context, r gen.SendMessageRequestObject) (gen.SendMessageResponseObject, error) {
	m, err := newMessage(r.Params.IdempotencyKey, r.Body)
	if err != nil {
		return nil, err
	}
	if wantsAsync(r.Params.Prefer) {
		turn, err := h.sessions.Send(ctx, r.SessionID, m)
		if err != nil {
			return nil, orNotFound(err, sessionNotFound(r.SessionID))
		}
		return accepted(turn)
	}
	turn, err := h.sessions.Ask(ctx, r.SessionID, m, func() { releaseBody(ctx) })
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
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
	turn, replayed, err := h.askAbort(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	aborted, err := h.sessions.Aborted(ctx, r.SessionID, turn)
	if err != nil {
		return nil, err
	}
	answer := gen.AbortTurn200JSONResponse{Body: gen.Aborted{Aborted: aborted}}
	if replayed {
		yes := "true"
		answer.Headers.IdempotencyReplayed = &yes
	}
	return answer, nil
}

// askAbort asks for the end of the turn that runs, with a key once. What is stored then is not the answer, which is known only
// when the turn has ended, but the turn: a repeat waits for the same one and never ends a later one. Of the answer that there is
// no session the id of its request is stored.
func (h messages) askAbort(ctx context.Context, sessionID string) (turn string, replayed bool, err error) {
	request, ok := pendingOnce(ctx)
	if !ok {
		turn, err = h.sessions.Abort(ctx, sessionID)
		return turn, false, err
	}
	asked, replayed, err := h.store.Once(ctx, request, func(ctx context.Context) (store.Answer, error) {
		turn, err := h.sessions.Abort(ctx, sessionID)
		if errors.Is(err, store.ErrNotFound) {
			return store.Answer{Status: http.StatusNotFound, Body: []byte(requestID(ctx))}, nil
		}
		return store.Answer{Status: http.StatusOK, Body: []byte(turn)}, err
	})
	if err == nil && asked.Status == http.StatusNotFound {
		p := toProblem(sessionNotFound(sessionID))
		if replayed {
			p.replayOf = string(asked.Body)
		}
		err = p
	}
	return string(asked.Body), replayed, err
}

func turnPath(t store.Turn) string {
	return "/api/v1/managed_agents/sessions/" + t.SessionID + "/turns/" + t.ID
}

// newMessage is what a request says, with one form for requests that say the same.
func newMessage(key *string, body *gen.MessageCreate) (session.Message, error) {
	var m session.Message
	if key != nil {
		m.Key = *key
	}
	if text := given(body.Text); text != nil {
		m.Parts = []sandboxd.InputPart{{Type: "text", Text: text}}
	}
	for _, part := range orZero(body.Parts) {
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
		answer.Parts[i] = partAnswer(p)
	}
	return answer, nil
}

func partAnswer(p sandboxd.OutputPart) gen.MessagePart {
	answer := gen.MessagePart{
		ID: p.ID, Type: p.Type, Text: p.Text, Tool: p.Tool, CallID: p.CallID, Status: p.Status, Output: p.Output,
	}
	if p.Input != nil {
		// What a sandbox sent may be anything; only an object is an input.
		_ = json.Unmarshal(*p.Input, &answer.Input)
	}
	return answer
}
