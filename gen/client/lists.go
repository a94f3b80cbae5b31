package client

import (
	"context"
	"iter"
	"net/http"

	"github.com/oapi-codegen/nullable"
)

// The most rows of a page and events of a page.
const (
	maxPage      = 200
	maxEventPage = 1000
)

// Rows yields the rows of a list, page by page. Ask asks for the page at a cursor, nil for the first. An error is the last thing
// yielded.
func Rows[T any](ask func(cursor *Cursor) (*http.Response, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var cursor *Cursor
		for {
			page, err := Decode[struct {
				Data       []T                       `json:"data"`
				NextCursor nullable.Nullable[Cursor] `json:"next_cursor"`
			}](ask(cursor))
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, row := range page.Data {
				if !yield(row, nil) {
					return
				}
			}
			next, err := page.NextCursor.Get()
			if err != nil {
				return
			}
			cursor = &next
		}
	}
}

// paging is what the parameters of all lists have.
type paging struct {
	limit  **Limit
	offset **Offset
	cursor **Cursor
	total  **Total
}

// list yields the rows of a list with the caller's parameters, in large pages that are not counted unless they say otherwise.
func list[T, P any](params *P, of func(*P) paging, ask func(*P) (*http.Response, error)) iter.Seq2[T, error] {
	var first P
	if params != nil {
		first = *params
	}
	if p := of(&first); *p.limit == nil {
		*p.limit = new(maxPage)
	}
	if p := of(&first); *p.total == nil {
		*p.total = new(false)
	}
	return Rows[T](func(cursor *Cursor) (*http.Response, error) {
		next := first
		if p := of(&next); cursor != nil {
			*p.cursor, *p.offset = cursor, nil
		}
		return ask(&next)
	})
}

// Agents yields all agents that params ask for, in their order, which stays correct while agents are added. Limit is that of a page.
func (a *API) Agents(ctx context.Context, params *ListAgentsParams) iter.Seq2[Agent, error] {
	return list[Agent](params,
		func(p *ListAgentsParams) paging { return paging{&p.Limit, &p.Offset, &p.Cursor, &p.Total} },
		func(p *ListAgentsParams) (*http.Response, error) { return a.ListAgents(ctx, p) })
}

// Sessions yields all sessions that params ask for, as Agents does.
func (a *API) Sessions(ctx context.Context, params *ListSessionsParams) iter.Seq2[Session, error] {
	return list[Session](params,
		func(p *ListSessionsParams) paging { return paging{&p.Limit, &p.Offset, &p.Cursor, &p.Total} },
		func(p *ListSessionsParams) (*http.Response, error) { return a.ListSessions(ctx, p) })
}

// Skills yields all skills that params ask for, as Agents does.
func (a *API) Skills(ctx context.Context, params *ListSkillsParams) iter.Seq2[Skill, error] {
	return list[Skill](params,
		func(p *ListSkillsParams) paging { return paging{&p.Limit, &p.Offset, &p.Cursor, &p.Total} },
		func(p *ListSkillsParams) (*http.Response, error) { return a.ListSkills(ctx, p) })
}

// SkillVersions yields the versions of a skill, as Agents does.
func (a *API) SkillVersions(ctx context.Context, skillID string, params *ListSkillVersionsParams) iter.Seq2[Skill, error] {
	return list[Skill](params,
		func(p *ListSkillVersionsParams) paging { return paging{&p.Limit, &p.Offset, &p.Cursor, &p.Total} },
		func(p *ListSkillVersionsParams) (*http.Response, error) { return a.ListSkillVersions(ctx, skillID, p) })
}

// Messages yields the transcript of a session, oldest first, as Agents does.
func (a *API) Messages(ctx context.Context, sessionID string, params *ListMessagesParams) iter.Seq2[TranscriptMessage, error] {
	return list[TranscriptMessage](params,
		func(p *ListMessagesParams) paging { return paging{&p.Limit, &p.Offset, &p.Cursor, &p.Total} },
		func(p *ListMessagesParams) (*http.Response, error) { return a.ListMessages(ctx, sessionID, p) })
}

// EventLog yields the events of a session after a cursor that have happened so far, and ends. An error is the last thing yielded.
func (a *API) EventLog(ctx context.Context, sessionID string, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for next := after; ; {
			page, err := Decode[EventPage](a.StreamEvents(ctx, sessionID, &StreamEventsParams{After: &next, Follow: new(false), Limit: new(maxEventPage)}))
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range page.Data {
				if !yield(e, nil) {
					return
				}
			}
			if !page.HasMore {
				return
			}
			next = page.NextAfter
		}
	}
}
