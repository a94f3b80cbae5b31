package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

func (s *server) listNames(t *testing.T, query string) (names, next string) {
	t.Helper()
	resp, body, _ := s.call(t, http.MethodGet, agentsPath+"?"+query, "")
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %d %s", query, resp.StatusCode, body)
	}
	var list client.AgentList
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range list.Data {
		name, err := a.Name.Get()
		if err != nil {
			name = "-"
		}
		all = append(all, name)
	}
	next, _ = list.NextCursor.Get()
	return strings.Join(all, " "), next
}

func TestAgentsAreSortedFilteredAndSearched(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		ids := map[string]string{}
		for _, a := range []struct{ name, harness string }{{"b", "codex"}, {"-", "opencode"}, {"A", "codex"}, {"c_%", "claude-code"}} {
			body := fmt.Sprintf(`{"model":"m","name":%q,"harness_id":%q}`, a.name, a.harness)
			if a.name == "-" {
				body = `{"model":"m"}`
			}
			ids[a.name] = s.newAgent(t, body).ID
		}
		for range 2 {
			resp, err := s.client.CreateSessionWithResponse(t.Context(), ids["A"], nil, client.SessionCreate{})
			if err != nil || resp.JSON200 == nil {
				t.Fatalf("create session: %s, %v", resp.Body, err)
			}
		}
		for query, want := range map[string]string{
			"": "c_% A - b", "sort=created_at": "c_% A - b", "order=asc": "b - A c_%", "sort=created_at&order=desc": "c_% A - b",
			"sort=name&order=asc": "A b c_% -", "sort=name": "c_% b A -", "sort=name&order=asc&harness_id=codex": "A b",
			"sort=harness_id&order=asc": "c_% b A -", "sort=harness_id": "- A b c_%", "sort=sessions": "A c_% - b", "sort=sessions&order=asc": "b - c_% A",
			"harness_id=codex": "A b", "search=CODEX": "A b", "search=%25": "c_%", "search=_": "c_%", "search=b%25": "",
			"search=" + ids["-"]: "-", "search=" + strings.ToUpper(ids["-"]): "-", "search=": "c_% A - b", "search=code&harness_id=codex": "A b",
		} {
			if got, _ := s.listNames(t, query); got != want {
				t.Errorf("%s: %s, want %s", query, got, want)
			}
		}
		all := "A b c_% -"
		for _, filter := range []string{"", "&harness_id=codex"} {
			if filter != "" {
				all = "A b"
			}
			var pages []string
			for cursor := ""; ; {
				names, next := s.listNames(t, "sort=name&order=asc&limit=1"+filter+cursor)
				pages = append(pages, names)
				if cursor = "&cursor=" + next; next == "" {
					break
				}
			}
			if got := strings.Join(pages, " "); got != all {
				t.Errorf("by cursor%s: %s", filter, got)
			}
		}
	})
}

func TestACursorBelongsToItsOrder(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.newAgent(t, `{"model":"m"}`)
	s.newAgent(t, `{"model":"m"}`)
	orders := []string{"", "order=asc"}
	for _, sort := range []string{"name", "harness_id", "sessions"} {
		orders = append(orders, "sort="+sort, "sort="+sort+"&order=asc")
	}
	for _, made := range orders {
		_, cursor := s.listNames(t, made+"&limit=1")
		for _, asked := range orders {
			resp, _, e := s.call(t, http.MethodGet, agentsPath+"?"+asked+"&cursor="+cursor, "")
			if made != asked {
				refused(t, resp, e, 400, "invalid_request", "query/cursor")
			} else if resp.StatusCode != 200 {
				t.Errorf("%s: %d", asked, resp.StatusCode)
			}
		}
		if made != "" {
			resp, _, e := s.call(t, http.MethodGet, "/api/v1/managed_agents/sessions?cursor="+cursor, "")
			refused(t, resp, e, 400, "invalid_request", "query/cursor")
		}
	}
}

func TestBadOrdersAndSearchesAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t)
	for query, field := range map[string]string{
		"sort=id": "query/sort", "sort=NAME": "query/sort", "sort=": "query/sort", "sort=name&sort=name": "query/sort", "order=up": "query/order",
		"order=": "query/order", "harness_id=cursor": "query/harness_id", "search=%00": "query/search", "search=%ff": "query/search",
		"search=" + strings.Repeat("x", 257): "query/search", "sort=name%3BDROP+TABLE+agents": "query/sort",
	} {
		resp, _, e := s.call(t, http.MethodGet, agentsPath+"?"+query, "")
		refused(t, resp, e, 400, "invalid_request", field)
	}
	if names, _ := s.listNames(t, "search="+url.QueryEscape(strings.Repeat("𝄞", 256))); names != "" {
		t.Errorf("found %s", names)
	}
}

func TestCursorsOfTheLongestNamesAreTaken(t *testing.T) {
	t.Parallel()
	s := serve(t)
	// In JSON each takes six bytes; folded, the last has three characters for one.
	for _, char := range []string{"<", "\u2028", "𝒳", "ΐ"} {
		name := strings.Repeat(char, 256)
		for range 2 {
			body, err := json.Marshal(map[string]string{"model": "m", "name": name})
			if err != nil {
				t.Fatal(err)
			}
			s.newAgent(t, string(body))
		}
	}
	for query, pages := "sort=name&limit=1&total=false", 8; pages > 0; pages-- {
		_, next := s.listNames(t, query)
		if last := pages == 1; (next == "") != last {
			t.Fatalf("%d pages before the end: cursor %q", pages-1, next)
		}
		query = "sort=name&limit=1&total=false&cursor=" + url.QueryEscape(next)
	}
}

func TestAListHoldsLargeAgentsWhole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, s *server) {
		prompts := []string{"small", strings.Repeat("p", 1<<20), strings.Repeat("q", 70_000)}
		for _, p := range prompts {
			s.newAgent(t, fmt.Sprintf(`{"model":"m","prompt":%q,"env_vars":{"A":"b"}}`, p))
		}
		resp, err := s.client.ListAgentsWithResponse(t.Context(), nil)
		if err != nil || resp.JSON200 == nil || len(resp.JSON200.Data) != len(prompts) {
			t.Fatalf("%d, %v", resp.StatusCode(), err)
		}
		for i, a := range resp.JSON200.Data {
			if got, _ := a.Prompt.Get(); got != prompts[len(prompts)-1-i] || a.EnvVars["A"] != "********" || a.SessionCount == nil || a.HasActiveSession == nil {
				t.Errorf("row %d: a prompt of %d bytes, %v", i, len(got), a.EnvVars)
			}
		}
	})
}
