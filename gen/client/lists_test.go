package client_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// pages answers with pages of one row each, as many as it is told.
func pages(n int) []answer {
	var all []answer
	for i := 1; i <= n; i++ {
		next := "null"
		if i < n {
			next = fmt.Sprintf("%q", fmt.Sprint("cursor ", i))
		}
		all = append(all, says(http.StatusOK, fmt.Sprintf(`{"data":[{"id":"%d","info":{"id":"%d"}}],"total":null,"limit":1,"offset":0,"next_cursor":%s}`, i, i, next)))
	}
	return all
}

// ids ranges over a list, twice, and joins what is in it.
func ids[T any](t *testing.T, rows func(yield func(T, error) bool), id func(T) string) string {
	t.Helper()
	var got []string
	for row, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id(row))
	}
	return strings.Join(got, " ")
}

func TestListsGoOverAllPages(t *testing.T) {
	t.Parallel()
	for name, all := range map[string]func(*client.API) string{
		"agents": func(a *client.API) string {
			return ids(t, a.Agents(t.Context(), &client.ListAgentsParams{Search: new("x"), Offset: new(3)}), func(v client.Agent) string { return v.ID })
		},
		"sessions": func(a *client.API) string {
			return ids(t, a.Sessions(t.Context(), &client.ListSessionsParams{AgentID: new("x"), Offset: new(3)}), func(v client.Session) string { return v.ID })
		},
		"skills": func(a *client.API) string {
			return ids(t, a.Skills(t.Context(), &client.ListSkillsParams{Offset: new(3)}), func(v client.Skill) string { return v.ID })
		},
		"versions": func(a *client.API) string {
			return ids(t, a.SkillVersions(t.Context(), "x", &client.ListSkillVersionsParams{Offset: new(3)}), func(v client.Skill) string { return v.ID })
		},
		"messages": func(a *client.API) string {
			return ids(t, a.Messages(t.Context(), "x", &client.ListMessagesParams{Offset: new(3)}), func(v client.TranscriptMessage) string { return v.Info.ID })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, w := api(t, client.Options{}, pages(4)...)
			if got := all(a); got != "1 2 3 4" {
				t.Errorf("rows %s", got)
			}
			for i, r := range w.requests() {
				u, err := url.Parse(r.path)
				if err != nil {
					t.Fatal(err)
				}
				q := u.Query()
				if q.Get("limit") != "200" || q.Get("total") != "false" || (q.Get("offset") == "3") != (i == 0) || i > 0 && q.Get("cursor") != fmt.Sprint("cursor ", i) {
					t.Errorf("page %d: %s", i, r.path)
				}
			}
		})
	}
}

func TestAListStopsWhereItsReaderDoesAndTellsItsError(t *testing.T) {
	t.Parallel()
	a, w := api(t, client.Options{}, append(pages(3)[:2], refuses(http.StatusBadRequest, "invalid_request"))...)
	params := &client.ListAgentsParams{Limit: new(1), Total: new(true)}
	for first, err := range a.Agents(t.Context(), params) {
		if err != nil || first.ID != "1" {
			t.Errorf("%+v %v", first, err)
		}
		break
	}
	if seen := w.requests(); len(seen) != 1 || !strings.Contains(seen[0].path, "limit=1&total=true") {
		t.Errorf("%+v", seen)
	}
	var last error
	n := 0
	for _, err := range a.Agents(t.Context(), params) {
		last = err
		n++
	}
	if n != 2 || last == nil || params.Cursor != nil {
		t.Errorf("%d rows, %v, parameters %+v", n, last, params)
	}
}

func TestTheEventLogEnds(t *testing.T) {
	t.Parallel()
	page := func(more bool, next int, seqs ...int) answer {
		var data []string
		for _, n := range seqs {
			data = append(data, fmt.Sprintf(`{"type":"a","seq":%d,"turn_id":null,"time":"2026-11-23T10:00:00.000Z","data":{}}`, n))
		}
		return says(http.StatusOK, fmt.Sprintf(`{"data":[%s],"next_after":%d,"has_more":%t}`, strings.Join(data, ","), next, more))
	}
	a, w := api(t, client.Options{}, page(true, 5, 4, 5), page(false, 9, 8, 9))
	got := ids(t, a.EventLog(t.Context(), "s1", 3), func(e client.Event) string { return fmt.Sprint(e.Seq) })
	if seen := w.requests(); got != "4 5 8 9" || len(seen) != 2 || !strings.Contains(seen[0].path, "after=3&follow=false") || !strings.Contains(seen[1].path, "after=5&") {
		t.Errorf("events %s, %+v", got, seen)
	}
}

// Every list of the specification has an iterator, and every code of an error a constant.
func TestNothingOfTheSpecificationIsForgotten(t *testing.T) {
	t.Parallel()
	text, sources := read(t, "../../openapi/openapi.yaml"), read(t, "lists.go")+read(t, "errors.go")
	var spec map[string]any
	if err := yaml.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	if info, _ := spec["info"].(map[string]any); info["version"] != client.Version {
		t.Errorf("the specification has version %v, the client %s", info["version"], client.Version)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`Code = "([a-z_]+)"`).FindAllStringSubmatch(sources, -1) {
		known[m[1]] = true
		if !regexp.MustCompile("`" + m[1] + "`|code: " + m[1] + "\\b").MatchString(text) {
			t.Errorf("the specification does not know the code %s", m[1])
		}
	}
	lists, errs := 0, 0
	var visit func(v any)
	visit = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, inner := range v {
				visit(inner)
			}
		case map[string]any:
			if name, ok := v["operationId"].(string); ok && strings.Contains(fmt.Sprint(v["parameters"]), "/parameters/Cursor") {
				lists++
				if call := "a." + strings.ToUpper(name[:1]) + name[1:] + "(ctx"; !strings.Contains(sources, call) {
					t.Errorf("no iterator calls %s", call)
				}
			}
			if code, ok := v["code"].(string); ok && v["request_id"] != nil {
				errs++
				if !known[code] {
					t.Errorf("the code %s has no constant", code)
				}
			}
			for _, inner := range v {
				visit(inner)
			}
		}
	}
	visit(spec)
	if lists < 5 || errs < 15 {
		t.Errorf("%d lists, %d examples of errors", lists, errs)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
