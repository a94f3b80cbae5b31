package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	aboutRun = `An agent is named by its name, its id or the start of its id. Harnesses with a terminal (claude-code, codex) get yours;
with the others you chat. ` + aboutChat + aboutTerminal + `
With -m, or if standard input is not a terminal, one message is sent and its answer printed; tools and progress go to
standard error. The exit code is then 0 if the answer is complete, 1 if not, 130 if it was aborted.
`
	aboutAttach = `A session is named by its title, its id or the start of its id. ` + aboutChat + aboutTerminal
	aboutChat   = `Ctrl-C aborts the answer, a second one leaves; Ctrl-D leaves.
`
	aboutTerminal = `In a terminal Ctrl-] detaches; every other key goes to the program. Leaving does not stop a session.
`
	maxMessage = 16 << 20
)

// envFlag collects -env.
type envFlag struct {
	vars  map[string]string
	names []string
}

func (f *envFlag) String() string { return "" }

func (f *envFlag) Set(text string) error {
	name, value, given := strings.Cut(text, "=")
	if name == "" {
		return fmt.Errorf("want NAME=value or NAME")
	}
	if given {
		f.vars[name] = value
	} else {
		f.names = append(f.names, name)
	}
	return nil
}

// all is what was given, names without a value from the environment.
func (f *envFlag) all(s *shell) (map[string]string, error) {
	for _, name := range f.names {
		if f.vars[name] = s.env(name); f.vars[name] == "" {
			return nil, usageError("-env " + name + ": it is not set")
		}
	}
	return f.vars, nil
}

func run(flags *flag.FlagSet) action {
	message := flags.String("m", "", "send this `text`, print the answer and end")
	title := flags.String("title", "", "`title` of the session")
	stopAfter := flags.Bool("stop", false, "stop the session at the end")
	env := &envFlag{vars: map[string]string{}}
	flags.Var(env, "env", "environment of this session as `NAME=value`, or NAME to take yours; can be repeated")
	return func(ctx context.Context, s *shell, args []string) error {
		api, err := s.api()
		if err != nil {
			return err
		}
		vars, err := env.all(s)
		if err != nil {
			return err
		}
		agent, err := s.runnable(ctx, api, args[0], *message)
		if err != nil {
			return err
		}
		text, once, err := s.oneMessage(ctx, *message, agent.SupportsTui)
		if err != nil {
			return err
		}
		var body client.SessionCreate
		if *title != "" {
			body.Title = nullable.NewNullableWithValue(*title)
		}
		if len(vars) > 0 {
			body.EnvVars = nullable.NewNullableWithValue(vars)
		}
		v, err := s.open(ctx, api, agent.ID, body)
		if err != nil {
			return err
		}
		if *stopAfter {
			defer s.stopAtEnd(ctx, api, v.ID)
		}
		if err := s.awaitReady(ctx, api, v.ID, 0); err != nil {
			return s.left(v.ID, err)
		}
		switch {
		case v.SupportsTui:
			return s.terminal(ctx, api, v.ID)
		case once:
			return s.left(v.ID, s.say1(ctx, api, v.ID, text))
		}
		return s.chat(ctx, api, v.ID)
	}
}

// runnable finds an agent and refuses what cannot work with it before anything is started.
func (s *shell) runnable(ctx context.Context, api *client.API, name, message string) (client.Agent, error) {
	ctx, release := s.untilInterrupt(ctx)
	defer release()
	agent, err := findAgent(ctx, api, name)
	if err != nil || !agent.SupportsTui {
		return agent, err
	}
	if message != "" {
		return agent, usageError(fmt.Sprintf("%s has a terminal and takes no -m", agent.HarnessID))
	}
	return agent, s.needTerminal()
}

func (s *shell) needTerminal() error {
	if !isTerminal(s.in) || !isTerminal(s.out) {
		return usageError("the session has a terminal, so standard input and output must be one")
	}
	return nil
}

