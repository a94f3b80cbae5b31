// Package cli is the client commands of `lap`: they talk to a server through its public API and know nothing else of it. A command
// runs in one goroutine; those that follow a stream and a keyboard at once own the goroutines they start. Whatever comes from a
// server is foreign text: on a terminal its control characters are escaped, but for the terminal of a session, which is raw.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

const endTimeout = 5 * time.Second // from the signal that ends a command

type command struct {
	name, args, summary string
	about               string // further lines of its help
	talks               bool   // Ctrl-C is the command's own affair; any other it ends
	setUp               func(*flag.FlagSet) action
}

// action runs a command with its arguments, the flags taken out.
type action func(ctx context.Context, s *shell, args []string) error

var commands = []command{
	{"login", "[url]", "remember a server and its key, after trying them", aboutLogin, false, login},
	{"agents", "", "list agents", "", false, listAgents},
	{"skills", "", "list skills", "", false, listSkills},
	{"sessions", "", "list sessions", "", false, listSessions},
	{"run", "<agent>", "open a session with an agent and talk to it", aboutRun, true, run},
	{"attach", "<session>", "go on with a session", aboutAttach, true, attach},
	{"logs", "<session>", "show what a session's sandbox wrote", "", false, logs},
	{"stop", "<session>...", "stop sessions; lap attach -restart goes on with them", "", false, stop},
}

// Summary lists the commands, one per line.
func Summary() string {
	var b strings.Builder
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-9s %-14s %s\n", c.name, c.args, c.summary)
	}
	return b.String()
}

// Has tells whether a name is one of the commands.
func Has(name string) bool {
	return slices.ContainsFunc(commands, func(c command) bool { return c.name == name })
}

// shell is what a command works with: the streams of its process, its environment and, once asked for, the server.
type shell struct {
	in         *os.File
	out, err   *os.File
	environ    []string
	interrupts chan os.Signal // Ctrl-C, as long as the terminal is not raw
}

// Main runs a command, args[0], and returns the exit code of the process. It handles signals.
func Main(args, environ []string, in, out, err *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A terminal that takes nothing any more would keep the command from ending.
	context.AfterFunc(ctx, func() { time.AfterFunc(endTimeout, func() { os.Exit(exitInterrupted) }) })
	s := &shell{in: in, out: out, err: err, environ: environ, interrupts: make(chan os.Signal, 2)}
	signal.Notify(s.interrupts, os.Interrupt)
	return s.code(s.run(ctx, args))
}

func (s *shell) run(ctx context.Context, args []string) error {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == args[0] })
	if i < 0 {
		return usageError("unknown command; see lap help")
	}
	c := commands[i]
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	act := c.setUp(flags)
	rest, err := parse(flags, args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		c.help(flags, s.out)
		return nil
	case err != nil:
		return usageError(err.Error() + "; see lap " + c.name + " -h")
	case !c.takes(len(rest)):
		return usageError("usage: lap " + strings.TrimSpace(c.name+" "+c.args) + "; see lap " + c.name + " -h")
	}
	if !c.talks {
		var release context.CancelFunc
		ctx, release = s.untilInterrupt(ctx)
		defer release()
	}
	return act(ctx, s, rest)
}

// takes tells whether a command takes so many arguments, by how its usage is written.
func (c command) takes(n int) bool {
	switch {
	case strings.HasSuffix(c.args, "..."):
		return n >= 1
	case strings.HasPrefix(c.args, "["):
		return n <= 1
	}
	return n == len(strings.Fields(c.args))
}

// parse takes flags before, between and after the arguments, which it returns. After -- all are arguments.
func parse(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		left := flags.Args()
		if len(left) == 0 {
			return rest, nil
		}
		if parsed := len(args) - len(left); parsed > 0 && args[parsed-1] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

func (c command) help(flags *flag.FlagSet, w io.Writer) {
	fmt.Fprintf(w, "Usage: lap %s\n\n%s%s.\n", strings.TrimSpace(c.name+" [flags] "+c.args), strings.ToUpper(c.summary[:1]), c.summary[1:])
	if c.about != "" {
		fmt.Fprintf(w, "\n%s", c.about)
	}
	flags.SetOutput(w)
	fmt.Fprintln(w, "\nFlags:")
	flags.PrintDefaults()
	fmt.Fprintln(w, "  -h\tshow this help\n\nLAP_URL and LAP_KEY win over what lap login remembered.")
}

// usageError is a fault in how a command was called.
type usageError string

func (e usageError) Error() string { return string(e) }

var errInterrupted = errors.New("interrupted")

// errSaid ends a command that has failed and has said so.
var errSaid = errors.New("")

// code says what went wrong and returns the exit code for it.
func (s *shell) code(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, errSaid):
		return exitFailure
	case errors.As(err, &usage):
		s.say("lap: %v", err)
		return exitUsage
	}
	s.say("lap: %v", err)
	return exitFailure
}

// say writes a line for the person, not part of what the command was asked for.
func (s *shell) say(format string, args ...any) {
	fmt.Fprintln(s.err, s.plain(s.err, fmt.Sprintf(format, args...)))
}

// plain escapes text if it goes to a terminal.
func (s *shell) plain(to *os.File, text string) string {
	if !isTerminal(to) {
		return text
	}
	return escaped(text, "\n\t")
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// untilInterrupt is ctx that Ctrl-C ends as well. The function releases it and must be called.
func (s *shell) untilInterrupt(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.interrupts:
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}
