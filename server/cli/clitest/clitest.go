// Package clitest runs a program in a pseudo-terminal, as a person would see it. It must not be imported by anything but tests. A
// Terminal is used by one goroutine.
package clitest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Patience is how long anything may take on a slow machine.
const Patience = time.Minute

const maxShown = 4 << 10 // of the output of a test that failed

// Terminal is a pseudo-terminal and the program in it.
type Terminal struct {
	t          testing.TB
	master     *os.File
	slave      *os.File
	cmd        *exec.Cmd
	before     unix.Termios
	ended      chan struct{} // closed when the program has ended
	read       sync.WaitGroup
	afterwards int // of the output, what Expect has passed

	mu     sync.Mutex // guards what follows
	seen   bytes.Buffer
	more   chan struct{} // closed when there is more
	paused chan struct{} // not nil: reading waits until it is closed
}

// Start starts a program in a terminal of that size. It is killed with the test if it runs so long.
func Start(t testing.TB, cols, rows uint16, cmd *exec.Cmd) *Terminal {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	x := &Terminal{t: t, master: master, slave: slave, cmd: cmd, ended: make(chan struct{}), more: make(chan struct{})}
	x.Resize(cols, rows)
	x.before = x.mode()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	x.read.Go(x.reader)
	x.read.Go(func() { _ = cmd.Wait(); close(x.ended) })
	t.Cleanup(x.close)
	return x
}

func (x *Terminal) close() {
	x.Resume()
	_ = x.cmd.Process.Kill()
	<-x.ended
	_ = x.slave.Close()
	_ = x.master.Close()
	x.read.Wait()
	if x.t.Failed() {
		out := x.Output()
		x.t.Logf("the terminal of %q shows at last:\n%q", x.cmd.Args, out[max(0, len(out)-maxShown):])
	}
}

func (x *Terminal) reader() {
	buf := make([]byte, 32<<10)
	for {
		x.mu.Lock()
		paused := x.paused
		x.mu.Unlock()
		if paused != nil {
			<-paused
		}
		n, err := x.master.Read(buf)
		x.mu.Lock()
		x.seen.Write(buf[:n])
		close(x.more)
		x.more = make(chan struct{})
		x.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Pause stops reading what the program writes, so that it fills the terminal and waits.
func (x *Terminal) Pause() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.paused = make(chan struct{})
}

// Resume goes on reading.
func (x *Terminal) Resume() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.paused != nil {
		close(x.paused)
		x.paused = nil
	}
}

// Output is everything that was written so far, keys that the terminal echoed included.
func (x *Terminal) Output() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen.String()
}

// Expect waits until a text is written after the one that was expected before.
func (x *Terminal) Expect(text string) {
	x.t.Helper()
	x.ExpectWithin(text, Patience)
}

// ExpectWithin is Expect with a patience of its own.
func (x *Terminal) ExpectWithin(text string, patience time.Duration) {
	x.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		x.mu.Lock()
		at, more := bytes.Index(x.seen.Bytes()[x.afterwards:], []byte(text)), x.more
		x.mu.Unlock()
		if at >= 0 {
			x.afterwards += at + len(text)
			return
		}
		select {
		case <-more:
		case <-deadline.C:
			x.t.Fatalf("the terminal never showed %q", text)
		}
	}
}

// Type presses keys.
func (x *Terminal) Type(keys string) {
	x.t.Helper()
	if _, err := io.WriteString(x.master, keys); err != nil {
		x.t.Fatal(err)
	}
}

// Resize changes the size, which the program is told.
func (x *Terminal) Resize(cols, rows uint16) {
	x.t.Helper()
	if err := pty.Setsize(x.master, &pty.Winsize{Cols: cols, Rows: rows}); err != nil {
		x.t.Fatal(err)
	}
}

// Signal sends the program a signal.
func (x *Terminal) Signal(s os.Signal) {
	x.t.Helper()
	if err := x.cmd.Process.Signal(s); err != nil {
		x.t.Fatal(err)
	}
}

func (x *Terminal) mode() unix.Termios {
	x.t.Helper()
	m, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return *m
}

// AwaitMode waits until the terminal is raw, or not.
func (x *Terminal) AwaitMode(raw bool) {
	x.t.Helper()
	x.Await("the mode of the terminal", func() bool { return (x.mode().Lflag&unix.ICANON == 0) == raw })
}

// AwaitEcho waits until the terminal echoes what is typed, or not.
func (x *Terminal) AwaitEcho(echo bool) {
	x.t.Helper()
	x.Await("the echo of the terminal", func() bool { return (x.mode().Lflag&unix.ECHO != 0) == echo })
}

// Await waits until something holds.
func (x *Terminal) Await(what string, ok func() bool) {
	x.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			x.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// Wait waits until the program has ended, checks that it left the terminal in the mode that it found, and returns its exit code.
func (x *Terminal) Wait() int {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(Patience):
		x.t.Fatal("the program does not end")
	}
	if after := x.mode(); after != x.before {
		x.t.Errorf("the terminal is left in another mode:\n%+v, it was\n%+v", after, x.before)
	}
	return x.cmd.ProcessState.ExitCode()
}

// Run runs a program without a terminal and returns what it wrote and its exit code.
func Run(t testing.TB, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
