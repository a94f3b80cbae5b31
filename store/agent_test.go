package store_test

import (
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

func TestAgentComesBackAsItWasCreated(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{
			Model: "gpt", Name: ptr("n"), Prompt: ptr("p\n"), Requirements: ptr("r"), RepoURL: ptr("https://x/y"),
			Branch: ptr("b"), PfpURL: ptr("https://p"), MCPServers: []string{"https://m"}, AllowOut: []string{"a", "b"},
			DenyOut: []string{"c"}, Skills: []store.AttachedSkill{{ID: "s", Name: "n"}}, EnvVars: map[string]string{"K": "v", "É": "<&>\u2028"},
			Files: []store.File{
				{Name: "f", Path: "/tmp/f", ContentType: "t", Content: []byte("\x00bytes")},
				{Name: "empty", Path: "/tmp/e", ContentType: "t"},
			},
			IdleTimeoutMs: ptr(int64(60000)),
		}}
		check(t, s.CreateAgent(t.Context(), &a))
		if a.Version != 1 || a.Files[0].Size != 6 || a.CreatedAt != a.CreatedAt.UTC().Truncate(time.Millisecond) {
			t.Fatalf("not filled: %+v", a)
		}
		got, err := s.GetAgent(t.Context(), a.ID)
		check(t, err)
		check(t, s.FileContents(t.Context(), got.Files))
		a.Files[1].Content = []byte{}
		if !reflect.DeepEqual(got, a) {
			t.Fatalf("got  %+v\nwant %+v", got, a)
		}
	})
}

func TestAgentWithOnlyAModelHasEmptyListsAndNoText(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		got, err := s.GetAgent(t.Context(), newAgent(t, s).ID)
		check(t, err)
		if got.Name != nil || got.Branch != nil || got.IdleTimeoutMs != nil {
			t.Fatalf("%+v", got)
		}
		if got.MCPServers == nil || got.AllowOut == nil || got.DenyOut == nil || got.Skills == nil || got.EnvVars == nil || got.Files == nil {
			t.Fatalf("nil list or map: %+v", got)
		}
	})
}

func TestFileBytesAreStoredOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		const rounds, writers = 10, 8
		for round := range rounds {
			content := [][]byte{fmt.Append(nil, "x", round), fmt.Append(nil, "y", round)}
			var wg sync.WaitGroup
			for i := range writers { // half of them in the other order: they must not wait for each other
				wg.Go(func() {
					a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{
						Files: []store.File{{Name: "1", Content: content[i%2]}, {Name: "2", Content: content[(i+1)%2]}},
					}}
					if err := s.CreateAgent(t.Context(), &a); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		if n := store.CountRows(t, s, "files"); n != 2*rounds {
			t.Fatalf("%d rows", n)
		}
	})
}

func TestFileKnownByItsDigestKeepsItsBytes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		first := store.Agent{AgentConfig: store.AgentConfig{Files: []store.File{{Name: "f", Content: []byte("bytes")}}}}
		check(t, s.CreateAgent(t.Context(), &first))
		second := store.Agent{AgentConfig: store.AgentConfig{Files: []store.File{{Name: "g", SHA256: first.Files[0].SHA256, Size: 5}}}}
		check(t, s.CreateAgent(t.Context(), &second))
		check(t, s.FileContents(t.Context(), second.Files))
		if string(second.Files[0].Content) != "bytes" {
			t.Fatalf("got %q", second.Files[0].Content)
		}
		missing := store.Agent{AgentConfig: store.AgentConfig{Files: []store.File{{Name: "g", SHA256: strings.Repeat("0", 64)}}}}
		if err := s.CreateAgent(t.Context(), &missing); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("unknown digest: %v", err)
		}
		if n := store.CountRows(t, s, "agents"); n != 2 {
			t.Fatalf("a refused create left %d agents", n)
		}
		if err := s.FileContents(t.Context(), []store.File{{SHA256: "x"}}); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("contents of nothing: %v", err)
		}
	})
}

func TestDeletedAgentIsGoneButItsVersionStays(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a := newAgent(t, s)
		check(t, s.MarkAgentDeleted(t.Context(), a.ID, nil))
		if _, err := s.GetAgent(t.Context(), a.ID); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("get: %v", err)
		}
		if err := s.MarkAgentDeleted(t.Context(), a.ID, nil); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("delete again: %v", err)
		}
		page, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{Total: true})
		check(t, err)
		if len(page.Rows) != 0 || *page.Total != 0 {
			t.Fatalf("listed: %+v", page)
		}
		if v, err := s.GetAgentVersion(t.Context(), a.ID, 1); err != nil || v.ID != a.ID {
			t.Fatalf("version: %+v %v", v, err)
		}
		if _, err := s.GetAgentVersion(t.Context(), a.ID, 2); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("unknown version: %v", err)
		}
	})
}

