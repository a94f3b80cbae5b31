package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	pageSize     = 200
	defaultCount = 100
)

// page asks for the page of a list at a cursor.
type page func(cursor *string) (*http.Response, error)

// rows collects rows of a list until there are enough. More tells whether there are others.
func rows(limit int, ask page) (got []json.RawMessage, more bool, err error) {
	for row, err := range client.Rows[json.RawMessage](ask) {
		switch {
		case err != nil:
			return nil, false, explained(err)
		case len(got) == limit:
			return got, true, nil
		}
		got = append(got, row)
	}
	return got, false, nil
}

func decoded[T any](raw []json.RawMessage) ([]T, error) {
	all := make([]T, len(raw))
	for i, r := range raw {
		if err := json.Unmarshal(r, &all[i]); err != nil {
			return nil, fmt.Errorf("row %d of the server's answer is not one of LAP", i+1)
		}
	}
	return all, nil
}

// lister is what the commands that list have in common.
type lister struct {
	json  *bool
	count *int
}

func listFlags(flags *flag.FlagSet) lister {
	return lister{
		flags.Bool("json", false, "print a JSON array of what the API returns"),
		flags.Int("n", defaultCount, "print at most so many"),
	}
}

// pageSize is enough to tell whether there are more.
func (l lister) pageSize() int { return min(pageSize, *l.count+1) }

// show prints a list as a table, or as JSON.
func show[T any](s *shell, l lister, ask page, header []string, cells func(T) []string) error {
	if *l.count < 1 {
		return usageError("-n must be at least 1")
	}
	raw, more, err := rows(*l.count, ask)
	if err != nil {
		return err
	}
	if *l.json {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(append([]json.RawMessage{}, raw...))
	}
	all, err := decoded[T](raw)
	if err != nil {
		return err
	}
	t := table{header}
	for _, row := range all {
		t = append(t, cells(row))
	}
	t.print(s.out)
	if more {
		s.say("There are more: -n %d", 10**l.count)
	}
	return nil
}

func listAgents(flags *flag.FlagSet) action {
	l := listFlags(flags)
	search := flags.String("search", "", "only agents with this text in name, id or harness")
	return func(ctx context.Context, s *shell, _ []string) error {
		api, err := s.api()
		if err != nil {
			return err
		}
		return show(s, l, agentPages(ctx, api, *search, l.pageSize()), []string{"ID", "NAME", "HARNESS", "MODEL", "SESSIONS", "CREATED"},
			func(a client.Agent) []string {
				sessions := "-"
				if a.SessionCount != nil {
					sessions = strconv.FormatInt(*a.SessionCount, 10)
				}
				return []string{a.ID, text(a.Name), string(a.HarnessID), a.Model, sessions, when(a.CreatedAt)}
			})
	}
}

func agentPages(ctx context.Context, api *client.API, search string, limit int) page {
	params := client.ListAgentsParams{Total: new(false), Limit: &limit}
	if search != "" {
		params.Search = &search
	}
	return func(cursor *string) (*http.Response, error) {
		params.Cursor = cursor
		return api.ListAgents(ctx, &params)
	}
}

func listSkills(flags *flag.FlagSet) action {
	l := listFlags(flags)
	return func(ctx context.Context, s *shell, _ []string) error {
		api, err := s.api()
		if err != nil {
			return err
		}
		limit := l.pageSize()
		ask := func(cursor *string) (*http.Response, error) {
			return api.ListSkills(ctx, &client.ListSkillsParams{Limit: &limit, Cursor: cursor, Total: new(false)})
		}
		return show(s, l, ask, []string{"ID", "NAME", "VERSION", "UPDATED", "DESCRIPTION"}, func(k client.Skill) []string {
			return []string{k.ID, k.Name, strconv.Itoa(int(k.Version)), when(k.UpdatedAt), text(k.Description)}
		})
	}
}

func listSessions(flags *flag.FlagSet) action {
	l := listFlags(flags)
	agent := flags.String("agent", "", "only sessions of this `agent`: name, id or start of an id")
	status := flags.String("status", "", "only sessions with this `status`: creating, ready, failed or dead")
	return func(ctx context.Context, s *shell, _ []string) error {
		api, err := s.api()
		if err != nil {
			return err
		}
		var only client.ListSessionsParams
		if *agent != "" {
			a, err := findAgent(ctx, api, *agent)
			if err != nil {
				return err
			}
			only.AgentID = &a.ID
		}
		if *status != "" {
			only.Status = (*client.SessionStatus)(status)
		}
		return show(s, l, sessionPages(ctx, api, only, l.pageSize()), []string{"ID", "STATUS", "SANDBOX", "TURNS", "LAST SEEN", "TITLE"},
			func(v client.Session) []string {
				seen, err := v.LastSeenAt.Get()
				last := "-"
				if err == nil {
					last = when(seen)
				}
				return []string{v.ID, string(v.Status), v.SandboxState, strconv.FormatInt(v.TurnCount, 10), last, titleOf(v)}
			})
	}
}

func sessionPages(ctx context.Context, api *client.API, params client.ListSessionsParams, limit int) page {
	params.Total, params.Limit = new(false), &limit
	return func(cursor *string) (*http.Response, error) {
		params.Cursor = cursor
		return api.ListSessions(ctx, &params)
	}
}

func titleOf(v client.Session) string {
	return cmp.Or(orEmpty(v.Title), text(v.TitlePreview))
}

// text is a cell for a field that may be null.
func text(v nullable.Nullable[string]) string { return cmp.Or(orEmpty(v), "-") }

func orEmpty(v nullable.Nullable[string]) string {
	s, _ := v.Get()
	return s
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }
