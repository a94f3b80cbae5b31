package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

const (
	tuiLook        = 100 * time.Millisecond // between two looks at the disk
	tuiTurnWait    = 10 * time.Second       // for a typed message to become a conversation on disk
	maxScreenWords = 1000                   // bytes of a screen in a reason
)

var errTakesNoTurns = errors.New("the harness has a terminal and takes no turns")

// tui is a program that people use through its terminal. One goroutine waits for its end; it is over when done is closed.
type tui struct {
	name   string // for reasons
	config Config
	term   *terminal.Terminal
	redact func(string) string
	done   chan struct{}
	reason string // written before done is closed
}

// startTUI starts the program. after is called once it has ended, and must return.
func startTUI(name string, c Config, args, env []string, redact func(string) string, after func()) (*tui, error) {
	t, err := terminal.Start(terminal.Config{Path: c.Bin, Args: args, Dir: c.Dir, Env: env})
	if err != nil {
		return nil, err
	}
	r := &tui{name: name, config: c, term: t, redact: redact, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		<-t.Done()
		after()
		r.reason = r.exitReason()
	}()
	return r, nil
}

// ready waits until the screen has a text, which is when the program can be typed to.
func (r *tui) ready(ctx context.Context, prompt string) error {
	return r.term.Wait(ctx, func(screen string) bool { return strings.Contains(screen, prompt) })
}

// tell types the first message. begun tells whether the program has taken it.
func (r *tui) tell(ctx context.Context, begun func() bool) error {
	if err := r.term.Paste(ctx, r.config.Typed); err != nil {
		return fmt.Errorf("type the first message: %w", err)
	}
	if !r.eventually(ctx, tuiTurnWait, begun) {
		_, _ = r.term.Write([]byte("\r")) // the first one was taken for a part of the text; nothing happens if there is none
	}
	return ctx.Err()
}

// eventually reports whether ok came to hold within a time, while the program lives.
func (r *tui) eventually(ctx context.Context, within time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !ok() {
		select {
		case <-r.term.Done():
			return false
		default:
		}
		if !pause(ctx, tuiLook) {
			return false
		}
	}
	return true
}

// startError says why the program did not start, and ends it.
func (r *tui) startError(err error) error {
	select {
	case <-r.term.Done():
		<-r.done
		return errors.New(r.reason)
	default:
	}
	why := r.name + " did not start: " + err.Error()
	if words := screenWords(r.term.Screen()); words != "" {
		why += "; its screen: " + words
	}
	r.Close()
	return errors.New(r.redact(why))
}

func (r *tui) exitReason() string {
	how := fmt.Sprintf("%s exited with code %d", r.name, r.term.ExitCode())
	if r.term.ExitCode() > 128 {
		how = fmt.Sprintf("%s was ended by signal %d", r.name, r.term.ExitCode()-128)
	}
	if words := screenWords(r.term.Screen()); words != "" {
		how += "; its last screen: " + words
	}
	return r.redact(how)
}

// screenWords is what a screen says on one line, bounded: its end, where a program says why it ends.
func screenWords(screen string) string {
	var lines []string
	for line := range strings.Lines(screen) {
		if line = strings.TrimFunc(line, notWord); line != "" {
			lines = append(lines, line)
		}
	}
	words := strings.Join(lines, " | ")
	if len(words) > maxScreenWords {
		words = "…" + words[len(words)-maxScreenWords:]
	}
	return strings.ToValidUTF8(words, "")
}

// notWord holds for blanks and for what frames are drawn with.
func notWord(r rune) bool { return r <= ' ' || r >= 0x2500 && r < 0x25a0 }

// Terminal implements Terminal.
func (r *tui) Terminal() *terminal.Terminal { return r.term }

// Turn implements Running.
func (r *tui) Turn(context.Context, sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	return Failed, sandboxd.TurnResult{}, errTakesNoTurns
}

// Abort implements Running.
func (r *tui) Abort(context.Context) error { return nil }

// Done implements Running.
func (r *tui) Done() <-chan struct{} { return r.done }

// ExitReason implements Running.
func (r *tui) ExitReason() string {
	select {
	case <-r.done:
		return r.reason
	default:
		return ""
	}
}

// Close implements Running.
func (r *tui) Close() {
	r.term.Close()
	<-r.done
}
