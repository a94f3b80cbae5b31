package terminal

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sweepGrace = 5 * time.Second // to see killed processes go
	sweepPause = 5 * time.Millisecond
)

// awaitExit returns when a child has ended and does not reap it.
func awaitExit(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
}

func exitCode(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// signal signals the process group, unless it is over.
func (t *Terminal) signal(s unix.Signal) {
	t.signals.Lock()
	defer t.signals.Unlock()
	if !t.reaped {
		_ = unix.Kill(-t.cmd.Process.Pid, s) // already gone
	}
}

// killMarked kills every process with the mark in its environment, which includes those that made groups and sessions of their
// own, until none is left or the grace has passed. Zombies have no environment and count as gone.
func killMarked(mark string) {
	for deadline := time.Now().Add(sweepGrace); time.Now().Before(deadline); {
		found := false
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && marked(pid, mark) {
				killPinned(pid, mark)
				found = true
			}
		}
		if !found {
			return
		}
		pause := time.NewTimer(sweepPause)
		<-pause.C
	}
}

func marked(pid int, mark string) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(append([]byte{0}, env...), []byte("\x00"+mark+"\x00"))
}

// killPinned kills through a pidfd, taken before the second look: the pid cannot become another's in between.
func killPinned(pid int, mark string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if marked(pid, mark) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // already gone
	}
}
