package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// say1 sends one message and shows its turn; the error is how it ended.
func (s *shell) say1(ctx context.Context, api *client.API, id, text string) error {
	a, err := s.turn(ctx, api, id, text)
	if err == nil {
		err = a.reply.Err()
	}
	if aborted(err) {
		return errInterrupted
	}
	return err
}

func aborted(err error) bool {
	var fault *client.ReplyError
	return errors.As(err, &fault) && fault.Aborted
}

// turn sends a message and shows its turn to the end, over broken connections. Ctrl-C aborts the turn, a second one leaves it.
func (s *shell) turn(ctx context.Context, api *client.API, id, text string) (*answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	watch.Go(func() { s.abortOnInterrupt(ctx, cancel, api, id) })

	a := &answer{s: s}
	var err error
	for e, cause := range api.Turn(ctx, id, nil, client.Text(text)) {
		if err = cause; err == nil {
			a.event(e)
		}
	}
	a.close()
	return a, explained(err)
}

func (s *shell) abortOnInterrupt(ctx context.Context, leave context.CancelCauseFunc, api *client.API, id string) {
	select {
	case <-s.interrupts:
	case <-ctx.Done():
		return
	}
	var abort sync.WaitGroup
	defer abort.Wait()
	abort.Go(func() {
		got, err := into[client.Aborted](api.AbortTurn(ctx, id, nil))
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.say("\nlap: abort: %v; Ctrl-C again leaves", err)
		case !got.Aborted:
			s.say("\nThe turn does not run yet; Ctrl-C again leaves")
		}
	})
	select {
	case <-s.interrupts:
		leave(errInterrupted)
	case <-ctx.Done():
	}
}

// chat takes messages from the terminal, one after the other, and shows the answers.
func (s *shell) chat(ctx context.Context, api *client.API, id string) error {
	s.say("Ctrl-C aborts an answer, Ctrl-D leaves.")
	tty := newTTY(s.in)
	defer tty.restore()
	e := newEditor(s, tty)
	for warned := false; ; {
		text, err := e.read(ctx)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errInterrupted) && warned:
			s.say("Left; back with: lap attach %s", id)
			if warned {
				return errInterrupted
			}
			return nil
		case errors.Is(err, errInterrupted):
			warned = true
			s.say("Ctrl-C again leaves")
			continue
		case errors.Is(err, errTooLong):
			s.say("lap: %v", err)
			continue
		case err != nil:
			return err
		}
		warned = false
		if strings.TrimSpace(text) == "" {
			continue
		}
		if err := s.reply(ctx, api, id, text); err != nil {
			return s.left(id, err)
		}
	}
}

// reply shows the answer to a message of a chat, which goes on unless the session is over or the person leaves.
func (s *shell) reply(ctx context.Context, api *client.API, id, text string) error {
	a, err := s.turn(ctx, api, id, text)
	var status *client.StatusError
	switch {
	case errors.As(err, &status) && status.Status != http.StatusNotFound && status.Status != http.StatusUnauthorized:
		s.say("lap: %v", err)
	case err != nil:
		return err
	case aborted(a.reply.Err()):
		s.say("Aborted.")
	case a.reply.Err() != nil:
		s.say("lap: %v", a.reply.Err())
	}
	fmt.Fprintln(s.err)
	return nil
}
