// Package marked ends processes that are known by a mark, a KEY=value in their environment: everything that a program started
// has it, also what left its process group and session.
package marked

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const limit = 5 * time.Second // of one End

// End kills every process of this user that carries the mark, except the caller, and sees it end, until two looks in a row find
// none: one look could miss a child whose parent ended in the middle of it. A dying process loses its environment, and so the
// mark, before it lets go of its files: to be out of sight is not to be gone. It takes at most 5 seconds.
func End(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for clean := 0; clean < 2; {
		left, err := killOnce(ctx, []byte(mark))
		if err != nil {
			return err
		}
		if left == 0 {
			clean++
			continue
		}
		clean = 0
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d are left: %w", left, ctx.Err())
		}
	}
	return nil
}

// AwaitExit returns when a child has ended. It does not reap it, so that its number, and that of its group, stay its own.
func AwaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}

// killOnce kills what it finds in one look, waits for their ends, and says how many that were.
func killOnce(ctx context.Context, mark []byte) (int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	names, err := proc.Readdirnames(-1)
	if err = errors.Join(err, proc.Close()); err != nil {
		return 0, err
	}
	var killed []int // their pidfds
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() || !carries(pid, mark) {
			continue
		}
		if fd, ok := killIfMarked(pid, mark); ok {
			killed = append(killed, fd)
		}
	}
	for _, fd := range killed {
		awaitEnd(ctx, fd)
		err = errors.Join(err, unix.Close(fd))
	}
	return len(killed), errors.Join(err, ctx.Err())
}

// killIfMarked looks again when it holds the process, because the number may have passed on. It returns what it holds it by.
func killIfMarked(pid int, mark []byte) (int, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, false
	}
	if carries(pid, mark) && !errors.Is(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0), unix.ESRCH) {
		return fd, true
	}
	_ = unix.Close(fd)
	return 0, false
}

// carries reports whether a living process of this user carries the mark. A zombie has no environment any more.
func carries(pid int, mark []byte) bool {
	dir := "/proc/" + strconv.Itoa(pid)
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return false
	}
	env, err := os.ReadFile(dir + "/environ")
	if err != nil {
		return false
	}
	for len(env) > 0 {
		var entry []byte
		entry, env, _ = bytes.Cut(env, []byte{0})
		if bytes.Equal(entry, mark) {
			return true
		}
	}
	return false
}

// awaitEnd returns when the process behind a pidfd has ended: it is readable then.
func awaitEnd(ctx context.Context, fd int) {
	for ctx.Err() == nil {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10); n > 0 { // milliseconds
			return
		}
	}
}
