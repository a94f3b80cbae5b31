package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
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
}

func (h agents) CreateAgent(ctx context.Context, r gen.CreateAgentRequestObject) (gen.CreateAgentResponseObject, error) {
	if err := refuseSkills(orZero(r.Body.SkillIds)); err != nil {
		return nil, err
	}
	a := agentRow(r.Body)
	if err := h.store.CreateAgent(ctx, &a); err != nil {
		return nil, err
	}
	return gen.CreateAgent200JSONResponse(agentAnswer(a)), nil
}

// refuseSkills refuses the first id: there is no skill yet that it could name.
func refuseSkills(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return skillNotFound(ids[0])
}

func (h agents) GetAgent(ctx context.Context, r gen.GetAgentRequestObject) (gen.GetAgentResponseObject, error) {
	a, err := h.store.GetAgent(ctx, r.AgentID)
	if err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	answer := agentAnswer(a)
	if len(r.Params.Expand) > 0 {
		h.log.Info("secrets revealed", "agent_id", a.ID, "expand", r.Params.Expand, "request_id", requestID(ctx))
	}
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
	return gen.GetAgent200JSONResponse(answer), nil
}

func (h agents) ListAgents(ctx context.Context, r gen.ListAgentsRequestObject) (gen.ListAgentsResponseObject, error) {
	p, err := newPage(r.Params.Limit, r.Params.Offset, r.Params.Cursor, r.Params.Total)
	if err != nil {
		return nil, err
	}
	rows, err := h.store.ListAgents(ctx, p.request)
	if err != nil {
		return nil, err
	}
	list := gen.ListAgents200JSONResponse{
		Data: make([]gen.Agent, len(rows.Rows)), Limit: p.limit, Offset: p.offset,
		Total: orNull(rows.Total), NextCursor: encodeCursor(rows.Next),
	}
	for i := range rows.Rows {
		row := &rows.Rows[i]
		list.Data[i] = agentAnswer(row.Agent)
		list.Data[i].SessionCount, list.Data[i].HasActiveSession = &row.SessionCount, &row.HasActive
	}
	return list, nil
}

func (h agents) DeleteAgent(ctx context.Context, r gen.DeleteAgentRequestObject) (gen.DeleteAgentResponseObject, error) {
	if err := h.sessions.DeleteAgent(ctx, r.AgentID); err != nil {
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
		sum := sha256.Sum256(f.Content)
		file := store.File{
			Name: f.Name, Path: f.SandboxPath, ContentType: defaultContentType,
			Size: int64(len(f.Content)), SHA256: hex.EncodeToString(sum[:]), Content: f.Content,
		}
		if t := given(f.ContentType); t != nil {
			file.ContentType = *t
		}
		a.Files = append(a.Files, file)
	}
	return a
}

// agentAnswer is the public form of an agent, its secrets masked.
func agentAnswer(a store.Agent) gen.Agent {
	answer := gen.Agent{
		ID: a.ID, Version: a.Version, HarnessID: gen.HarnessID(a.HarnessID), SupportsTui: session.SupportsTUI(a.HarnessID),
		Model: a.Model, Name: orNull(a.Name), Prompt: orNull(a.Prompt), Requirements: orNull(a.Requirements),
		RepoURL: orNull(a.RepoURL), Branch: defaultBranch, PfpURL: orNull(a.PfpURL),
		McpServers: orEmpty(a.MCPServers), AllowOut: orEmpty(a.AllowOut), DenyOut: orEmpty(a.DenyOut),
		AttachedSkillIds: orEmpty(a.AttachedSkillIDs), EnvVars: make(map[string]string, len(a.EnvVars)),
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
