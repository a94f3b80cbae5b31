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

// page asks for one page of a list.
type page func(limit int, cursor *string) (*http.Response, error)

// rows collects rows of a list, page by page, until there are enough. More tells whether there are others.
func rows(ctx context.Context, limit int, ask page) (got []json.RawMessage, more bool, err error) {
	var cursor *string
	for {
		list, err := into[struct {
			Data       []json.RawMessage `json:"data"`
			NextCursor *string           `json:"next_cursor"`
		}](ask(min(pageSize, limit-len(got)), cursor))
		if err != nil {
			return nil, false, err
		}
		got = append(got, list.Data...)
		if list.NextCursor == nil || len(got) >= limit || ctx.Err() != nil {
			return got, list.NextCursor != nil, ctx.Err()
		}
		cursor = list.NextCursor
	}
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

// show prints a list as a table, or as JSON.
func show[T any](ctx context.Context, s *shell, l lister, ask page, header []string, cells func(T) []string) error {
	if *l.count < 1 {
		return usageError("-n must be at least 1")
	}
	raw, more, err := rows(ctx, *l.count, ask)
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
		return show(ctx, s, l, agentPages(ctx, api, *search), []string{"ID", "NAME", "HARNESS", "MODEL", "SESSIONS", "CREATED"},
			func(a client.Agent) []string {
				sessions := "-"
				if a.SessionCount != nil {
					sessions = strconv.FormatInt(*a.SessionCount, 10)
				}
				return []string{a.ID, text(a.Name), string(a.HarnessID), a.Model, sessions, when(a.CreatedAt)}
			})
	}
}

func agentPages(ctx context.Context, api *client.Client, search string) page {
	uncounted := false
	params := client.ListAgentsParams{Total: &uncounted}
	if search != "" {
		params.Search = &search
	}
	return func(limit int, cursor *string) (*http.Response, error) {
		params.Limit, params.Cursor = &limit, cursor
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
		uncounted := false
		ask := func(limit int, cursor *string) (*http.Response, error) {
			return api.ListSkills(ctx, &client.ListSkillsParams{Limit: &limit, Cursor: cursor, Total: &uncounted})
		}
		return show(ctx, s, l, ask, []string{"ID", "NAME", "VERSION", "UPDATED", "DESCRIPTION"}, func(k client.Skill) []string {
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
		return show(ctx, s, l, sessionPages(ctx, api, only), []string{"ID", "STATUS", "SANDBOX", "TURNS", "LAST SEEN", "TITLE"},
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

func sessionPages(ctx context.Context, api *client.Client, params client.ListSessionsParams) page {
	uncounted := false
	params.Total = &uncounted
	return func(limit int, cursor *string) (*http.Response, error) {
		params.Limit, params.Cursor = &limit, cursor
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
