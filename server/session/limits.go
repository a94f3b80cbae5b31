package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/store"
)

// Refusals for want of room. Nothing is stored, so the same request may be made again later.
var (
	ErrCapacity = errors.New("as many sessions as this server may run at once have a sandbox")
	ErrRate     = errors.New("too many sessions were opened within the last minute")
)

// RateError is ErrRate with the time until another session may be opened.
type RateError struct{ After time.Duration }

func (e *RateError) Error() string { return ErrRate.Error() }

// Is makes it an ErrRate.
func (e *RateError) Is(err error) bool { return err == ErrRate }

// hasPlace tells whether a session counts as one with a sandbox, as store.Others counts them.
func hasPlace(s *store.Session) bool { return live(s.Status) && s.Desired == wantRunning }

// admit refuses a session that begins an attempt if MaxSessions others have one, and a new session if SessionRate others were
// opened within the last minute. It comes last in its unit of work: only one at a time is past it.
func (o *Options) admit(tx *store.SessionTx, opened bool) error {
	rate := 0
	if opened {
		rate = o.SessionRate
	}
	if o.MaxSessions <= 0 && rate <= 0 {
		return nil
	}
	others, err := tx.Others(rate)
	if err != nil {
		return fmt.Errorf("look for a place: %w", err)
	}
	if o.MaxSessions > 0 && others.Placed >= int64(o.MaxSessions) {
		return ErrCapacity
	}
	if wait := time.Minute - tx.Now().Sub(others.Last); rate > 0 && wait > 0 {
		return &RateError{After: wait}
	}
	return nil
}
