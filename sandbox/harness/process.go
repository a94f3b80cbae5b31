package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/marked"
)

const (
	termGrace   = 5 * time.Second // between SIGTERM and SIGKILL
	outputGrace = 500 * time.Millisecond
	tailLines   = 20
	tailWidth   = 500 // bytes of a line
)

// processSpec says what to start.
type processSpec struct {
	name   string // for reasons
	argv   []string
	dir    string
	env    []string
	log    io.Writer           // gets stdout and stderr
	line   func(string)        // called for each line of them, from one goroutine; may be nil
	stdin  bool                // whether there is something to write to its standard input
	stdout func(io.Reader)     // reads its standard output, which then goes nowhere else; may be nil
	redact func(string) string // applied to what reaches a reason
	exited func()              // called once the program has ended, before what it left behind is; may be nil
}

// process is a harness's process. Everything it starts carries a mark in its environment, so that tools which made process
// groups and sessions of their own end with it. Two goroutines belong to it, and one more that reads a standard output of its own:
// they read the output and wait for the end; all are over when done is closed.
type process struct {
	spec  processSpec
	cmd   *exec.Cmd
	mark  string
	done  chan struct{}
	tail  tail
	stdin *os.File // writes to it fail once the process is over
	files []*os.File
	kills int64 // for want of memory, before it started

	mu     sync.Mutex // guards reaped: whether the pid may be another's by now
	reaped bool

	reason string // written before done is closed
}

func startProcess(spec processSpec) (*process, error) {
	p := &process{spec: spec, done: make(chan struct{}), mark: "LAP_HARNESS_RUN=" + uuid.NewString(), kills: oomKills("/")}
	p.cmd = exec.Command(spec.argv[0], spec.argv[1:]...)
	p.cmd.Dir, p.cmd.Env = spec.dir, append(spec.env[:len(spec.env):len(spec.env)], p.mark)
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	var readers []func()
	theirs, err := p.connect(&readers)
	if err == nil {
		err = p.cmd.Start()
	}
	closeAll(theirs)
	if err != nil {
		closeAll(p.files)
		return nil, fmt.Errorf("start %s: %w", spec.name, err)
	}
	var output sync.WaitGroup
	for _, read := range readers {
		output.Go(read)
	}
	go p.wait(&output)
	return p, nil
}

// connect makes the pipes. It returns the ends that the process gets, also with an error.
func (p *process) connect(readers *[]func()) (theirs []*os.File, err error) {
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	out, w := pipe()
	if err != nil {
		return nil, err
	}
	p.files, theirs = append(p.files, out), append(theirs, w)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	*readers = append(*readers, func() { p.readOutput(out) })
	if p.spec.stdout != nil {
		if out, w := pipe(); err == nil {
			p.files, theirs, p.cmd.Stdout = append(p.files, out), append(theirs, w), w
			*readers = append(*readers, func() { p.spec.stdout(out) })
		}
	}
	if p.spec.stdin {
		if r, in := pipe(); err == nil {
			p.files, theirs, p.cmd.Stdin, p.stdin = append(p.files, in), append(theirs, r), r, in
		}
	}
	return theirs, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// wait ends what the process left behind before it says that the process is over.
func (p *process) wait(output *sync.WaitGroup) {
	defer close(p.done)
	marked.AwaitExit(p.cmd.Process.Pid)
	p.mu.Lock()
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) // the zombie leader keeps the group's id from being reused
	err := p.cmd.Wait()
	p.reaped = true
	p.mu.Unlock()
	if p.spec.exited != nil {
		p.spec.exited()
	}
	_ = marked.End(context.Background(), p.mark) // the sandbox ends what is left
	for _, f := range p.files {
		_ = f.SetDeadline(time.Now().Add(outputGrace))
	}
	output.Wait()
	closeAll(p.files)
	p.reason = p.spec.redact(p.exitReason(err))
}

func (p *process) exitReason(err error) string {
	how := "exited with code 0"
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && killed(exit) && oomKills("/") > p.kills:
		how = "was killed because the sandbox ran out of memory"
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		how = "was ended by a signal (" + strings.TrimPrefix(exit.String(), "signal: ") + ")"
	case errors.As(err, &exit):
		how = "exited with code " + strconv.Itoa(exit.ExitCode())
	case err != nil:
		how = "ended, its exit code is not known"
	}
	if last := p.tail.String(); last != "" {
		return p.spec.name + " " + how + "; its last output: " + last
	}
	return p.spec.name + " " + how + " without any output"
}

func killed(exit *exec.ExitError) bool {
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func (p *process) readOutput(r io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if p.spec.log != nil {
				_, _ = p.spec.log.Write(buf[:n]) // a full disk must not stop the harness
			}
			p.tail.write(buf[:n], p.spec.line)
		}
		if err != nil {
			p.tail.flush(p.spec.line)
			return
		}
	}
}

// signal signals the process group, unless it is over.
func (p *process) signal(s unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = unix.Kill(-p.cmd.Process.Pid, s) // already gone
	}
}

// close ends the process and everything it started, and returns when nothing is left. Any number of goroutines may call it.
func (p *process) close() {
	p.signal(unix.SIGTERM)
	grace := time.NewTimer(termGrace)
	defer grace.Stop()
	select {
	case <-p.done:
		return
	case <-grace.C:
	}
	p.signal(unix.SIGKILL)
	<-p.done
}

// tail keeps the last lines of an output.
type tail struct {
	mu      sync.Mutex // guards lines
	lines   []string
	partial []byte // of the goroutine that writes
}

func (t *tail) write(b []byte, line func(string)) {
	for {
		head, rest, found := bytes.Cut(b, []byte("\n"))
		t.partial = append(t.partial, head[:min(len(head), max(0, tailWidth-len(t.partial)))]...)
		if !found {
			return
		}
		t.flush(line)
		b = rest
	}
}

// flush ends the line being written.
func (t *tail) flush(line func(string)) {
	text := strings.ToValidUTF8(strings.TrimSpace(string(t.partial)), "?")
	t.partial = t.partial[:0]
	if text == "" {
		return
	}
	t.add(text)
	if line != nil {
		line(text)
	}
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	t.lines = t.lines[max(0, len(t.lines)-tailLines):]
}

// String is the lines on one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, " | ")
}
