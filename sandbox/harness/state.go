package harness

import (
	"cmp"
	"errors"
	"path/filepath"
)

// State is where a harness keeps its conversations.
type State struct {
	Dir      string // absolute
	Database string // file in Dir: an SQLite database, which is all that is needed; empty: it is the files below Dir
}

// StateOf is where a harness that runs with an environment keeps its conversations. With the same files in another workspace, at
// the same path, it can go on with them.
func StateOf(h Harness, env []string) (*State, error) {
	keeps, ok := h.(interface {
		State(env map[string]string) State
	})
	if !ok {
		return nil, errors.New("the harness's conversations cannot be kept")
	}
	s := keeps.State(envMap(env))
	if !filepath.IsAbs(s.Dir) {
		return nil, errors.New("HOME is not an absolute path")
	}
	return &s, nil
}

// State implements what StateOf asks for.
func (openCode) State(env map[string]string) State {
	data := cmp.Or(env["XDG_DATA_HOME"], filepath.Join(env["HOME"], ".local", "share"))
	return State{Dir: filepath.Join(data, "opencode"), Database: "opencode.db"}
}

// State implements what StateOf asks for.
func (claudeSDK) State(env map[string]string) State { return claudeProjects(env) }

// State implements what StateOf asks for.
func (claudeCode) State(env map[string]string) State { return claudeProjects(env) }

func claudeProjects(env map[string]string) State {
	return State{Dir: filepath.Join(env["HOME"], ".claude", "projects")}
}

// State implements what StateOf asks for.
func (codex) State(env map[string]string) State {
	return State{Dir: filepath.Join(env["HOME"], ".codex", "sessions")}
}
