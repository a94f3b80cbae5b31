package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// prepare makes the workspace what the harness expects. notes is what the user should know of it, one sentence or nothing.
func (s *session) prepare(ctx context.Context, c sandboxd.SessionConfig, secrets *redactor) (hc harness.Config, notes string, err error) {
	t, err := openTree(s.c.Root)
	if err != nil {
		return hc, "", err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	s.setPhase("injecting_files", "")
	if err := t.inject(c.Files, func(p string) bool { return !inRepo(p) }); err != nil {
		return hc, "", err
	}
	if c.Repo != nil {
		if notes, err = s.cloneOnce(ctx, t, c, secrets); err != nil {
			return hc, "", err
		}
	}
	if err := t.root.MkdirAll(repoDir, 0o755); err != nil {
		return hc, "", fmt.Errorf("make %s: %w", repoDir, err)
	}
	if err := t.inject(c.Files, inRepo); err != nil {
		return hc, "", err
	}
	if err := t.injected(); err != nil {
		return hc, "", fmt.Errorf("mark workspace: %w", err)
	}
	venv, err := s.requirements(ctx, t, c)
	if err != nil {
		return hc, "", err
	}
	hc, err = s.harnessConfig(c, venv)
	return hc, notes, err
}

// cloneOnce clones the repository and forgets the credential for it, whatever came of it.
func (s *session) cloneOnce(ctx context.Context, t *tree, c sandboxd.SessionConfig, secrets *redactor) (notes string, err error) {
	s.setPhase("cloning_repo", secrets.clean(c.Repo.URL))
	notes, err = s.clone(ctx, t, *c.Repo, c.Env)
	if err != nil {
		err = errors.New(secrets.clean(err.Error()))
	} else if notes != "" {
		s.setPhase("cloning_repo", secrets.clean(notes))
	}
	return notes, errors.Join(err, dropToken(c, secrets))
}

func (s *session) harnessConfig(c sandboxd.SessionConfig, venv string) (harness.Config, error) {
	dir := filepath.Join(s.c.StateDir, "harness")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return harness.Config{}, fmt.Errorf("make harness directory: %w", err)
	}
	hc := harness.Config{
		Bin: s.c.HarnessBin, Dir: filepath.Join(s.c.Root, repoDir), StateDir: dir, Env: s.environment(c.Env, venv),
		Model: c.Model, Gateway: c.Gateway, MCP: c.McpServers,
	}
	if c.Prompt != nil {
		hc.Prompt = *c.Prompt
	}
	if c.HarnessSessionID != nil {
		hc.Resume = *c.HarnessSessionID
	}
	if c.InitialPrompt != nil && c.Attempt == 1 {
		hc.Typed = *c.InitialPrompt
	}
	if c.Transcript != nil {
		hc.Replay = *c.Transcript
	}
	return hc, nil
}

// requirements installs what the agent needs of Python and returns where, or nothing if it needs nothing.
func (s *session) requirements(ctx context.Context, t *tree, c sandboxd.SessionConfig) (venv string, err error) {
	if c.Requirements == nil || strings.TrimSpace(*c.Requirements) == "" {
		return "", nil
	}
	s.setPhase("installing_deps", "")
	return t.path(venvDir), s.install(ctx, t, *c.Requirements, c.Env)
}
