package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const leaveTimeout = time.Second // for saying goodbye

// reset undoes what a program in the terminal may have left behind: modes of keyboard, mouse and screen, colours, a hidden cursor.
const reset = "\x1b[?2026l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[=0;1u\x1b[>4;0m\x1b[?1l\x1b>" +
	"\x1b[?1049l\x1b[=0;1u\x1b[r\x1b[?6l\x1b[?7h\x1b[4l\x1b(B\x0f\x1b[0m\x1b[0 q\x1b[?25h\x1b[999;1H\r\n"

var errDetached = errors.New("detached")

// attachment is the person's terminal on a session's.
type attachment struct {
	s      *shell
	tty    *tty
	remote *client.Terminal
	leave  context.CancelCauseFunc
}

// terminal attaches to a session's terminal until the person detaches or the program or the session ends.
func (s *shell) terminal(ctx context.Context, api *client.API, id string) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	a := &attachment{s: s, tty: newTTY(s.in), leave: leave}
	defer a.tty.restore()
	err := a.run(ctx, api, id)
	switch {
	case errors.Is(err, errDetached):
		s.say("Detached; back with: lap attach %s", id)
		return nil
	case err != nil:
		return s.left(id, explained(err))
	}
	code, _ := a.remote.ExitCode()
	s.say("The program ended with exit code %d; start it again with: lap attach -restart %s", code, id)
	if code != 0 {
		return errSaid
	}
	return nil
}

// run connects and shows what comes. While it waits for the first connection the terminal is not raw and Ctrl-C ends it.
func (a *attachment) run(ctx context.Context, api *client.API, id string) (err error) {
	if a.remote, err = a.first(ctx, api, id); err != nil {
		return err
	}
	if err := a.tty.raw(); err != nil {
		_ = a.remote.Close()
		return err
	}
	ctx, release := a.s.untilInterrupt(ctx) // by kill; a key is none
	defer release()
	go a.keys()
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(sizes)
	go a.sizes(ctx, sizes)

	ended := make(chan error, 1)
	go func() { defer a.tty.guard(); ended <- a.show(ctx) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
		select { // if the terminal takes nothing any more, neither does the end of show come
		case <-ended: //nolint:errcheck // the context is why it ends
		case <-time.After(leaveTimeout):
			a.tty.restore()
			return err
		}
	}
	a.tty.restore()
	_, _ = io.WriteString(a.s.out, reset)
	return err
}

func (a *attachment) first(ctx context.Context, api *client.API, id string) (*client.Terminal, error) {
	ctx, release := a.s.untilInterrupt(ctx)
	defer release()
	cols, rows := a.tty.size()
	return api.Attach(ctx, id, client.AttachOptions{Cols: cols, Rows: rows, Lost: func(error) {
		_, _ = io.WriteString(a.s.out, "\r\n\x1b[0m[lap: connection lost, trying again; Ctrl-] leaves]\r\n")
	}})
}

// show writes what the terminal shows, over lost connections. It returns nil when the program has ended.
func (a *attachment) show(ctx context.Context) error {
	for b, err := range a.remote.Output(ctx) {
		if err == nil {
			_, err = a.s.out.Write(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *attachment) resize() {
	cols, rows := a.tty.size()
	a.remote.Resize(cols, rows)
}

// sizes follows the size of the person's terminal. After a stop from outside the terminal is made raw again.
func (a *attachment) sizes(ctx context.Context, signals <-chan os.Signal) {
	defer a.tty.guard()
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGCONT {
				_ = a.tty.raw()
			}
			a.resize()
		case <-ctx.Done():
			return
		}
	}
}

// keys sends what is typed, until the key that detaches or the end of the input. It ends with the process at the latest.
func (a *attachment) keys() {
	defer a.tty.guard()
	buf := make([]byte, 32<<10)
	for {
		n, err := a.s.in.Read(buf)
		typed, detach := cutDetach(buf[:n])
		if len(typed) > 0 {
			_, _ = a.remote.Write(typed) // keys are lost while there is no connection
		}
		if detach || err != nil {
			a.leave(errDetached)
			return
		}
	}
}
