package store_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/cases"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var awkwardNames = []*string{
	nil, nil, ptr(""), ptr("a"), ptr("A"), ptr("b"), ptr("B "), ptr("Straße"), ptr("STRASSE"), ptr("strasse"), ptr("ſ"), ptr("ı"), ptr("İ"),
	ptr("Σ"), ptr("ς"), ptr("É"), ptr("e\u0301"), ptr("Ω"), ptr("\u2126"), ptr("ﬃ"), ptr("𝄞"), ptr("\uffff"), ptr("日本"), ptr("0"), ptr("1"),
	ptr("2"), ptr("~"), ptr(" "), ptr("a_b"), ptr("a%b"), ptr(`a\b`), ptr("a\tb"), ptr(strings.Repeat("ΐ", 256)),
}

// randomAgents creates agents with many ties and deletes some of them.
func randomAgents(t *testing.T, s *store.Store, r *rand.Rand, n int) {
	t.Helper()
	for i := range n {
		a := store.Agent{HarnessID: []string{"opencode", "codex", "claude-code"}[r.IntN(3)], AgentConfig: store.AgentConfig{
			Model: fmt.Sprint(i), Name: awkwardNames[r.IntN(len(awkwardNames))],
		}}
		check(t, s.CreateAgent(t.Context(), &a))
		check(t, store.Exec(t, s, "UPDATE agents SET session_count = ?, created_at = ? WHERE id = ?", r.IntN(4), 1000+r.IntN(9), a.ID))
		if r.IntN(10) == 0 {
			check(t, s.MarkAgentDeleted(t.Context(), a.ID, nil))
		}
	}
}

// compareAgents is the order of a query, told in another way than the store's.
func compareAgents(q store.AgentQuery) func(a, b store.AgentRow) int {
	fold := func(p *string) string { return cases.Fold().String(*p) }
	return func(a, b store.AgentRow) int {
		if q.Sort == store.ByName && (a.Name == nil) != (b.Name == nil) {
			if a.Name == nil {
				return 1
			}
			return -1
		}
		var c int
		switch q.Sort {
		case store.ByName:
			if a.Name != nil {
				c = strings.Compare(fold(a.Name), fold(b.Name))
			}
		case store.ByHarness:
			c = strings.Compare(a.HarnessID, b.HarnessID)
		case store.BySessions:
			c = cmp.Compare(a.SessionCount, b.SessionCount)
		default:
			c = a.CreatedAt.Compare(b.CreatedAt)
		}
		if c = cmp.Or(c, strings.Compare(a.ID, b.ID)); !q.Asc {
			c = -c
		}
		return c
	}
}

func TestAgentsComeInTheOrderThatWasAskedFor(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		randomAgents(t, s, rand.New(rand.NewPCG(1, 2)), 150)
		all, err := s.ListAgents(t.Context(), store.AgentQuery{}, store.PageRequest{Limit: 1000, Total: true})
		check(t, err)
		if len(all.Rows) < 100 || len(all.Rows) == 150 || int64(len(all.Rows)) != *all.Total {
			t.Fatalf("%d agents", len(all.Rows))
		}
		for _, q := range everyOrder() {
			want := slices.DeleteFunc(slices.Clone(all.Rows), func(r store.AgentRow) bool { return q.HarnessID != "" && r.HarnessID != q.HarnessID })
			slices.SortFunc(want, compareAgents(q))
			got, err := s.ListAgents(t.Context(), q, store.PageRequest{Limit: 1000, Total: true})
			check(t, err)
			if !reflect.DeepEqual(got.Rows, want) || *got.Total != int64(len(want)) || got.Next != nil {
				t.Errorf("%+v: got\n%v\nwant\n%v", q, names(got.Rows), names(want))
			}
			skipped, err := s.ListAgents(t.Context(), q, store.PageRequest{Limit: 5, Offset: 7})
			check(t, err)
			if !reflect.DeepEqual(skipped.Rows, want[7:12]) {
				t.Errorf("%+v by offset: got %v", q, names(skipped.Rows))
			}
		}
	})
}

func names(rows []store.AgentRow) (list []string) {
	for _, r := range rows {
		name := "-"
		if r.Name != nil {
			name = fmt.Sprintf("%q", *r.Name)
		}
		list = append(list, fmt.Sprint(r.Model, name, r.HarnessID, r.SessionCount, r.CreatedAt.UnixMilli()))
	}
	return list
}

func TestPagesByKeyAreTheListWhileAgentsAreAdded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		r := rand.New(rand.NewPCG(3, 4))
		randomAgents(t, s, r, 80)
		for _, q := range everyOrder() {
			whole, err := s.ListAgents(t.Context(), q, store.PageRequest{Limit: 2000})
			check(t, err)
			var got []string
			for p := (store.PageRequest{}); ; {
				p.Limit = 1 + r.IntN(30)
				page, err := s.ListAgents(t.Context(), q, p)
				check(t, err)
				for _, row := range page.Rows {
					got = append(got, row.ID)
				}
				if p.After = page.Next; p.After == nil {
					break
				}
				if !q.Holds(*p.After) {
					t.Fatalf("%+v does not hold its own key %+v", q, *p.After)
				}
				randomAgents(t, s, r, 1)
			}
			old := map[string]bool{}
			for _, row := range whole.Rows {
				old[row.ID] = true
			}
			got = slices.DeleteFunc(got, func(id string) bool { return !old[id] })
			if len(got) != len(whole.Rows) {
				t.Fatalf("%+v: %d of %d rows", q, len(got), len(whole.Rows))
			}
			for i, row := range whole.Rows {
				if got[i] != row.ID {
					t.Fatalf("%+v: row %d is another one", q, i)
				}
			}
		}
	})
}

