package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

// binding is everything a sandbox needs to serve a session.
func (r *reconciler) binding(ctx context.Context, s store.Session, agent store.Agent) (sandboxd.SessionConfig, error) {
	o := r.c.o
	if err := o.Store.FileContents(ctx, agent.Files); err != nil {
		return sandboxd.SessionConfig{}, fmt.Errorf("read files of agent: %w", err)
	}
	own, err := r.settings(ctx, s)
	if err != nil {
		return sandboxd.SessionConfig{}, err
	}
	skills, err := r.equip(ctx, s, &agent)
	if err != nil {
		return sandboxd.SessionConfig{}, err
	}
	gateway, err := r.makeKey(ctx, s, agent.Model)
	if err != nil {
		return sandboxd.SessionConfig{}, err
	}
	cfg := sandboxd.SessionConfig{
		SessionID: s.ID, Attempt: s.Attempt, HarnessID: s.HarnessID, HarnessSessionID: s.HarnessSessionID,
		Model: agent.Model, Prompt: agent.Prompt, Requirements: agent.Requirements, McpServers: agent.MCPServers,
		Gateway: gateway, Env: environment(o, gateway, agent, own),
		Files: skills, // the agent's own files may replace them
	}
	if s.Attempt > 1 && !SupportsTUI(s.HarnessID) {
		said, err := replay(ctx, o.Store, s.ID, 0)
		if err != nil {
			return sandboxd.SessionConfig{}, fmt.Errorf("read transcript: %w", err)
		}
		cfg.Transcript = &said
		if said == "" {
			cfg.Transcript, cfg.HarnessSessionID = nil, nil // there is nothing to go on with
		}
	}
	if s.Attempt == 1 && SupportsTUI(s.HarnessID) {
		if cfg.InitialPrompt, err = r.typed(ctx, s.ID); err != nil {
			return sandboxd.SessionConfig{}, err
		}
	}
	for _, f := range agent.Files {
		cfg.Files = append(cfg.Files, sandboxd.File{Path: f.Path, Content: f.Content})
	}
	if agent.RepoURL != nil {
		cfg.Repo = &sandboxd.Repo{
			URL: *agent.RepoURL, Branch: branch(agent), BranchSet: agent.Branch != nil,
			Token: cloneToken(o, *agent.RepoURL, agent.EnvVars, own), Protocols: o.GitProtocols,
		}
	}
	if o.Egress != nil {
		cfg.Egress, err = o.Egress.admit(ctx, &o, s, agent, cfg.Env)
	}
	return cfg, err
}

// settings are the session's own variables.
func (r *reconciler) settings(ctx context.Context, s store.Session) (map[string]string, error) {
	if !s.HasSettings {
		return nil, nil
	}
	own, err := r.c.o.Settings.Get(ctx, s.ID)
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil, errNoSettings
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return own, nil
}

var errNoSettings = errors.New("the settings of the session are gone")

func branch(a store.Agent) string {
	if a.Branch != nil {
		return *a.Branch
	}
	return "main"
}

// maxVariable is what Linux takes of one variable: name, value, what stands between them and what ends them. With a longer one no
// process starts. Prompts and requirements reach a harness in other ways too.
const maxVariable = 128<<10 - 1

// environment merges what the operator, the agent, the session and the platform say, each stronger than the one before.
func environment(o Options, g sandboxd.Gateway, a store.Agent, own map[string]string) map[string]string {
	env := map[string]string{}
	maps.Copy(env, o.Env)
	maps.Copy(env, a.EnvVars)
	maps.Copy(env, own)
	delete(env, "GIT_TOKEN") // never in the environment of a harness
	env["LITELLM_API_BASE"], env["LITELLM_API_KEY"], env["LITELLM_DEFAULT_MODEL"] = g.BaseURL, g.APIKey, a.Model
	for key, v := range map[string]*string{"AGENT_PROMPT": a.Prompt, "AGENT_REQUIREMENTS": a.Requirements, "REPO_URL": a.RepoURL} {
		delete(env, key)
		if v != nil && len(key)+len(*v) < maxVariable {
			env[key] = *v
		}
	}
	delete(env, "BRANCH")
	if a.RepoURL != nil {
		env["BRANCH"] = branch(a)
	}
	return env
}

// cloneToken is the credential for a repository: the session's or agent's own GitHub token for github.com, else the platform's,
// each only for the hosts it is meant for.
func cloneToken(o Options, repo string, agent, own map[string]string) *string {
	u, err := url.Parse(repo)
	if err != nil || u.Scheme != "https" {
		return nil
	}
	if u.Hostname() == "github.com" {
		for _, env := range []map[string]string{own, agent} {
			for _, key := range []string{"GITHUB_TOKEN", "GH_TOKEN"} {
				if v := env[key]; v != "" {
					return &v
				}
			}
		}
	}
	if o.GitToken != "" && slices.Contains(o.GitHosts, u.Hostname()) {
		return &o.GitToken
	}
	return nil
}
