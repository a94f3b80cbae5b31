// Package terminal runs a program in a pseudo-terminal and shares it between any number of clients. It keeps a model of the
// screen, from which a client that attaches late, or was too slow, is painted anew, and it answers the program's questions to
// its terminal itself: clients neither see nor answer them. It knows no network and no harness. A Terminal is safe for concurrent
// use.
package terminal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creack/pty"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/marked"
)

// Size of a terminal in cells.
type Size struct{ Cols, Rows int }

// DefaultSize is what a terminal has until a client says otherwise.
var DefaultSize = Size{Cols: 100, Rows: 30}

// maxCells bounds either side of a Size.
const maxCells = 1000

func (s Size) clamp() Size {
	return Size{Cols: min(max(s.Cols, 1), maxCells), Rows: min(max(s.Rows, 1), maxCells)}
}

// ErrEnded says that the program has ended, ErrClosed that the client was closed.
var (
	ErrEnded  = errors.New("the program has ended")
	ErrClosed = errors.New("the client was closed")
)

const (
	termGrace   = 5 * time.Second        // between SIGTERM and SIGKILL
	outputGrace = 500 * time.Millisecond // for output once nothing of the program is left
	readSize    = 32 << 10
	inputItems  = 16 // pieces of input that wait for the program to read
)

// Config is a program to run. It gets a session and process group of its own.
type Config struct {
	Path string
	Args []string // without the program's name
	Dir  string
	Env  []string // whole environment; TERM=xterm-256color is added
	Size Size     // zero: DefaultSize
}

// Terminal is a running program with its terminal. Five goroutines belong to it, all of which are over when Done is closed: one
// reads output, one feeds the model, one writes input, one resizes, one waits for the program's end.
type Terminal struct {
	cmd    *exec.Cmd
	pty    *os.File
	mark   string        // in the environment of everything the program starts
	input  chan input    // to the goroutine that writes
	gone   chan struct{} // closed when the program was reaped
	done   chan struct{}
	work   sync.WaitGroup // all goroutines but the one that waits
	code   int            // written before done is closed
	active atomic.Int64   // Unix nanoseconds of the last byte in either direction

	out  output
	view view
	size sizes

	signals sync.Mutex // guards reaped: whether the pid may be another's by now
	reaped  bool
}

// input is bytes to type. sent, unless nil, is closed once the program's terminal has them.
type input struct {
	b    []byte
	sent chan struct{}
}

