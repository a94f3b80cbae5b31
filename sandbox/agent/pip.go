package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const (
	venvWithin = 3 * time.Minute
	pipWithin  = 20 * time.Minute
	pipLines   = 8
)

// install makes the virtual environment that the requirements describe, unless the workspace has it from an earlier attempt.
func (s *session) install(ctx context.Context, t *tree, text string, given map[string]string) (err error) {
	sum := sha256.Sum256([]byte(text))
	want := hex.EncodeToString(sum[:])
	mark := path.Join(venvDir, ".lap-requirements")
	if have, err := t.root.ReadFile(mark); err == nil && string(have) == want {
		return nil
	}
	if err := t.root.RemoveAll(venvDir); err != nil {
		return fmt.Errorf("remove the old virtual environment: %w", err)
	}
	file := filepath.Join(s.c.StateDir, "requirements.txt")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write requirements: %w", err)
	}
	// Requirements may name an index with a password in it.
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	venv := t.path(venvDir)
	c := command{dir: t.path(repoDir), env: s.environment(given, ""), within: venvWithin, argv: []string{"python3", "-m", "venv", venv}}
	if out, err := c.run(ctx); err != nil {
		return fmt.Errorf("install requirements: python3 with its venv module is needed: %s (%w)", lastLines(out, pipLines), err)
	}
	c.env, c.within = s.environment(given, venv), pipWithin
	c.argv = []string{
		filepath.Join(venv, "bin", "python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
		"--no-color", "--progress-bar", "off", "-r", file,
	}
	if out, err := c.run(ctx); err != nil {
		return fmt.Errorf("install requirements: pip: %s (%w)", lastLines(fromError(out), pipLines), err)
	}
	if err := t.replace(mark, []byte(want), 0o600); err != nil {
		return fmt.Errorf("mark virtual environment: %w", err)
	}
	return nil
}

// fromError is what pip says from its first error on, or all of it if there is none.
func fromError(out string) string {
	if strings.HasPrefix(out, "ERROR:") {
		return out
	}
	if i := strings.Index(out, "\nERROR:"); i >= 0 {
		return out[i+1:]
	}
	return out
}
