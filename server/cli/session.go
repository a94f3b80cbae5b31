package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	maxLines = 100_000
	maxSince = 365 * 24 * time.Hour
)

func stop(*flag.FlagSet) action {
	return func(ctx context.Context, s *shell, args []string) error {
		api, err := s.api()
		if err != nil {
			return err
		}
		failed := false
		for _, arg := range args {
			v, err := findSession(ctx, api, arg)
			if err == nil {
				v, err = into[client.Session](api.StopSession(ctx, v.ID, nil))
			}
			switch {
			case ctx.Err() != nil:
				return errInterrupted
			case err != nil:
				s.say("lap: %v", err)
				failed = true
			default:
				s.say("Stopped %s", v.ID)
			}
		}
		if failed {
			return errSaid
		}
		return nil
	}
}

func logs(flags *flag.FlagSet) action {
	follow := flags.Bool("f", false, "go on with what is written from now on")
	tail := flags.Int("n", 200, "at most so many lines of what there is")
	since := flags.Duration("since", 0, "only lines of the last `duration`, for instance 10m")
	return func(ctx context.Context, s *shell, args []string) error {
		if *tail < 1 || *since < 0 {
			return usageError("-n must be at least 1 and -since not negative")
		}
		api, err := s.api()
		if err != nil {
			return err
		}
		v, err := findSession(ctx, api, args[0])
		if err != nil {
			return err
		}
		lines := int32(min(*tail, maxLines))
		params := client.GetSandboxLogsParams{Follow: follow, TailLines: &lines}
		if seconds := int32(min(*since+time.Second-1, maxSince) / time.Second); seconds > 0 {
			params.SinceSeconds = &seconds
		}
		res, err := api.GetSandboxLogs(ctx, v.ID, &params)
		if err != nil {
			return explained(err)
		}
		defer func() { _ = res.Body.Close() }()
		out := io.Writer(s.out)
		if isTerminal(s.out) {
			out = &escaper{w: s.out}
		}
		if _, err := io.Copy(out, res.Body); err != nil {
			if ctx.Err() != nil {
				return errInterrupted
			}
			return fmt.Errorf("the log broke off: %w", err)
		}
		return nil
	}
}
