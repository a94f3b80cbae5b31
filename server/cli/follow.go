package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	firstPause = 250 * time.Millisecond
	maxPause   = 5 * time.Second
	patience   = 2 * time.Minute // without a word from the server
)

// follow hands over the events after a cursor, each once, until on wants no more. A broken stream is opened again where it broke.
func (s *shell) follow(ctx context.Context, after int64, open func(after int64) iter.Seq2[client.Event, error], on func(client.Event) (over bool)) error {
	begun, pause, lost := time.Now(), firstPause, false
	for {
		cause := errors.New("the stream ended")
		for e, err := range open(after) {
			if err != nil {
				cause = err
				break
			}
			begun, pause, lost = time.Now(), firstPause, false
			if e.Seq <= after {
				continue
			}
			after = e.Seq
			if on(e) {
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(cause):
			return refused(cause)
		case time.Since(begun) > patience:
			return fmt.Errorf("gave up after %v: %w", patience, cause)
		case !lost:
			lost = true
			s.say("[connection lost, trying again]")
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, maxPause)
	}
}

// passing tells whether an error may go away by itself.
func passing(err error) bool {
	var status *client.StatusError
	if !errors.As(err, &status) {
		return true
	}
	switch status.Status {
	case http.StatusServiceUnavailable:
		return slices.Contains([]string{"", "database_unavailable", "server_busy", "shutting_down"}, status.Answer.Code)
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return status.Answer.Code == "" // a proxy's
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitReady shows how a session starts, by its events after a cursor, until it is ready.
func (s *shell) awaitReady(ctx context.Context, api *client.Client, id string, after int64) error {
	ctx, release := s.untilInterrupt(ctx)
	defer release()
	begun := time.Now()
	open := func(after int64) iter.Seq2[client.Event, error] { return api.Follow(ctx, id, after) }
	var failed error
	err := s.follow(ctx, after, open, func(e client.Event) bool {
		switch e.Type {
		case "session.phase":
			s.say("[%5.1fs] %v%s", time.Since(begun).Seconds(), e.Data["phase"], detail(e.Data["detail"]))
		case "session.status":
			switch e.Data["status"] {
			case "ready":
				return true
			case "failed", "dead":
				failed = fmt.Errorf("the session is %v%s", e.Data["status"], detail(e.Data["failure_reason"]))
				return true
			}
		}
		return false
	})
	return errors.Join(err, failed)
}

func detail(v any) string {
	if text, ok := v.(string); ok && text != "" {
		return ": " + text
	}
	return ""
}

// lastEvent is the cursor after everything that has happened so far.
func lastEvent(ctx context.Context, api *client.Client, id string) (after int64, err error) {
	live, limit := false, 1000
	for {
		page, err := into[client.EventPage](api.StreamEvents(ctx, id, &client.StreamEventsParams{After: &after, Follow: &live, Limit: &limit}))
		if err != nil {
			return 0, err
		}
		after = page.NextAfter
		if !page.HasMore {
			return after, nil
		}
	}
}
