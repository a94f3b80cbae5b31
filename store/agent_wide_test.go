package store_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestAPageLeavesOutLargeConfigurations(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		large, entries := strings.Repeat("p", 65_537), make([]string, 160)
		for i := range entries {
			entries[i] = strings.Repeat("a", 500)
		}
		agents := []store.AgentConfig{
			{Model: "prompt", Prompt: &large},
			{Model: "requirements", Requirements: &large},
			{Model: "environment", EnvVars: map[string]string{"A": large}},
			{Model: "small", Prompt: ptr(large[:65_536])},
			{Model: "lists", AllowOut: entries},
		}
		for _, c := range agents {
			check(t, s.CreateAgent(t.Context(), &store.Agent{HarnessID: "opencode", AgentConfig: c}))
		}
		for _, q := range everyOrder() {
			page, err := s.ListAgents(t.Context(), q, store.PageRequest{})
			check(t, err)
			if q.HarnessID == "" && len(page.Rows) != len(agents) {
				t.Fatalf("%+v: %d rows", q, len(page.Rows))
			}
			for _, row := range page.Rows {
				whole, err := s.GetAgentVersion(t.Context(), row.ID, row.Version)
				check(t, err)
				if want := whole.Model != "small" && whole.Model != "lists"; row.Wide != want {
					t.Errorf("%s: wide is %t", whole.Model, row.Wide)
				}
				if row.Wide {
					whole = store.Agent{ID: whole.ID, Version: whole.Version, HarnessID: whole.HarnessID, CreatedAt: whole.CreatedAt}
				}
				if !reflect.DeepEqual(row.Agent, whole) {
					t.Errorf("%s: the list and the version differ", whole.Model)
				}
			}
		}
		// Small ones are bounded in sum.
		for range 110 {
			check(t, s.CreateAgent(t.Context(), &store.Agent{HarnessID: "opencode", AgentConfig: agents[len(agents)-1]}))
		}
		page, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{Limit: 110})
		check(t, err)
		if len(page.Rows) != 110 || page.Rows[100].Wide || !page.Rows[109].Wide {
			t.Errorf("%d rows, of which the last are held whole", len(page.Rows))
		}
	})
}
