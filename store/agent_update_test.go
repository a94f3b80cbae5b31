package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func fullConfig() store.AgentConfig {
	return store.AgentConfig{
		Model: "m", Name: ptr("n"), Prompt: ptr("p"), Requirements: ptr("r"), RepoURL: ptr("u"), Branch: ptr("b"), PfpURL: ptr("f"),
		MCPServers: []string{"a", "b"}, AllowOut: []string{"c"}, DenyOut: []string{"d"}, EnvVars: map[string]string{"K": "v", "L": "w"},
		Files:         []store.File{{Name: "f", Path: "/tmp/f", ContentType: "t", Content: []byte("bytes")}},
		Skills:        []store.AttachedSkill{{ID: "s", Name: "skill", Description: ptr("d")}},
		IdleTimeoutMs: ptr(int64(60000)),
	}
}

// changes are ways to change each field, in place too where that is possible.
func changes() map[string][]func(c *store.AgentConfig) {
	type config = store.AgentConfig
	return map[string][]func(c *config){
		"Model":         {func(c *config) { c.Model = "x" }},
		"Name":          {func(c *config) { c.Name = ptr("x") }, func(c *config) { c.Name = nil }, func(c *config) { c.Name = ptr("") }},
		"Prompt":        {func(c *config) { c.Prompt = ptr("p ") }, func(c *config) { c.Prompt = nil }, func(c *config) { *c.Prompt = "x" }},
		"Requirements":  {func(c *config) { c.Requirements = ptr("") }},
		"RepoURL":       {func(c *config) { c.RepoURL = nil }},
		"Branch":        {func(c *config) { c.Branch = ptr("main") }, func(c *config) { c.Branch = nil }},
		"PfpURL":        {func(c *config) { c.PfpURL = nil }},
		"MCPServers":    {func(c *config) { c.MCPServers = []string{"b", "a"} }, func(c *config) { c.MCPServers[0] = "x" }, func(c *config) { c.MCPServers = nil }},
		"AllowOut":      {func(c *config) { c.AllowOut = append(c.AllowOut, "c") }},
		"DenyOut":       {func(c *config) { c.DenyOut = []string{""} }},
		"Skills":        {func(c *config) { c.Skills = nil }, func(c *config) { c.Skills[0].Description = nil }, func(c *config) { c.Skills[0].Name = "x" }},
		"IdleTimeoutMs": {func(c *config) { c.IdleTimeoutMs = nil }, func(c *config) { *c.IdleTimeoutMs = 60001 }},
		"EnvVars": {
			func(c *config) { c.EnvVars["K"] = "x" }, func(c *config) { delete(c.EnvVars, "K") }, func(c *config) { c.EnvVars = nil },
			func(c *config) { c.EnvVars = map[string]string{"K": "w", "L": "v"} },
		},
		"Files": {
			func(c *config) { c.Files[0].Path = "/tmp/g" }, func(c *config) { c.Files[0].ContentType = "" },
			func(c *config) { c.Files[0].Content = []byte("other") }, func(c *config) { c.Files = nil },
			func(c *config) { c.Files = append(c.Files, c.Files[0]) },
		},
	}
}

func TestAChangeOfAnyFieldIsANewVersion(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		all := changes()
		for i := range reflect.TypeFor[store.AgentConfig]().NumField() {
			field := reflect.TypeFor[store.AgentConfig]().Field(i).Name
			if len(all[field]) == 0 {
				t.Errorf("no change of %s is tried", field)
			}
			for _, change := range all[field] {
				checkChange(t, s, change)
			}
		}
	})
}