func TestAKeyBelongsToItsOrderWhateverIsFiltered(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		randomAgents(t, s, rand.New(rand.NewPCG(5, 6)), 40)
		keys, lists := map[store.AgentQuery]store.Key{}, map[store.AgentQuery][]store.AgentRow{}
		for _, q := range everyOrder() {
			page, err := s.ListAgents(t.Context(), q, store.PageRequest{Limit: 5})
			check(t, err)
			all, err := s.ListAgents(t.Context(), q, store.PageRequest{Limit: 1000})
			check(t, err)
			keys[q], lists[q] = *page.Next, all.Rows
		}
		for made, key := range keys {
			for q, all := range lists {
				page, err := s.ListAgents(t.Context(), q, store.PageRequest{After: &key, Limit: 1000})
				same := q.Sort == made.Sort && q.Asc == made.Asc
				if same != q.Holds(key) || same != (err == nil) {
					t.Errorf("key of %+v in %+v: %v", made, q, err)
				}
				beyond := slices.DeleteFunc(slices.Clone(all), func(r store.AgentRow) bool { return compareAgents(q)(lists[made][4], r) >= 0 })
				if same && !slices.Equal(names(page.Rows), names(beyond)) {
					t.Errorf("after a key of %+v in %+v come %v", made, q, names(page.Rows))
				}
			}
		}
		for _, k := range []store.Key{{Order: "sessions desc", Value: "x"}, {Order: "name desc", Value: "1\x00"}, {Value: "1"}} {
			for q := range keys {
				if q.Holds(k) {
					t.Errorf("%+v holds %+v", q, k)
				}
			}
		}
		ill := store.Key{Order: "name desc", Value: "1a", ID: "x"}
		if _, err := s.ListAgents(t.Context(), store.AgentQuery{Sort: store.ByName}, store.PageRequest{After: &ill}); err != nil {
			t.Errorf("an ill-formed id: %v", err)
		}
	})
}

func TestSearchFindsTextInNameIDAndHarness(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		ids := map[string]string{}
		for name, harness := range map[string]string{
			"Code Reviewer": "opencode", "100% done": "codex", "snake_case": "codex", `back\slash`: "codex", "STRASSE": "codex", "Ünder": "codex", "": "codex",
		} {
			a := store.Agent{HarnessID: harness, AgentConfig: store.AgentConfig{Name: &name}}
			check(t, s.CreateAgent(t.Context(), &a))
			ids[name] = a.ID
		}
		nameless := store.Agent{HarnessID: "claude-code"}
		check(t, s.CreateAgent(t.Context(), &nameless))
		deleted := store.Agent{HarnessID: "codex", AgentConfig: store.AgentConfig{Name: ptr("gone")}}
		check(t, s.CreateAgent(t.Context(), &deleted))
		check(t, s.MarkAgentDeleted(t.Context(), deleted.ID, nil))
		for search, want := range map[string]int{
			"": 8, "review": 1, "REVIEW": 1, "%": 1, "_": 1, `\`: 1, "0% d": 1, "%done": 0, "e_c": 1, "k_s": 0, `k\s`: 1, "straße": 1, "Straß": 1,
			"üND": 1, "under": 0, "opencode": 1, "CLAUDE": 1, "code ": 1, "code reviewer": 1, "gone": 0, "'": 0, `"`: 0, "--": 0,
			"'; DROP TABLE agents": 0, ids["STRASSE"]: 1, strings.ToUpper(nameless.ID[20:]): 1, "no such": 0, "e d": 0,
			"1100%": 0, "1snake": 0,
		} {
			page, err := s.ListAgents(t.Context(), store.AgentQuery{Search: search}, store.PageRequest{Total: true})
			check(t, err)
			if len(page.Rows) != want || *page.Total != int64(want) {
				t.Errorf("%q: %v, total %d, want %d", search, names(page.Rows), *page.Total, want)
			}
		}
		page, err := s.ListAgents(t.Context(), store.AgentQuery{Search: "code", HarnessID: "opencode", Sort: store.ByName, Asc: true}, store.PageRequest{})
		check(t, err)
		if len(page.Rows) != 1 || page.Rows[0].ID != ids["Code Reviewer"] {
			t.Errorf("with a harness: %v", names(page.Rows))
		}
	})
}

func TestNamesAreSortedAsTheyAreNow(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		first := store.Agent{AgentConfig: store.AgentConfig{Name: ptr("b")}}
		check(t, s.CreateAgent(t.Context(), &first))
		second := store.Agent{AgentConfig: store.AgentConfig{Name: ptr("C")}}
		check(t, s.CreateAgent(t.Context(), &second))
		for _, step := range []struct {
			name     *string
			up, down string
		}{{ptr("D"), second.ID, first.ID}, {ptr("a"), first.ID, second.ID}, {nil, second.ID, second.ID}} {
			_, err := s.UpdateAgent(t.Context(), first.ID, func(_ *store.Store, current store.Agent) (store.AgentConfig, error) {
				current.Name = step.name
				return current.AgentConfig, nil
			})
			check(t, err)
			for asc, want := range map[bool]string{true: step.up, false: step.down} {
				page, err := s.ListAgents(t.Context(), store.AgentQuery{Sort: store.ByName, Asc: asc}, store.PageRequest{})
				check(t, err)
				if page.Rows[0].ID != want {
					t.Errorf("ascending %v: %v", asc, names(page.Rows))
				}
			}
			page, err := s.ListAgents(t.Context(), store.AgentQuery{Search: "B"}, store.PageRequest{})
			check(t, err)
			for _, row := range page.Rows {
				if !strings.Contains(row.ID, "b") {
					t.Errorf("found by a former name: %v", names(page.Rows))
				}
			}
		}
	})
}
