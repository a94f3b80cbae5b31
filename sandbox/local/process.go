package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process is a sandboxd, ours or one that a former server started, held by a pidfd: whatever happens to the number, a signal
// reaches this process or none. Its goroutine closes done when the process has ended, also if nobody has reaped it.
type process struct {
	pid  int
	fd   *os.File
	done chan struct{}

	unhook func() bool // of closing it together with the runtime
}

// identity is what sandboxd writes about itself, as its first act.
type identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // of the process, in clock ticks since the machine started
	BootID    string `json:"boot_id"`
}

var (
	errEnded    = errors.New("process has ended")
	errRebooted = fmt.Errorf("machine was restarted: %w", errEnded)
)

// openProcess holds and watches a process until it is closed, at the latest by Close. It returns errEnded if there is none.
func (r *Runtime) openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: not a number of a process
		return nil, errEnded
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	p.unhook = context.AfterFunc(r.ctx, func() { _ = p.fd.Close() })
	if !r.spawn(p.watch) {
		p.close()
		return nil, ErrClosed
	}
	return p, nil
}

// watch closes done when the process has ended; it returns early when the process is closed.
func (p *process) watch() {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	_ = conn.Read(func(fd uintptr) bool {
		ended = pidfdEnded(int(fd))
		return ended
	})
	if ended {
		close(p.done)
	}
}

func pidfdEnded(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}

// close lets go of the process, which runs on. It is idempotent.
func (p *process) close() {
	p.unhook()
	_ = p.fd.Close()
}

// signal is no error if the process has ended.
func (p *process) signal(sig unix.Signal) error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// reap returns how the process ended, if it is a child of this process that nobody has waited for.
func (p *process) reap() (unix.WaitStatus, bool) {
	err := p.control(func(fd int) error {
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if err != nil {
		return 0, false
	}
	var status unix.WaitStatus // an unreaped child keeps its number, so this is the same process
	pid, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
	return status, err == nil && pid == p.pid
}

func (p *process) control(fn func(fd int) error) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// waitFor reports whether the process ended before the time was over or ctx was.
func (p *process) waitFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// find returns the sandboxd that serves a directory. It is errEnded if one was there and has ended, and fs.ErrNotExist if none
// ever came as far as to say who it is.
func (r *Runtime) find(dir string) (*process, error) {
	var who identity
	if err := readJSON(filepath.Join(dir, pidFile), &who); err != nil {
		return nil, err
	}
	if who.BootID != bootID() {
		return nil, errRebooted
	}
	p, err := r.openProcess(who.PID) // before its identity is checked, so that what is checked is what is held
	if err != nil {
		return nil, err
	}
	if start, state, err := readStat(who.PID); err != nil || start != who.StartTime || state == 'Z' || state == 'X' {
		p.close()
		return nil, errEnded
	}
	return p, nil
}

// locked reports whether a sandboxd has begun to serve the directory and still runs.
func locked(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lock: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lock: %w", err)
	}
	return false, nil
}

var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// readStat returns start time and state of a process. The name before them may hold any character, so parsing begins after it.
func readStat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("stat of process %d is not readable", pid)
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64) // field 22 of the line
	return start, fields[0][0], err
}

// pause waits, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