func TestIllFormedIDsAreNotFound(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		sess := newSession(t, s)
		for _, id := range []string{"", "x", "a\x00b", strings.ToUpper(sess.ID), "{" + sess.ID + "}", sess.ID + " ", strings.ReplaceAll(sess.ID, "-", "")} {
			_, a := s.GetAgent(t.Context(), id)
			_, v := s.GetAgentVersion(t.Context(), id, 1)
			_, g := s.GetSession(t.Context(), id)
			_, u := s.GetTurn(t.Context(), id, sess.ID)
			_, w := s.GetTurn(t.Context(), sess.ID, id)
			_, e := s.Events(t.Context(), id, 0, 1)
			for i, err := range []error{
				a, v, g, u, w, e, s.MarkAgentDeleted(t.Context(), id, nil),
				s.Session(t.Context(), id, func(*store.SessionTx) error { return nil }),
				s.CreateSession(t.Context(), &store.Session{AgentID: id}, nil),
			} {
				if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("%q, call %d: %v", id, i, err)
				}
			}
			if ids, err := s.LiveSessionsOfAgent(t.Context(), id); err != nil || len(ids) != 0 {
				t.Errorf("%q: %v %v", id, ids, err)
			}
			if page, err := s.ListSessions(t.Context(), store.SessionFilter{AgentID: id}, store.PageRequest{}); id != "" && (err != nil || len(page.Rows) != 0) {
				t.Errorf("%q: %v %v", id, page, err)
			}
		}
	})
}

func TestListAgentsPagesByKeyWhileAgentsAreAdded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		want := map[string]bool{}
		for range 25 {
			want[newAgent(t, s).ID] = true
		}
		var last *store.Key
		seen := 0
		for p := (store.PageRequest{Limit: 10, Total: true}); ; p.After = last {
			page, err := s.ListAgents(t.Context(), store.AgentQuery{}, p)
			check(t, err)
			if *page.Total < 25 {
				t.Fatalf("total %d", *page.Total)
			}
			for _, row := range page.Rows {
				if !want[row.ID] {
					t.Fatalf("%s came twice or is new", row.ID)
				}
				delete(want, row.ID)
				seen++
			}
			if last = page.Next; last == nil {
				break
			}
			newAgent(t, s)
		}
		if seen != 25 || len(want) != 0 {
			t.Fatalf("saw %d, missed %d", seen, len(want))
		}
	})
}

func TestListOrderIsNewestFirstAndTotal(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		for range 12 {
			newSession(t, s)
		}
		all, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{Limit: 100})
		check(t, err)
		if all.Next != nil || all.Total != nil || len(all.Rows) != 12 {
			t.Fatalf("%d rows, next %v, total %v", len(all.Rows), all.Next, all.Total)
		}
		for i, row := range all.Rows[1:] {
			prev := all.Rows[i]
			if row.CreatedAt.After(prev.CreatedAt) || row.CreatedAt.Equal(prev.CreatedAt) && row.ID > prev.ID {
				t.Fatalf("row %d is out of order", i+1)
			}
		}
		part, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{Limit: 3, Offset: 4})
		check(t, err)
		if !reflect.DeepEqual(part.Rows, all.Rows[4:7]) {
			t.Fatal("offset gives other rows")
		}
		sessions, err := s.ListSessions(t.Context(), store.SessionFilter{}, store.PageRequest{Limit: 12})
		check(t, err)
		if len(sessions.Rows) != 12 || sessions.Next != nil {
			t.Fatalf("a full last page: %d rows, next %v", len(sessions.Rows), sessions.Next)
		}
	})
}

func TestListAgentsCountsSessions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		a, idle := newAgent(t, s), newAgent(t, s)
		var live []string
		for i, status := range []string{"creating", "ready", "dead", "failed"} {
			sess := store.Session{AgentID: a.ID, Status: status, Title: ptr(fmt.Sprint(i))}
			check(t, s.CreateSession(t.Context(), &sess, nil))
			if i < 2 {
				live = append(live, sess.ID)
			}
		}
		check(t, s.CreateSession(t.Context(), &store.Session{AgentID: idle.ID, Status: "dead"}, nil))
		page, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{})
		check(t, err)
		for _, row := range page.Rows {
			if n, active := row.SessionCount, row.HasActive; (row.ID == a.ID) != (n == 4) || (row.ID == a.ID) != active {
				t.Fatalf("agent %s: %d sessions, active %v", row.ID, n, active)
			}
		}
		got, err := s.LiveSessionsOfAgent(t.Context(), a.ID)
		check(t, err)
		if !reflect.DeepEqual(got, live) {
			t.Fatalf("live: %v, want %v", got, live)
		}
	})
}
