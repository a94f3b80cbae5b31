package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	maxLooked = 10_000 // rows that a name is looked for in
	maxListed = 10     // of those that a name could mean
)

// named is what a person may mean by a name, an id or the start of an id.
type named struct{ id, name string }

// match picks the one that a text means: its id, else its name in any case, else the start of its id.
func match[T any](kind, text string, all []T, of func(T) named) (T, error) {
	for _, means := range []func(named) bool{
		func(n named) bool { return n.id == strings.ToLower(text) },
		func(n named) bool { return strings.EqualFold(n.name, text) },
		func(n named) bool { return strings.HasPrefix(n.id, strings.ToLower(text)) },
	} {
		var found []T
		for _, v := range all {
			if means(of(v)) {
				found = append(found, v)
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
		if len(found) > 1 {
			return found[0], ambiguous(kind, text, found, of)
		}
	}
	var none T
	return none, fmt.Errorf("there is no %s %q", kind, text)
}

func ambiguous[T any](kind, text string, found []T, of func(T) named) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%q may be any of %d %ss:", text, len(found), kind)
	for i, v := range found {
		if i == maxListed {
			b.WriteString("\n  …")
			break
		}
		fmt.Fprintf(&b, "\n  %s  %s", of(v).id, escaped(of(v).name, ""))
	}
	return usageError(b.String())
}

func findAgent(ctx context.Context, api *client.API, text string) (client.Agent, error) {
	if id, err := uuid.Parse(text); err == nil {
		a, err := into[client.Agent](api.GetAgent(ctx, id.String(), nil))
		return a, missing(err, "agent", text)
	}
	raw, _, err := rows(maxLooked, agentPages(ctx, api, text, pageSize))
	if err != nil {
		return client.Agent{}, err
	}
	all, err := decoded[client.Agent](raw)
	if err != nil {
		return client.Agent{}, err
	}
	return match("agent", text, all, func(a client.Agent) named { return named{a.ID, orEmpty(a.Name)} })
}

// findSession looks through the newest sessions, unless the whole id is given.
func findSession(ctx context.Context, api *client.API, text string) (client.Session, error) {
	if id, err := uuid.Parse(text); err == nil {
		v, err := into[client.Session](api.GetSession(ctx, id.String()))
		return v, missing(err, "session", text)
	}
	raw, _, err := rows(maxLooked, sessionPages(ctx, api, client.ListSessionsParams{}, pageSize))
	if err != nil {
		return client.Session{}, err
	}
	all, err := decoded[client.Session](raw)
	if err != nil {
		return client.Session{}, err
	}
	return match("session", text, all, func(v client.Session) named { return named{v.ID, orEmpty(v.Title)} })
}

func missing(err error, kind, text string) error {
	if errors.Is(err, client.CodeNotFound) {
		return fmt.Errorf("there is no %s %q", kind, text)
	}
	return err
}
