package api

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/server/skill"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	envMask            = "********" // what answers show of a value
	defaultBranch      = "main"
	defaultContentType = "application/octet-stream"
)

type agents struct {
	store    *store.Store
	sessions *session.Service
	log      *slog.Logger
	cache    *agentCache
}

func (h agents) CreateAgent(ctx context.Context, r gen.CreateAgentRequestObject) (gen.CreateAgentResponseObject, error) {
	a := agentRow(r.Body)
	create := func(st *store.Store) error { return st.CreateAgent(ctx, &a) }
	add := orZero(r.Body.SkillIds)
	var err error
	if len(add) == 0 && (a.Prompt == nil || len(skill.Markers(*a.Prompt)) == 0) {
		err = create(h.store) // which takes fewer round trips
	} else {
		err = h.store.InTx(ctx, func(st *store.Store) (err error) {
			if a.Prompt, a.Skills, err = compose(ctx, st, a.Prompt, add, nil); err != nil {
				return err
			}
			return create(st)
		})
	}
	if err != nil {
		return nil, err
	}
	return written(a)
}

func (h agents) GetAgent(ctx context.Context, r gen.GetAgentRequestObject) (gen.GetAgentResponseObject, error) {
	if len(r.Params.Expand) == 0 {
		version, err := h.store.CurrentVersion(ctx, r.AgentID)
		if err != nil {
			return nil, orNotFound(err, agentNotFound(r.AgentID))
		}
		body, err := h.encoded(ctx, agentKey{r.AgentID, version})
		return encodedAgent{body, version}, err
	}
	a, err := h.store.GetAgent(ctx, r.AgentID)
	if err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	answer := agentAnswer(a)
	h.log.Info("secrets revealed", "agent_id", a.ID, "expand", r.Params.Expand, "request_id", requestID(ctx))
	if slices.Contains(r.Params.Expand, gen.GetAgentParamsExpandEnvVars) {
		answer.EnvVars = a.EnvVars
	}
	if slices.Contains(r.Params.Expand, gen.GetAgentParamsExpandSandboxFiles) {
		if err := h.store.FileContents(ctx, a.Files); err != nil {
			return nil, err
		}
		for i, f := range a.Files {
			content := orEmpty(f.Content)
			answer.SandboxFiles[i].Content = &content
		}
	}
	return gen.GetAgent200JSONResponse{Body: answer, Headers: gen.GetAgent200ResponseHeaders{ETag: etag(a.Version)}}, nil
}

func (h agents) ListAgents(ctx context.Context, r gen.ListAgentsRequestObject) (gen.ListAgentsResponseObject, error) {
	q, err := agentQuery(r.Params)
	if err != nil {
		return nil, err
	}
	p, err := newPageOf(q.Holds, r.Params.Limit, r.Params.Offset, r.Params.Cursor, r.Params.Total)
	if err != nil {
		return nil, err
	}
	q.Heads = true
	heads, err := h.store.ListAgents(ctx, q, p.request)
	if err != nil {
		return nil, err
	}
	if h.cache.lacks(heads.Rows) {
		q.Heads, p.request.Total = false, false
		whole, err := h.store.ListAgents(ctx, q, p.request)
		if err != nil {
			return nil, err
		}
		for _, row := range whole.Rows {
			if !row.Wide {
				if _, err := h.keep(row.Agent); err != nil {
					return nil, err
				}
			}
		}
	}
	return listPage{
		Data: h.listed(ctx, heads.Rows), Limit: p.limit, Offset: p.offset,
		Total: orNull(heads.Total), NextCursor: encodeCursor(heads.Next),
	}, nil
}

// listed reads one agent at a time: prompts can make a page 200 MB.
func (h agents) listed(ctx context.Context, rows []store.AgentRow) each {
	return func(yield func(any, error) bool) {
		for _, row := range rows {
			body, err := h.encoded(ctx, agentKey{row.ID, row.Version})
			if !yield(listedAgent{body, row.SessionCount, row.HasActive}, err) {
				return
			}
		}
	}
}

// encoded is a version of an agent as JSON.
func (h agents) encoded(ctx context.Context, k agentKey) ([]byte, error) {
	if body := h.cache.get(k); body != nil {
		return body, nil
	}
	a, err := h.store.GetAgentVersion(ctx, k.id, k.version)
	if err != nil {
		return nil, orNotFound(err, agentNotFound(k.id))
	}
	return h.keep(a)
}

