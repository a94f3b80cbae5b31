package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	secretMask  = "********"
	shortSecret = 6 // values shorter than this are no secrets, and masking them would spoil every sentence; as in sandboxd
)

// masking returns a function that masks the secrets a session's sandbox knows of: those of the server, of the agent and its own.
// sandboxd masks them too, but runs beside the harness.
func (s *Service) masking(ctx context.Context, sess store.Session) (func(string) string, error) {
	agent, err := s.o.Store.GetAgentVersion(ctx, sess.AgentID, sess.AgentVersion)
	if err != nil {
		return nil, fmt.Errorf("read agent: %w", err)
	}
	own, err := s.o.Settings.Get(ctx, sess.ID)
	if err != nil && !errors.Is(err, sandbox.ErrNotFound) {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	g, err := s.o.gatewayOf(sess)
	if err != nil {
		g = s.o.Gateway // the key of the session cannot be known, and is of no sandbox that is called any more
	}
	secrets := []string{s.o.Gateway.APIKey, g.APIKey, s.o.GitToken}
	for _, env := range []map[string]string{s.o.Env, agent.EnvVars, own} {
		for _, v := range env {
			secrets = append(secrets, v)
		}
	}
	return mask(secrets), nil
}

// mask returns a function that masks values, also as parts of URLs and of JSON, and each line of those that have several.
func mask(secrets []string) func(string) string {
	forms := map[string]bool{}
	for _, v := range secrets {
		for _, part := range append(strings.Split(v, "\n"), v) {
			quoted, err := json.Marshal(part)
			if err != nil {
				continue // strings always marshal
			}
			for _, form := range []string{part, url.QueryEscape(part), string(quoted[1 : len(quoted)-1])} {
				if len(strings.TrimSpace(form)) >= shortSecret {
					forms[form] = true
				}
			}
		}
	}
	var pairs []string
	for form := range forms {
		pairs = append(pairs, form)
	}
	// One that holds another has to go first.
	slices.SortFunc(pairs, func(a, b string) int { return len(b) - len(a) })
	args := make([]string, 0, 2*len(pairs))
	for _, form := range pairs {
		args = append(args, form, secretMask)
	}
	return strings.NewReplacer(args...).Replace
}