// Start starts the program.
func Start(c Config) (*Terminal, error) {
	size := c.Size.clamp()
	if c.Size == (Size{}) {
		size = DefaultSize
	}
	t := &Terminal{
		cmd:   exec.CommandContext(context.Background(), c.Path, c.Args...), // no end of a context ends it
		mark:  "LAP_TERMINAL_RUN=" + uuid.NewString(),
		input: make(chan input, inputItems), gone: make(chan struct{}), done: make(chan struct{}),
	}
	t.cmd.Dir = c.Dir
	t.cmd.Env = append(c.Env[:len(c.Env):len(c.Env)], "TERM=xterm-256color", t.mark)
	master, err := pty.StartWithSize(t.cmd, &pty.Winsize{Cols: uint16(size.Cols), Rows: uint16(size.Rows)})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	if t.pty, err = pollable(master); err != nil {
		_ = t.cmd.Process.Kill()
		_ = t.cmd.Wait()
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	t.touch()
	t.out.init()
	t.view.init(size)
	t.size.init(size)
	t.work.Go(t.read)
	t.work.Go(t.feed)
	t.work.Go(t.write)
	t.work.Go(t.nudge)
	go t.wait()
	return t, nil
}

// pollable makes a file of which reads and writes can be interrupted out of one that was used with blocking calls.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (t *Terminal) touch() { t.active.Store(time.Now().UnixNano()) }

// LastActive is when bytes last went in either direction, or when the program was started.
func (t *Terminal) LastActive() time.Time { return time.Unix(0, t.active.Load()) }

// read takes output until there is none any more. It waits for nobody: see output.publish.
func (t *Terminal) read() {
	defer t.out.end()
	var split splitter
	buf := make([]byte, readSize)
	for {
		n, err := t.pty.Read(buf)
		if n > 0 {
			t.touch()
			all, shown := split.split(buf[:n])
			t.out.publish(all, shown)
		}
		if err != nil {
			return
		}
	}
}

// feed keeps the model up to date.
func (t *Terminal) feed() {
	for t.out.await() {
		for t.catchUp() {
		}
		if t.out.wasLost() {
			t.size.request()
		}
	}
}

// catchUp feeds some output to the model and types its answers. It reports whether there was any.
func (t *Terminal) catchUp() bool {
	t.view.mu.Lock()
	defer t.view.mu.Unlock()
	return t.catchUpLocked()
}

func (t *Terminal) catchUpLocked() bool {
	b, lost := t.out.take(modelStep)
	if len(b) == 0 {
		return false
	}
	defer t.view.changedLocked()
	if answers := t.view.screen.write(b, lost); len(answers) > 0 {
		select {
		case t.input <- input{b: answers}:
		default: // a program that reads nothing gets no answers
		}
	}
	return true
}

func (t *Terminal) write() {
	for {
		select {
		case i := <-t.input:
			_, _ = t.pty.Write(i.b) // fails when the program has ended
			if i.sent != nil {
				close(i.sent)
			}
		case <-t.gone:
			return
		}
	}
}

// wait ends what the program left behind before it says that the program is over.
func (t *Terminal) wait() {
	defer close(t.done)
	marked.AwaitExit(t.cmd.Process.Pid)
	t.signals.Lock()
	_ = unix.Kill(-t.cmd.Process.Pid, unix.SIGKILL) // the zombie leader keeps the group's id from being reused
	_ = t.cmd.Wait()
	t.reaped = true
	t.signals.Unlock()
	t.code = exitCode(t.cmd.ProcessState)
	_ = marked.End(context.Background(), t.mark) // the sandbox ends what is left
	close(t.gone)
	_ = t.pty.SetWriteDeadline(time.Now())
	_ = t.pty.SetReadDeadline(time.Now().Add(outputGrace)) // a stranger may hold the other end
	t.work.Wait()
	_ = t.pty.Close()
}

// Write types bytes as a client would. It may wait for the program to read.
func (t *Terminal) Write(p []byte) (int, error) {
	if err := t.send(context.Background(), input{b: append([]byte{}, p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (t *Terminal) send(ctx context.Context, i input) error {
	select {
	case <-t.gone:
		return ErrEnded
	default:
	}
	select {
	case t.input <- i:
		t.touch()
		return nil
	case <-t.gone:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Screen is the text of the screen, one line a row, without trailing blanks.
func (t *Terminal) Screen() string {
	t.view.mu.Lock()
	defer t.view.mu.Unlock()
	for range 2 * backlogMost / modelStep { // a program that goes on writing must not keep it here
		if !t.catchUpLocked() {
			break
		}
	}
	return t.view.screen.text()
}

// Wait returns once the screen satisfies ok, or with an error when ctx ends or the program has.
func (t *Terminal) Wait(ctx context.Context, ok func(screen string) bool) error {
	for {
		change, over := t.view.watch()
		if ok(t.Screen()) {
			return nil
		}
		if over {
			return ErrEnded
		}
		select {
		case <-change:
		case <-t.done:
			t.view.finish()
		case <-ctx.Done():
			return fmt.Errorf("wait for the screen: %w", ctx.Err())
		}
	}
}

// Done is closed when the program has ended and its last output was taken. ExitCode is then its exit code, or 128 and the
// number of the signal that ended it.
func (t *Terminal) Done() <-chan struct{} { return t.done }

// ExitCode is meaningful after Done.
func (t *Terminal) ExitCode() int { return t.code }

// Close ends the program and its process group: SIGTERM, SIGKILL after 5 s. It returns when nothing is left. Idempotent.
func (t *Terminal) Close() {
	t.signal(unix.SIGTERM)
	grace := time.NewTimer(termGrace)
	defer grace.Stop()
	select {
	case <-t.done:
		return
	case <-grace.C:
	}
	t.signal(unix.SIGKILL)
	<-t.done
}