func (h agents) keep(a store.Agent) ([]byte, error) {
	body, err := encode(agentAnswer(a))
	if err != nil {
		return nil, err
	}
	h.cache.put(agentKey{a.ID, a.Version}, body)
	return body, nil
}

func agentQuery(p gen.ListAgentsParams) (store.AgentQuery, error) {
	var q store.AgentQuery
	if p.Sort != nil {
		q.Sort = store.AgentSort(*p.Sort)
	}
	if p.Order != nil {
		q.Asc = *p.Order == gen.ListAgentsParamsOrderAsc
	}
	if p.HarnessID != nil {
		q.HarnessID = string(*p.HarnessID)
	}
	if p.Search != nil {
		q.Search = *p.Search
	}
	if !utf8.ValidString(q.Search) || strings.Contains(q.Search, "\x00") {
		return q, invalid([]gen.ErrorDetail{{Field: "query/search", Message: "must be valid UTF-8 without NUL"}})
	}
	return q, nil
}

func (h agents) DeleteAgent(ctx context.Context, r gen.DeleteAgentRequestObject) (gen.DeleteAgentResponseObject, error) {
	check := func(version int32) error { return checkMatch(r.Params.IfMatch, version) }
	if err := h.sessions.DeleteAgent(ctx, r.AgentID, check); err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	return gen.DeleteAgent204Response{}, nil
}

// agentRow is the row of a new agent, which the store completes.
func agentRow(b *gen.AgentCreate) store.Agent {
	a := store.Agent{HarnessID: string(gen.HarnessIDOpencode), AgentConfig: store.AgentConfig{
		Model: b.Model, Name: given(b.Name), Prompt: given(b.Prompt), Requirements: given(b.Requirements),
		RepoURL: given(b.RepoURL), Branch: given(b.Branch), PfpURL: given(b.PfpURL),
		MCPServers: orZero(b.McpServers), AllowOut: orZero(b.AllowOut), DenyOut: orZero(b.DenyOut),
		EnvVars: orZero(b.EnvVars), IdleTimeoutMs: given(b.IdleTimeoutMs),
	}}
	if harness := given(b.HarnessID); harness != nil {
		a.HarnessID = string(*harness)
	}
	for _, f := range orZero(b.SandboxFiles) {
		file := store.File{Name: f.Name, Path: f.SandboxPath, ContentType: contentType(f.ContentType), Content: f.Content}
		a.Files = append(a.Files, file)
	}
	return a
}

func contentType(given nullable.Nullable[string]) string {
	if t, err := given.Get(); err == nil {
		return t
	}
	return defaultContentType
}

// agentAnswer is the public form of an agent, its secrets masked.
func agentAnswer(a store.Agent) gen.Agent {
	answer := gen.Agent{
		ID: a.ID, Version: a.Version, HarnessID: gen.HarnessID(a.HarnessID), SupportsTui: session.SupportsTUI(a.HarnessID),
		Model: a.Model, Name: orNull(a.Name), Prompt: orNull(a.Prompt), Requirements: orNull(a.Requirements),
		RepoURL: orNull(a.RepoURL), Branch: defaultBranch, PfpURL: orNull(a.PfpURL),
		McpServers: orEmpty(a.MCPServers), AllowOut: orEmpty(a.AllowOut), DenyOut: orEmpty(a.DenyOut),
		AttachedSkillIds: skillIDs(a.Skills), EnvVars: make(map[string]string, len(a.EnvVars)),
		SandboxFiles: make([]gen.SandboxFile, len(a.Files)), IdleTimeoutMs: session.DefaultIdleTimeout.Milliseconds(),
		CreatedAt: session.FormatTime(a.CreatedAt), UpdatedAt: session.FormatTime(a.UpdatedAt),
	}
	if a.Branch != nil {
		answer.Branch = *a.Branch
	}
	if a.IdleTimeoutMs != nil {
		answer.IdleTimeoutMs = *a.IdleTimeoutMs
	}
	for key := range a.EnvVars {
		answer.EnvVars[key] = envMask
	}
	for i, f := range a.Files {
		answer.SandboxFiles[i] = gen.SandboxFile{Name: f.Name, SandboxPath: f.Path, ContentType: f.ContentType, Size: f.Size, Sha256: f.SHA256}
	}
	return answer
}
