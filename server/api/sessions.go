package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

type sessions struct {
	store        *store.Store
	sessions     *session.Service
	writeTimeout time.Duration // of one write to a reader of a log
}

func (h sessions) CreateSession(ctx context.Context, r gen.CreateSessionRequestObject) (gen.CreateSessionResponseObject, error) {
	p := session.CreateParams{AgentID: r.AgentID}
	if b := r.Body; b != nil {
		var err error
		if p.Skills, err = h.currentSkills(ctx, orZero(b.SkillIds)); err != nil {
			return nil, err
		}
		p.Title, p.InitialPrompt, p.EnvVars = given(b.Title), given(b.InitialPrompt), orZero(b.EnvVars)
	}
	s, err := h.sessions.Create(ctx, p)
	if errors.Is(err, session.ErrPrompt) {
		return nil, invalid([]gen.ErrorDetail{{Field: "/skill_ids", Message: session.ErrPrompt.Error()}})
	}
	if err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	return gen.CreateSession200JSONResponse{Body: sessionAnswer(s)}, nil
}

// currentSkills are the current versions of skills of the library, each once.
func (h sessions) currentSkills(ctx context.Context, ids []string) ([]store.SkillRef, error) {
	known, err := h.store.SkillsByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	var refs []store.SkillRef
	for _, id := range ids {
		sk := known[id]
		if !sk.Library {
			return nil, skillNotFound(id)
		}
		if ref := (store.SkillRef{ID: id, Version: sk.Version}); !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

func (h sessions) GetSession(ctx context.Context, r gen.GetSessionRequestObject) (gen.GetSessionResponseObject, error) {
	s, err := h.store.GetSession(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	answer := sessionAnswer(s)
	if answer.SupportsTui && s.Status == session.Ready {
		answer.TtyURL.Set("/api/v1/managed_agents/sessions/" + s.ID + "/tty")
		answer.TtyToken.Set(h.sessions.TerminalToken(s.ID, time.Now()))
	}
	return gen.GetSession200JSONResponse(answer), nil
}

func (h sessions) ListSessions(ctx context.Context, r gen.ListSessionsRequestObject) (gen.ListSessionsResponseObject, error) {
	p, err := newPage(r.Params.Limit, r.Params.Offset, r.Params.Cursor, r.Params.Total)
	if err != nil {
		return nil, err
	}
	var filter store.SessionFilter
	if id := r.Params.AgentID; id != nil {
		filter.AgentID = *id
	}
	if status := r.Params.Status; status != nil {
		filter.Status = string(*status)
	}
	rows, err := h.store.ListSessions(ctx, filter, p.request)
	if err != nil {
		return nil, err
	}
	list := gen.ListSessions200JSONResponse{
		Data: make([]gen.Session, len(rows.Rows)), Limit: p.limit, Offset: p.offset,
		Total: orNull(rows.Total), NextCursor: encodeCursor(rows.Next),
	}
	for i := range rows.Rows {
		list.Data[i] = sessionAnswer(rows.Rows[i])
	}
	return list, nil
}

func (h sessions) DeleteSession(ctx context.Context, r gen.DeleteSessionRequestObject) (gen.DeleteSessionResponseObject, error) {
	if err := h.sessions.Delete(ctx, r.SessionID); err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	return gen.DeleteSession204Response{}, nil
}

func (h sessions) StopSession(ctx context.Context, r gen.StopSessionRequestObject) (gen.StopSessionResponseObject, error) {
	s, err := h.sessions.Stop(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	return gen.StopSession200JSONResponse{Body: sessionAnswer(s)}, nil
}

func (h sessions) RestartSession(ctx context.Context, r gen.RestartSessionRequestObject) (gen.RestartSessionResponseObject, error) {
	s, err := h.sessions.Restart(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	return gen.RestartSession200JSONResponse{Body: sessionAnswer(s)}, nil
}

// sessionAnswer is the public form of a session, without what only the answer of getSession says of its terminal.
func sessionAnswer(s store.Session) gen.Session {
	null := nullable.NewNullNullable[string]()
	return gen.Session{
		ID: s.ID, AgentID: s.AgentID, AgentVersion: s.AgentVersion, Title: orNull(s.Title), TitlePreview: orNull(s.TitlePreview),
		Status: gen.SessionStatus(s.Status), SandboxState: s.SandboxState, Phase: orNull(s.Phase), PhaseDetail: orNull(s.PhaseDetail),
		SandboxURL: null, HarnessSessionID: orNull(s.HarnessSessionID), SupportsTui: session.SupportsTUI(s.HarnessID),
		TtyURL: null, TtyToken: null, Response: orNull(s.Response), TurnCount: s.TurnCount,
		CreatedAt: session.FormatTime(s.CreatedAt), ReadyAt: timeOrNull(s.ReadyAt), LastSeenAt: timeOrNull(s.LastSeenAt),
		StoppedAt: timeOrNull(s.StoppedAt), IdleTimeoutMs: s.IdleTimeoutMs, FailureReason: orNull(s.FailureReason),
	}
}
