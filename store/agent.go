package store

import (
	"context"

	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"gorm.io/gorm"
)

// Agent is one version of a stored agent. UpdatedAt is when that version was
// made.
type Agent struct {
	ID        string
	Version   int32
	HarnessID string
	CreatedAt time.Time
	UpdatedAt time.Time
	AgentConfig
}

// AgentConfig is what a version fixes for good. Lists and maps read from the
// store are never nil.
type AgentConfig struct {
	Model        string
	Name         *string
	Prompt       *string
	Requirements *string
	RepoURL      *string
	Branch       *string // nil: never set
	PfpURL       *string

	MCPServers []string
	AllowOut   []string
	DenyOut    []string

	// EnvVars are clear here and sealed in the database, bound to the agent.
	EnvVars       map[string]string
	Files         []File
	Skills        []AttachedSkill // in the order of their blocks in Prompt
	IdleTimeoutMs *int64
}

type agentRow struct {
	ID           string
	Version      int32
	HarnessID    string
	NameUp       string
	NameDown     string
	SessionCount int64
	CreatedAt    int64
	UpdatedAt    int64
	DeletedAt    *int64
}

func (agentRow) TableName() string { return "agents" }

// Statements of their own for what is inserted most: gorm's reflection over a row costs as much as inserting it.
const (
	insertAgent = `INSERT INTO agents (id, version, harness_id, name_up, name_down, session_count, created_at, updated_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`
	insertVersion = `INSERT INTO agent_versions (agent_id, version, model, name, prompt, requirements, repo_url, branch, pfp_url,
		mcp_servers, allow_out, deny_out, skills, env_sealed, files, idle_timeout_ms, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
)

func (a agentRow) values() []any {
	return []any{a.ID, a.Version, a.HarnessID, a.NameUp, a.NameDown, a.SessionCount, a.CreatedAt, a.UpdatedAt}
}

func (v versionRow) values() []any {
	return []any{
		v.AgentID, v.Version, v.Model, v.Name, v.Prompt, v.Requirements, v.RepoURL, v.Branch, v.PfpURL,
		v.McpServers, v.AllowOut, v.DenyOut, v.Skills, v.EnvSealed, v.Files, v.IdleTimeoutMs, v.CreatedAt,
	}
}

type versionRow struct {
	AgentID       string
	Version       int32
	Model         string
	Name          *string
	Prompt        *string
	Requirements  *string
	RepoURL       *string
	Branch        *string
	PfpURL        *string
	McpServers    string
	AllowOut      string
	DenyOut       string
	Skills        string
	EnvSealed     []byte
	Files         string
	IdleTimeoutMs *int64
	CreatedAt     int64
}

func (versionRow) TableName() string { return "agent_versions" }

// joinedRow is an agent with one of its versions.
type joinedRow struct {
	Version        versionRow
	HarnessID      string
	AgentCreatedAt int64
}

const (
	joinedColumns = "a.id, a.harness_id, a.created_at" + versionColumns
	currentAgent  = `SELECT ` + joinedColumns + ` FROM agents a JOIN agent_versions v ON v.agent_id = a.id AND v.version = a.version
		WHERE a.id = ? AND a.deleted_at IS NULL`
	agentOfVersion = `SELECT ` + joinedColumns + ` FROM agents a JOIN agent_versions v ON v.agent_id = a.id
		WHERE a.id = ? AND v.version = ?`
)

// CreateAgent stores a with its files as version 1. It fills ID, Version, the
// times and each file's Size and SHA256. A file with a SHA256 and no Content
// takes the bytes already stored under it, ErrNotFound when there are none.
func (s *Store) CreateAgent(ctx context.Context, a *Agent) error {
	id, err := newID()
	if err != nil {
		return err
	}
	agent := *a
	agent.ID, agent.Version = id, 1
	agent.CreatedAt = now()
	agent.UpdatedAt = agent.CreatedAt
	agent.Files = hashed(a.Files)
	version, err := s.newVersionRow(agent)
	if err != nil {
		return fmt.Errorf("create agent: %w", err)
	}
	row := agentRow{ID: id, Version: 1, HarnessID: a.HarnessID, CreatedAt: version.CreatedAt, UpdatedAt: version.CreatedAt}
	row.NameUp, row.NameDown = nameKeys(a.Name)
	insert := func(s *Store) error {
		return s.exec(ctx, func(db *gorm.DB) error { return s.engine.insertAgent(db, row, version) })
	}
	if len(agent.Files) == 0 {
		err = insert(s)
	} else {
		err = s.InTx(ctx, func(s *Store) error {
			if err := s.putFiles(ctx, agent.Files); err != nil {
				return err
			}
			return insert(s)
		})
	}
	if err != nil {
		return fmt.Errorf("create agent: %w", err)
	}
	*a = agent
	return nil
}

// GetAgent returns the current version of an agent that is not deleted,
// without file contents.
func (s *Store) GetAgent(ctx context.Context, id string) (Agent, error) {
	return s.oneAgent(ctx, id, currentAgent, id)
}

// GetAgentVersion returns one version of an agent, deleted or not, without file
// contents.
func (s *Store) GetAgentVersion(ctx context.Context, id string, version int32) (Agent, error) {
	return s.oneAgent(ctx, id, agentOfVersion, id, version)
}

func (s *Store) oneAgent(ctx context.Context, id, query string, args ...any) (Agent, error) {
	if !validID(id) {
		return Agent{}, fmt.Errorf("get agent: %w", ErrNotFound)
	}
	var row joinedRow
	err := s.query(ctx, func(db *gorm.DB) error { return db.Raw(query, args...).Row().Scan(row.columns()...) })
	if err != nil {
		return Agent{}, fmt.Errorf("get agent: %w", err)
	}
	return s.agent(row)
}

// columns is where joinedColumns are read to. gorm's own reading of rows costs as much as the query.
func (r *joinedRow) columns() []any {
	return append([]any{&r.Version.AgentID, &r.HarnessID, &r.AgentCreatedAt}, r.Version.columns()...)
}

// columns is where versionColumns are read to.
func (v *versionRow) columns() []any {
	return []any{
		&v.Version, &v.Model, &v.Name, &v.Prompt, &v.Requirements, &v.RepoURL, &v.Branch, &v.PfpURL, &v.McpServers, &v.AllowOut,
		&v.DenyOut, &v.Skills, &v.EnvSealed, &v.Files, &v.IdleTimeoutMs, &v.CreatedAt,
	}
}

func (s *Store) newVersionRow(a Agent) (versionRow, error) {
	row, err := columnsOf(a)
	if err != nil || len(a.EnvVars) == 0 {
		return row, err
	}
	env, err := json.Marshal(a.EnvVars)
	if err != nil {
		return row, err
	}
	row.EnvSealed = s.keyring.Seal(env, []byte(a.ID))
	return row, nil
}

// columnsOf is the row of a version without its environment. Equal
// configurations have equal columns.
func columnsOf(a Agent) (versionRow, error) {
	row := versionRow{
		AgentID: a.ID, Version: a.Version, Model: a.Model, Name: a.Name, Prompt: a.Prompt, Requirements: a.Requirements,
		RepoURL: a.RepoURL, Branch: a.Branch, PfpURL: a.PfpURL, IdleTimeoutMs: a.IdleTimeoutMs, CreatedAt: a.UpdatedAt.UnixMilli(),
	}
	for _, list := range []struct {
		column *string
		values []string
	}{{&row.McpServers, a.MCPServers}, {&row.AllowOut, a.AllowOut}, {&row.DenyOut, a.DenyOut}} {
		if err := encode(list.column, append([]string{}, list.values...)); err != nil {
			return row, err
		}
	}
	if err := encode(&row.Skills, append([]AttachedSkill{}, a.Skills...)); err != nil {
		return row, err
	}
	return row, encode(&row.Files, fileRefs(a.Files))
}

func (s *Store) agent(joined joinedRow) (Agent, error) {
	row := joined.Version
	a := Agent{
		ID: row.AgentID, Version: row.Version, HarnessID: joined.HarnessID,
		CreatedAt: fromMillis(joined.AgentCreatedAt), UpdatedAt: fromMillis(row.CreatedAt),
		AgentConfig: AgentConfig{
			Model: row.Model, Name: row.Name, Prompt: row.Prompt, Requirements: row.Requirements, RepoURL: row.RepoURL,
			Branch: row.Branch, PfpURL: row.PfpURL, EnvVars: map[string]string{}, IdleTimeoutMs: row.IdleTimeoutMs,
			MCPServers: []string{}, AllowOut: []string{}, DenyOut: []string{}, Skills: []AttachedSkill{},
		},
	}
	var refs []fileRef
	for _, col := range []struct {
		text string
		into any
	}{
		{row.McpServers, &a.MCPServers}, {row.AllowOut, &a.AllowOut}, {row.DenyOut, &a.DenyOut},
		{row.Skills, &a.Skills}, {row.Files, &refs},
	} {
		if col.text == "[]" {
			continue // as most are
		}
		if err := json.Unmarshal([]byte(col.text), col.into); err != nil {
			return Agent{}, fmt.Errorf("read agent %s: %w", row.AgentID, err)
		}
	}
	a.Files = filesOf(refs)
	if len(row.EnvSealed) == 0 {
		return a, nil
	}
	env, err := s.keyring.Open(row.EnvSealed, []byte(row.AgentID))
	if err != nil {
		return Agent{}, fmt.Errorf("read env_vars of agent %s: %w", row.AgentID, err)
	}
	if json.Unmarshal(env, &a.EnvVars) != nil {
		return Agent{}, fmt.Errorf("read env_vars of agent %s: not a map of texts", row.AgentID)
	}
	return a, nil
}

func encode(column *string, v any) error {
	text, err := json.Marshal(v)
	*column = string(text)
	return err
}