func checkChange(t *testing.T, s *store.Store, change func(c *store.AgentConfig)) {
	t.Helper()
	a := store.Agent{HarnessID: "codex", AgentConfig: fullConfig()}
	check(t, s.CreateAgent(t.Context(), &a))
	first, err := s.GetAgent(t.Context(), a.ID)
	check(t, err)
	got, err := s.UpdateAgent(t.Context(), a.ID, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
		if !reflect.DeepEqual(current, first) {
			t.Errorf("current is %+v", current)
		}
		change(&current.AgentConfig)
		return current.AgentConfig, nil
	})
	check(t, err)
	want := store.Agent{ID: a.ID, Version: 2, HarnessID: "codex", CreatedAt: a.CreatedAt, UpdatedAt: got.UpdatedAt, AgentConfig: fullConfig()}
	change(&want.AgentConfig)
	now, err := s.GetAgent(t.Context(), a.ID)
	check(t, err)
	for what, agent := range map[string]store.Agent{"returned": got, "read back": now} {
		if g, w := agentText(t, s, agent), agentText(t, s, want); g != w {
			t.Errorf("%s %s\nwant %s", what, g, w)
		}
	}
	old, err := s.GetAgentVersion(t.Context(), a.ID, 1)
	if err != nil || !reflect.DeepEqual(old, first) {
		t.Errorf("version 1 is now %+v %v", old, err)
	}
}

// agentText is an agent with the contents of its files, nil lists as empty
// ones.
func agentText(t *testing.T, s *store.Store, a store.Agent) string {
	t.Helper()
	var contents []string
	for _, f := range a.Files {
		if f.Content == nil {
			stored := []store.File{f}
			check(t, s.FileContents(t.Context(), stored))
			f = stored[0]
		}
		contents = append(contents, fmt.Sprintf("%s %s %s %q", f.Name, f.Path, f.ContentType, f.Content))
	}
	a.Files = nil
	text, err := json.Marshal(a)
	check(t, err)
	return strings.NewReplacer("[]", "null", "{}", "null").Replace(string(text)) + strings.Join(contents, ";")
}

func TestWhatDoesNotDifferMakesNoVersion(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		bare, full := store.AgentConfig{Model: "m"}, fullConfig()
		empty := store.AgentConfig{
			Model: "m", MCPServers: []string{}, AllowOut: []string{}, DenyOut: []string{}, EnvVars: map[string]string{}, Files: []store.File{},
			Skills: []store.AttachedSkill{},
		}
		for _, c := range []struct{ created, updated store.AgentConfig }{{bare, bare}, {bare, empty}, {empty, bare}, {full, full}, {full, fullConfig()}} {
			a := store.Agent{AgentConfig: c.created}
			check(t, s.CreateAgent(t.Context(), &a))
			before, err := s.GetAgent(t.Context(), a.ID)
			check(t, err)
			for i, same := range []store.AgentConfig{c.updated, before.AgentConfig} {
				got, err := s.UpdateAgent(t.Context(), a.ID, func(*store.Store, store.Agent) (store.AgentConfig, error) { return same, nil })
				if err != nil || !reflect.DeepEqual(got, before) {
					t.Errorf("config %d: got %+v %v", i, got, err)
				}
			}
			if _, err := s.GetAgentVersion(t.Context(), a.ID, 2); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("version 2: %v", err)
			}
		}
	})
}

func TestARefusedUpdateWritesNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := store.Agent{AgentConfig: fullConfig()}
		check(t, s.CreateAgent(t.Context(), &a))
		before, err := s.GetAgent(t.Context(), a.ID)
		check(t, err)
		refusal := errors.New("refused")
		_, err = s.UpdateAgent(t.Context(), a.ID, func(s *store.Store, current store.Agent) (store.AgentConfig, error) {
			check(t, s.CreateAgent(t.Context(), &store.Agent{AgentConfig: store.AgentConfig{Model: "written on the way"}}))
			return current.AgentConfig, refusal
		})
		if err != refusal { //nolint:errorlint // the error itself, not wrapped
			t.Errorf("not the error of the change: %v", err)
		}
		_, err = s.UpdateAgent(t.Context(), a.ID, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
			current.Files = []store.File{{Name: "new", Content: []byte("not to stay")}, {Name: "x", SHA256: strings.Repeat("0", 64)}}
			return current.AgentConfig, nil
		})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a file of nothing: %v", err)
		}
		after, err := s.GetAgent(t.Context(), a.ID)
		if err != nil || !reflect.DeepEqual(after, before) || store.CountRows(t, s, "agents") != 1 || store.CountRows(t, s, "files") != 1 {
			t.Errorf("something was written: %+v %v", after, err)
		}
	})
}

