package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/store"
)

// Roles of the messages of a transcript.
const (
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// Entry is one message of a transcript.
type Entry struct {
	Place Place
	Time  time.Time
	Info  Info
	Parts []Part
}

// Part is a part of a message: what a harness made, or what a user sent, whose images are known by format and size only.
type Part struct {
	sandboxd.OutputPart
	MediaType *string
	Size      *int64
}

// Place is where a message stands in its session. Each turn has a message of the user and, once it has ended, one of the
// assistant. The zero Place is before the first.
type Place struct {
	Position int64 // of the turn
	Role     string
}

// Transcript returns at most limit messages of a session that stand after a place, after passing over skip of them, oldest first,
// and whether there are more.
func (s *Service) Transcript(ctx context.Context, sessionID string, after Place, skip int64, limit int) (list []Entry, more bool, err error) {
	from, assistantOnly := after.Position+1, false
	if after.Role == RoleUser {
		from, assistantOnly = after.Position, true
	}
	if skip > 0 {
		if from, assistantOnly, err = s.place(ctx, sessionID, skip); err != nil {
			return nil, false, err
		}
	}
	// A turn has at least one message, and one more is needed to know whether there are more.
	err = s.o.Store.EachTurn(ctx, sessionID, from, limit+2, func(t store.Turn) error {
		entries, err := messagesOf(t)
		if err != nil {
			return err
		}
		if t.Position == from && assistantOnly {
			entries = entries[1:]
		}
		if list = append(list, entries...); len(list) > limit {
			list, more = list[:limit], true
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return list, more, err
}

var errEnough = errors.New("enough")

// place finds the message that has skip messages before it. Turns end in their order, so those with two messages come first.
func (s *Service) place(ctx context.Context, sessionID string, skip int64) (from int64, assistantOnly bool, err error) {
	_, ended, err := s.o.Store.CountTurns(ctx, sessionID)
	if err != nil {
		return 0, false, err
	}
	if skip < 2*ended {
		return skip/2 + 1, skip%2 == 1, nil
	}
	return skip - ended + 1, false, nil
}

// CountMessages returns how many messages the transcript of a session has.
func (s *Service) CountMessages(ctx context.Context, sessionID string) (int64, error) {
	all, ended, err := s.o.Store.CountTurns(ctx, sessionID)
	return all + ended, err
}

func messagesOf(t store.Turn) ([]Entry, error) {
	var sent []sandboxd.InputPart
	if err := json.Unmarshal(t.Input, &sent); err != nil {
		return nil, fmt.Errorf("decode message of turn %s: %w", t.ID, err)
	}
	user := Entry{Place: Place{t.Position, RoleUser}, Time: t.CreatedAt, Info: Info{TurnID: t.ID}}
	for i, p := range sent {
		part := Part{OutputPart: sandboxd.OutputPart{ID: strconv.Itoa(i + 1), Type: p.Type, Text: p.Text}, MediaType: p.MediaType}
		if p.MediaType != nil {
			size := int64(len(p.Data))
			part.Size = &size
		}
		user.Parts = append(user.Parts, part)
	}
	if t.EndedAt == nil {
		return []Entry{user}, nil
	}
	info, parts, err := Reply(t)
	if err != nil {
		return nil, err
	}
	assistant := Entry{Place: Place{t.Position, RoleAssistant}, Time: *t.EndedAt, Info: info}
	for _, p := range parts {
		assistant.Parts = append(assistant.Parts, Part{OutputPart: p})
	}
	return []Entry{user, assistant}, nil
}

// FollowTurn emits the events of a turn like Follow, from its first on, and returns after the one that ended it.
func (s *Service) FollowTurn(ctx context.Context, t store.Turn, emit func([]Frame) error) error {
	err := s.Follow(ctx, t.SessionID, t.AfterSeq, func(frames []Frame) error {
		if len(frames) == 0 {
			return emit(nil)
		}
		own := make([]Frame, 0, len(frames))
		ended := false
		for _, f := range frames {
			if f.TurnID != t.ID {
				continue
			}
			own = append(own, f)
			if ended = endsTurn(f.Type); ended {
				break
			}
		}
		if len(own) > 0 {
			if err := emit(own); err != nil {
				return err
			}
		}
		if ended {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
