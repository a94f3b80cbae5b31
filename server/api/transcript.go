package api

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

func (h messages) StreamMessage(ctx context.Context, r gen.StreamMessageRequestObject) (gen.StreamMessageResponseObject, error) {
	m, err := newMessage(r.Params.IdempotencyKey, r.Body)
	if err != nil {
		return nil, err
	}
	turn, err := h.sessions.Send(ctx, r.SessionID, m)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	releaseBody(ctx) // it is stored
	return stream{timeout: h.writeTimeout, ctx: ctx, follow: func(emit func([]session.Frame) error) error {
		return h.sessions.FollowTurn(ctx, turn, emit)
	}}, nil
}

func (h messages) ListMessages(ctx context.Context, r gen.ListMessagesRequestObject) (gen.ListMessagesResponseObject, error) {
	p, err := newPage(r.Params.Limit, r.Params.Offset, nil, r.Params.Total)
	if err != nil {
		return nil, err
	}
	var after session.Place
	if c := r.Params.Cursor; c != nil {
		p.offset = 0
		if after, err = decodePlace(*c); err != nil {
			return nil, err
		}
	}
	if _, err := h.store.GetSession(ctx, r.SessionID); err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	entries, more, err := h.sessions.Transcript(ctx, r.SessionID, after, int64(p.offset), p.limit)
	if err != nil {
		return nil, err
	}
	list := gen.ListMessages200JSONResponse{
		Data: make([]gen.TranscriptMessage, len(entries)), Limit: p.limit, Offset: p.offset,
		Total: nullable.NewNullNullable[int64](), NextCursor: nullable.NewNullNullable[string](),
	}
	if r.Params.Total == nil || *r.Params.Total {
		total, err := h.sessions.CountMessages(ctx, r.SessionID)
		if err != nil {
			return nil, err
		}
		list.Total.Set(total)
	}
	for i, e := range entries {
		list.Data[i] = transcriptMessage(e)
	}
	if more {
		list.NextCursor.Set(encodePlace(entries[len(entries)-1].Place))
	}
	return list, nil
}

func transcriptMessage(e session.Entry) gen.TranscriptMessage {
	m := gen.TranscriptMessage{
		Info: gen.TranscriptInfo{
			ID: e.Info.TurnID + "-" + e.Place.Role, Role: gen.TranscriptInfoRole(e.Place.Role), TurnID: e.Info.TurnID,
			Time: session.FormatTime(e.Time), Model: nullable.NewNullNullable[string](), Tokens: gen.Tokens(e.Info.Tokens),
			Cost: e.Info.Cost, Error: orNull((*gen.TurnError)(e.Info.Error)),
		},
		Parts: make([]gen.MessagePart, len(e.Parts)),
	}
	if e.Info.Model != nil {
		m.Info.Model.Set(*e.Info.Model)
	}
	for i, p := range e.Parts {
		m.Parts[i] = partAnswer(p.OutputPart)
		m.Parts[i].MediaType, m.Parts[i].Size = p.MediaType, p.Size
	}
	return m
}

// placeCursor is the message after which a page of a transcript begins.
type placeCursor struct {
	Position int64  `json:"p"`
	Role     string `json:"r"`
}

func encodePlace(p session.Place) string {
	b, _ := json.Marshal(placeCursor(p)) // cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodePlace(s string) (session.Place, error) {
	var c placeCursor
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || json.Unmarshal(b, &c) != nil || encodePlace(session.Place(c)) != s ||
		c.Position < 1 || c.Role != session.RoleUser && c.Role != session.RoleAssistant {
		return session.Place{}, invalid([]gen.ErrorDetail{{Field: "query/cursor", Message: "was not made by this server"}})
	}
	return session.Place(c), nil
}
