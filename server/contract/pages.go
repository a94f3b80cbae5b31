package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// listed is how many objects are made for a list whose pages are checked.
const listed = 5

// pages checks lists that only this run has changed: agents of a name of its own, and the versions of a skill of its own. Read page by
// page, by cursor and by offset, they must have each row once, in order, and the right total.
func (r *runner) pages(ctx context.Context) error {
	name := "pages-" + strings.TrimSuffix(r.run, ".")
	var agents []string
	for range listed {
		x, err := r.make(ctx, "createAgent", "/api/v1/managed_agents/agents", map[string]any{"model": "m", "name": name}, http.StatusOK)
		if err != nil {
			return err
		}
		agents = append(agents, fmt.Sprint(field(x.Body, "id")))
	}
	slices.Reverse(agents) // newest first
	x, err := r.make(ctx, "createSkill", "/api/v1/skills", map[string]any{"name": "pages", "content": "0"}, http.StatusCreated)
	if err != nil {
		return err
	}
	skill := "/api/v1/skills/" + fmt.Sprint(field(x.Body, "id"))
	versions := []string{"1"}
	for n := 1; n < listed; n++ {
		q := r.request(http.MethodPatch, skill, map[string]any{"content": fmt.Sprint(n)})
		if x, _, err = r.send(ctx, q); err != nil {
			return err
		}
		versions = append([]string{fmt.Sprint(field(x.Body, "version"))}, versions...)
	}
	if err := r.list(ctx, "listAgents", "/api/v1/managed_agents/agents?search="+url.QueryEscape(name)+"&", "id", agents); err != nil {
		return err
	}
	return r.list(ctx, "listSkillVersions", skill+"/versions?", "version", versions)
}

func (r *runner) request(method, path string, body any) *Request {
	q := &Request{Method: method, Path: path, Header: http.Header{"Authorization": {"Bearer " + r.o.Key}}, IDs: map[string]string{}}
	if body != nil {
		q.Body, _ = json.Marshal(body)
		q.Header.Set("Content-Type", "application/json")
	}
	return q
}

// make creates an object, which is deleted in the end.
func (r *runner) make(ctx context.Context, operation, path string, body any, status int) (*Exchange, error) {
	q := r.request(http.MethodPost, path, body)
	q.Operation = operation
	x, _, err := r.send(ctx, q)
	if err != nil {
		return nil, err
	}
	if x.Status != status {
		return nil, fmt.Errorf("%s: answered %d %s", operation, x.Status, first(x.Body, 500))
	}
	r.remember(x)
	return x, nil
}

// list reads a list both ways and reports how it is not the wanted one.
func (r *runner) list(ctx context.Context, operation, path, key string, want []string) error {
	c := &Case{Operation: operation, Kind: "pages"}
	r.report.Cases = append(r.report.Cases, c)
	for _, byCursor := range []bool{true, false} {
		var rows []string
		next, wrong := "", []string(nil)
		for page := 0; page <= len(want); page++ {
			at := fmt.Sprintf("limit=2&offset=%d", 2*page)
			if byCursor && next != "" {
				at = "limit=2&cursor=" + url.QueryEscape(next)
			}
			x, bad, err := r.send(ctx, r.request(http.MethodGet, path+at, nil))
			if err != nil {
				return err
			}
			c.Requests++
			var got struct {
				Data       []map[string]any
				Total      int
				NextCursor string `json:"next_cursor"`
			}
			if wrong = append(wrong, bad...); json.Unmarshal(x.Body, &got) != nil || x.Status != http.StatusOK {
				wrong = append(wrong, fmt.Sprintf("page %d is answered %d", page+1, x.Status))
				break
			}
			if got.Total != len(want) {
				wrong = append(wrong, fmt.Sprintf("the total of page %d is %d, there are %d rows", page+1, got.Total, len(want)))
			}
			for _, row := range got.Data {
				rows = append(rows, fmt.Sprint(row[key]))
			}
			if next = got.NextCursor; byCursor && next == "" || len(got.Data) == 0 {
				break
			}
		}
		if !slices.Equal(rows, want) {
			wrong = append(wrong, fmt.Sprintf("the pages have the rows %q, want %q", rows, want))
		}
		if len(wrong) > 0 {
			c.Faults++
			c.Wrong = append(c.Wrong, fmt.Sprintf("GET %s, by cursor: %t\n- %s", path, byCursor, strings.Join(wrong, "\n- ")))
		}
	}
	return nil
}
