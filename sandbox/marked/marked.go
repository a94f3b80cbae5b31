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

const (
	limit = 5 * time.Second        // of one End
	grace = 200 * time.Millisecond // for processes that are in execve
)

// End kills every process of this user that carries the mark, except the caller, and sees it end, until two looks in a row find
// none: one look could miss a child whose parent ended in the middle of it. A dying process loses its environment, and so the
// mark, before it lets go of its files: to be out of sight is not to be gone. Nor is one in the middle of execve, whose new
// environment does not show yet: while there is one, End looks again, for at most 200 ms. It takes at most 5 seconds.
func End(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	for clean := 0; clean < 2; {
		left, unclear, err := killOnce(ctx, []byte(mark))
		if err != nil {
			return err
		}
		if left == 0 && (!unclear || time.Since(began) > grace) {
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

// killOnce kills what it finds in one look, waits for their ends, and says how many that were, and whether there was one that
// could not be told.
func killOnce(ctx context.Context, mark []byte) (n int, unclear bool, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0, false, err
	}
	names, err := proc.Readdirnames(-1)
	if err = errors.Join(err, proc.Close()); err != nil {
		return 0, false, err
	}
	var killed []int // their pidfds
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == os.Getpid() {
			continue
		}
		env := environ(pid)
		if len(env) == 0 && inExec(pid) {
			unclear = true
			continue
		}
		if len(env) == 0 { // it may have left execve in between
			env = environ(pid)
		}
		if carries(env, mark) {
			fd, ok := killIfMarked(pid, mark)
			if ok {
				killed = append(killed, fd)
			}
			unclear = unclear || !ok
		}
	}
	for _, fd := range killed {
		awaitEnd(ctx, fd)
		err = errors.Join(err, unix.Close(fd))
	}
	return len(killed), unclear, errors.Join(err, ctx.Err())
}

// killIfMarked looks again when it holds the process, because the number may have passed on. It returns what it holds it by.
func killIfMarked(pid int, mark []byte) (int, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, false
	}
	if carries(environ(pid), mark) && !errors.Is(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0), unix.ESRCH) {
		return fd, true
	}
	_ = unix.Close(fd)
	return 0, false
}

// environ is the environment of a living process of this user: KEY=value, each ended by a NUL. A zombie has none any more.
func environ(pid int) []byte {
	if !ours(pid) {
		return nil
	}
	env, err := os.ReadFile(file(pid, "environ"))
	if err != nil {
		return nil
	}
	return env
}

func carries(env, mark []byte) bool {
	for len(env) > 0 {
		var entry []byte
		entry, env, _ = bytes.Cut(env, []byte{0})
		if bytes.Equal(entry, mark) {
			return true
		}
	}
	return false
}

// inExec tells whether a process of this user without environment has no arguments either, although it is neither one that
// ends nor one of the kernel's (proc_pid_stat(5); the flags are those of the kernel's include/linux/sched.h).
func inExec(pid int) bool {
	const exiting, kernel = 0x4, 0x200000
	if args, err := os.ReadFile(file(pid, "cmdline")); err != nil || len(args) > 0 || !ours(pid) {
		return false
	}
	stat, err := os.ReadFile(file(pid, "stat"))
	_, after, ok := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(after) // state ppid pgrp session tty_nr tpgid flags
	if err != nil || !ok || len(fields) < 7 || bytes.ContainsAny(fields[0], "ZX") {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	return err == nil && flags&(exiting|kernel) == 0
}

func ours(pid int) bool {
	info, err := os.Stat(file(pid, ""))
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func file(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// awaitEnd returns when the process behind a pidfd has ended: it is readable then.
func awaitEnd(ctx context.Context, fd int) {
	for ctx.Err() == nil {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10); n > 0 { // milliseconds
			return
		}
	}
}
