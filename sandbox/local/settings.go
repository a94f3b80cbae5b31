package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// Settings is a sandbox.Settings of one file per session, readable by its owner only.
type Settings struct{ dir string }

var _ sandbox.Settings = (*Settings)(nil)

const settingsExt = ".json"

// Put implements sandbox.Settings.
func (s *Settings) Put(_ context.Context, sessionID string, env map[string]string) error {
	path, err := s.path(sessionID)
	if err != nil {
		return err
	}
	if env == nil {
		env = map[string]string{}
	}
	if err := writeJSON(path, env); err != nil {
		return fmt.Errorf("settings of session %s: %w", sessionID, err)
	}
	return nil
}

// Get implements sandbox.Settings.
func (s *Settings) Get(_ context.Context, sessionID string) (map[string]string, error) {
	path, err := s.path(sessionID)
	if err != nil {
		return nil, err
	}
	var env map[string]string
	err = readJSON(path, &env)
	if errors.Is(err, fs.ErrNotExist) {
		err = sandbox.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("settings of session %s: %w", sessionID, err)
	}
	return env, nil
}

// Delete implements sandbox.Settings.
func (s *Settings) Delete(_ context.Context, sessionID string) error {
	if !isSessionID(sessionID) { // such an id has no settings
		return nil
	}
	err := os.Remove(filepath.Join(s.dir, sessionID+settingsExt))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settings of session %s: %w", sessionID, err)
	}
	return syncDir(s.dir)
}

// List implements sandbox.Settings.
func (s *Settings) List(context.Context) (map[string]time.Time, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list settings: %w", err)
	}
	out := map[string]time.Time{}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), settingsExt)
		if !ok || !isSessionID(id) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list settings: %w", err)
		}
		out[id] = info.ModTime()
	}
	return out, nil
}

func (s *Settings) path(sessionID string) (string, error) {
	if !isSessionID(sessionID) {
		return "", fmt.Errorf("settings of session %q, which is not a lower-case UUID: %w", sessionID, sandbox.ErrNotFound)
	}
	return filepath.Join(s.dir, sessionID+settingsExt), nil
}

// clean removes what a crash in the middle of Put left: it holds secrets that nobody would delete.
func (s *Settings) clean() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("clean settings: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("clean settings: %w", err)
		}
	}
	return nil
}

// isSessionID accepts the one spelling of a UUID that is used as a name of files. An id that it refuses belongs to nothing.
func isSessionID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}
