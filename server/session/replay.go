package session

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/store"
)

// What was said in a session is given to each new sandbox, for a harness whose own conversation is gone: a workspace that expired
// or was lost took it along.

const (
	replayBytes = 256 << 10 // of the newest text
	replayTurns = 500       // read at most
	leftOut     = "[what came before is left out]\n"
)

// replay is what was said in the turns behind a position that a sandbox took, oldest first. An empty one says that none took any.
func replay(ctx context.Context, s *store.Store, sessionID string, after int64) (string, error) {
	var said []string // newest first
	room, cut := replayBytes, false
	err := s.EachTurnBack(ctx, sessionID, replayTurns+1, func(t store.Turn) error {
		if t.Position <= after {
			return errEnough
		}
		if t.HandedAt == nil {
			return nil
		}
		if len(said) == replayTurns {
			cut = true
			return errEnough
		}
		text, err := spoken(t)
		if err != nil {
			return err
		}
		if cut = len(text) > room; cut {
			text = tail(text, room)
		}
		said, room = append(said, text), room-len(text)
		if cut {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return "", err
	}
	var b strings.Builder
	if cut {
		b.WriteString(leftOut)
	}
	for i := len(said) - 1; i >= 0; i-- {
		b.WriteString(said[i])
	}
	return b.String(), nil
}

// spoken is a turn as text: what the user said and what was answered.
func spoken(t store.Turn) (string, error) {
	entries, err := messagesOf(t)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		b.WriteString("<" + e.Place.Role + ">\n")
		for _, p := range e.Parts {
			switch {
			case p.Type == "text" && p.Text != nil:
				b.WriteString(*p.Text + "\n")
			case p.Tool != nil:
				b.WriteString("[used " + *p.Tool + "]\n")
			case p.MediaType != nil:
				b.WriteString("[an image]\n")
			}
		}
		if e.Info.Error != nil {
			b.WriteString("[it ended with " + e.Info.Error.Name + "]\n")
		}
		b.WriteString("</" + e.Place.Role + ">\n")
	}
	return b.String(), nil
}

// tail is the end of a text, at most n bytes of whole characters.
func tail(s string, n int) string {
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}
