package terminal

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

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
