package local

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

	"github.com/litellm-agent-platform/lap/sandbox"
)

// sandboxEnv is in the environment of every process of a sandbox: it is how those that left their session are found.
const sandboxEnv = "LAP_SANDBOX_ID"

const sweepTime = 5 * time.Second

// sweep kills every process of this user that carries the sandbox's id and sees it end, until two looks in a row find none: one
// look could miss a child whose parent ended in the middle of it. A dying process loses its environment, and so the mark, before
// it lets go of its files and of the lock of sandboxd: to be out of sight is not to be gone.
func sweep(ctx context.Context, id sandbox.ID) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	mark := []byte(sandboxEnv + "=" + string(id))
	for clean := 0; clean < 2; {
		left, err := killMarked(ctx, mark)
		if err != nil {
			return fmt.Errorf("end processes of sandbox %s: %w", id, err)
		}
		if left == 0 {
			clean++
			continue
		}
		clean = 0
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("end processes of sandbox %s: %d are left: %w", id, left, ctx.Err())
		}
	}
	return nil
}

// killMarked kills what it finds in one look, waits for their ends, and says how many that were.
func killMarked(ctx context.Context, mark []byte) (int, error) {
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
		if err != nil || pid == os.Getpid() || !marked(pid, mark) {
			continue
		}
		if fd, ok := killIfMarked(pid, mark); ok {
			killed = append(killed, fd)
		}
	}
	for _, fd := range killed {
		for !pidfdEnded(fd) && pause(ctx, time.Millisecond) {
		}
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
	if marked(pid, mark) && !errors.Is(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0), unix.ESRCH) {
		return fd, true
	}
	_ = unix.Close(fd)
	return 0, false
}

// marked reports whether a living process of this user carries the mark. A zombie has no environment any more.
func marked(pid int, mark []byte) bool {
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
