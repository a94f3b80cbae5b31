package agent

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// killWithin bounds how long is waited for killed processes to be gone.
const killWithin = 2 * time.Second

// killStrays kills what is left below this process of the sandbox with the given id, or all of it, and waits until it is gone.
// A killed process may leave children behind, so it looks again until there is nothing.
func killStrays(id string, all bool) {
	deadline := time.Now().Add(killWithin)
	for {
		left := 0
		for pid, st := range descendants(os.Getpid()) {
			if all || hasEnv(pid, "LAP_SANDBOX_ID="+id) {
				left++
				kill(pid, st)
			}
		}
		if left == 0 || time.Now().After(deadline) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill sends SIGKILL to exactly the process that was seen: a pid may have been given to another one since.
func kill(pid int, seen procStat) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if now, err := readStat(pid); err == nil && now.start == seen.start {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