func TestWhatIsGoneIsNotUpdated(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := newAgent(t, s)
		check(t, s.MarkAgentDeleted(t.Context(), a.ID, nil))
		for _, id := range []string{a.ID, "x", "a\x00", "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"} {
			_, err := s.UpdateAgent(t.Context(), id, func(*store.Store, store.Agent) (store.AgentConfig, error) {
				t.Errorf("%q is asked to change", id)
				return store.AgentConfig{}, nil
			})
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%q: %v", id, err)
			}
		}
	})
}

func TestConcurrentUpdatesAreAllKept(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := newAgent(t, s)
		const writers, rounds = 8, 5
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for r := range rounds {
					_, err := s.UpdateAgent(t.Context(), a.ID, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
						current.AllowOut = append(current.AllowOut, fmt.Sprint(w, r))
						current.EnvVars[fmt.Sprintf("K_%d_%d", w, r)] = "v"
						current.Files = append(current.Files, store.File{Name: fmt.Sprint(w, r), Content: fmt.Append(nil, r)})
						return current.AgentConfig, nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				for range rounds {
					if err := s.CreateSession(t.Context(), &store.Session{AgentID: a.ID}, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		got, err := s.GetAgent(t.Context(), a.ID)
		check(t, err)
		if got.Version != 1+writers*rounds || len(got.AllowOut) != writers*rounds || len(got.EnvVars) != writers*rounds || len(got.Files) != writers*rounds {
			t.Errorf("version %d, %d entries, %d variables, %d files", got.Version, len(got.AllowOut), len(got.EnvVars), len(got.Files))
		}
		for v := int32(1); v <= got.Version; v++ {
			old, err := s.GetAgentVersion(t.Context(), a.ID, v)
			if err != nil || len(old.AllowOut) != int(v)-1 {
				t.Errorf("version %d: %v %v", v, old.AllowOut, err)
			}
		}
		if n := store.CountRows(t, s, "files"); n != rounds {
			t.Errorf("%d contents", n)
		}
		page, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{})
		if err != nil || page.Rows[0].SessionCount != writers*rounds || page.Rows[0].Version != got.Version {
			t.Errorf("row %+v %v", page.Rows[0], err)
		}
	})
}

func TestASessionThatWaitedForAnUpdateGetsItsVersion(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := newAgent(t, s)
		locked, proceed, updated, created := make(chan struct{}), make(chan struct{}), make(chan error), make(chan error)
		go func() {
			_, err := s.UpdateAgent(t.Context(), a.ID, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
				close(locked)
				<-proceed
				current.IdleTimeoutMs = ptr(int64(77))
				return current.AgentConfig, nil
			})
			updated <- err
		}()
		<-locked
		sess := store.Session{AgentID: a.ID}
		go func() { created <- s.CreateSession(t.Context(), &sess, nil) }()
		for tick := time.NewTicker(time.Millisecond); !store.Waiting(t, s); {
			<-tick.C
		}
		close(proceed)
		check(t, <-updated)
		check(t, <-created)
		if sess.AgentVersion != 2 || sess.IdleTimeoutMs != 77 {
			t.Errorf("pinned to %d, timeout %d", sess.AgentVersion, sess.IdleTimeoutMs)
		}
	})
}

func TestADeletionMayBeRefusedByVersion(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, refusal := newAgent(t, s), errors.New("refused")
		_, err := s.UpdateAgent(t.Context(), a.ID, func(*store.Store, store.Agent) (store.AgentConfig, error) {
			return store.AgentConfig{Model: "x"}, nil
		})
		check(t, err)
		asked := func(answer error) func(int32) error {
			return func(version int32) error {
				if version != 2 {
					t.Errorf("asked for version %d", version)
				}
				return answer
			}
		}
		if err := s.MarkAgentDeleted(t.Context(), a.ID, asked(refusal)); !errors.Is(err, refusal) {
			t.Errorf("refused: %v", err)
		}
		if now, err := s.GetAgent(t.Context(), a.ID); err != nil || now.Version != 2 {
			t.Errorf("after the refusal: %+v %v", now, err)
		}
		check(t, s.MarkAgentDeleted(t.Context(), a.ID, asked(nil)))
		if _, err := s.GetAgent(t.Context(), a.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("after the deletion: %v", err)
		}
	})
}
