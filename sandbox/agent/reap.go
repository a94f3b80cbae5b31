package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reapWhile runs f and, meanwhile, waits for the orphans that the kernel gives to this process, and for nobody else's children.
// It relies on three facts: an orphan becomes the child of the process's main thread; a process that Go starts is the child of
// the thread that started it; and a wait can be limited to the children of the calling thread. So it keeps the main thread, on
// which it must be called, to itself, and os/exec never loses an exit status to it.
func reapWhile(f func() int) (int, error) {
	if unix.Gettid() != os.Getpid() {
		return 0, errors.New("reap orphans: func main does not hold the main thread; an init function must lock it")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become the parent of orphans: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	ctx, cancel := context.WithCancel(context.Background())
	code := 0
	var work sync.WaitGroup
	work.Go(func() {
		defer cancel()
		code = f()
	})
	reap(ctx, died)
	work.Wait()
	return code, nil
}

func reap(ctx context.Context, died <-chan os.Signal) {
	for {
		reapOnce()
		select {
		case <-died:
		case <-ctx.Done():
			return
		}
	}
}

func reapOnce() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WNOTHREAD, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
