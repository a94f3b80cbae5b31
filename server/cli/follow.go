package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// awaitReady shows how a session starts, by its events after a cursor, until it is ready.
func (s *shell) awaitReady(ctx context.Context, api *client.API, id string, after int64) error {
	ctx, release := s.untilInterrupt(ctx)
	defer release()
	begun := time.Now()
	for e, err := range api.Events(ctx, id, after) {
		switch {
		case err != nil:
			return explained(err)
		case e.Type == "session.phase":
			s.say("[%5.1fs] %v%s", time.Since(begun).Seconds(), e.Data["phase"], detail(e.Data["detail"]))
		case e.Type == "session.status" && e.Data["status"] == "ready":
			return nil
		case e.Type == "session.status" && (e.Data["status"] == "failed" || e.Data["status"] == "dead"):
			return fmt.Errorf("the session is %v%s", e.Data["status"], detail(e.Data["failure_reason"]))
		}
	}
	return nil
}

func detail(v any) string {
	if text, ok := v.(string); ok && text != "" {
		return ": " + text
	}
	return ""
}

// lastEvent is the cursor after everything that has happened so far.
func lastEvent(ctx context.Context, api *client.API, id string) (after int64, err error) {
	for e, err := range api.EventLog(ctx, id, 0) {
		if err != nil {
			return 0, explained(err)
		}
		after = e.Seq
	}
	return after, nil
}