// oneMessage is the only message to send, if there is to be only one.
func (s *shell) oneMessage(ctx context.Context, message string, tui bool) (text string, once bool, err error) {
	if message != "" || tui || isTerminal(s.in) {
		return message, message != "", nil
	}
	ctx, release := s.untilInterrupt(ctx)
	defer release()
	type input struct {
		text []byte
		err  error
	}
	read := make(chan input, 1)
	go func() {
		b, err := io.ReadAll(io.LimitReader(s.in, maxMessage))
		read <- input{b, err}
	}()
	select {
	case <-ctx.Done():
		return "", false, context.Cause(ctx)
	case in := <-read:
		text := strings.TrimRight(string(in.text), "\n")
		switch {
		case in.err != nil:
			return "", false, in.err
		case text == "":
			return "", false, usageError("standard input is empty; give a message with -m")
		case !utf8.ValidString(text):
			return "", false, usageError("standard input is not UTF-8")
		}
		return text, true, nil
	}
}

func (s *shell) open(ctx context.Context, api *client.API, agent string, body client.SessionCreate) (client.Session, error) {
	ctx, release := s.untilInterrupt(ctx)
	defer release()
	v, err := into[client.Session](api.CreateSession(ctx, agent, nil, body))
	if err == nil {
		s.say("Session %s", v.ID)
	}
	return v, err
}

func (s *shell) stopAtEnd(ctx context.Context, api *client.API, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := done(api.StopSession(ctx, id, nil)); err != nil {
		s.say("lap: stop session %s: %v", id, err)
	}
}

// left tells how to come back to a session that a command gives up.
func (s *shell) left(id string, err error) error {
	if err != nil {
		s.say("The session may go on: lap attach %s", id)
	}
	return err
}

func attach(flags *flag.FlagSet) action {
	restart := flags.Bool("restart", false, "start the session again if it has ended")
	message := flags.String("m", "", "send this `text`, print the answer and end")
	return func(ctx context.Context, s *shell, args []string) error {
		api, err := s.api()
		if err != nil {
			return err
		}
		v, after, err := s.reach(ctx, api, args[0], *restart)
		if err != nil {
			return err
		}
		if v.SupportsTui && *message != "" {
			return usageError("the session has a terminal and takes no -m")
		}
		if v.SupportsTui {
			if err := s.needTerminal(); err != nil {
				return err
			}
		}
		text, once, err := s.oneMessage(ctx, *message, v.SupportsTui)
		if err != nil {
			return err
		}
		if v.Status == client.SessionStatusCreating {
			if err := s.awaitReady(ctx, api, v.ID, after); err != nil {
				return err
			}
		}
		switch {
		case v.SupportsTui:
			return s.terminal(ctx, api, v.ID)
		case once:
			return s.say1(ctx, api, v.ID, text)
		}
		if reply := orEmpty(v.Response); reply != "" {
			fmt.Fprintln(s.out, s.plain(s.out, strings.TrimRight(reply, "\n")))
		}
		return s.chat(ctx, api, v.ID)
	}
}

// reach finds a session and starts it again if it is to be. After is where the events of its start begin, if it is creating.
func (s *shell) reach(ctx context.Context, api *client.API, name string, restart bool) (v client.Session, after int64, err error) {
	ctx, release := s.untilInterrupt(ctx)
	defer release()
	if v, err = findSession(ctx, api, name); err != nil {
		return v, 0, err
	}
	ended := v.Status == client.SessionStatusDead || v.Status == client.SessionStatusFailed
	if ended && !restart {
		return v, 0, fmt.Errorf("the session is %s%s; -restart starts it again", v.Status, detail(orEmpty(v.FailureReason)))
	}
	if !ended && v.Status != client.SessionStatusCreating {
		return v, 0, nil
	}
	if ended {
		if _, err = into[client.Session](api.RestartSession(ctx, v.ID, nil)); err != nil {
			return v, 0, err
		}
	}
	// The end of the attempt before may be told twice, and late, but not after the restart. What is told before the cursor, such as
	// that it is ready, the session says.
	if after, err = lastEvent(ctx, api, v.ID); err != nil {
		return v, 0, err
	}
	v, err = into[client.Session](api.GetSession(ctx, v.ID))
	if v.Status == client.SessionStatusCreating {
		s.say("[  0.0s] %s%s", orEmpty(v.Phase), detail(orEmpty(v.PhaseDetail)))
	}
	return v, after, err
}
