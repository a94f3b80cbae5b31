package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// routeDial bounds a connection to the route's host.
const routeDial = 10 * time.Second

// serveRoute carries connections from a socket in the working directory to one host, until ctx or the process with the pid ends. It
// runs beside a sandbox that has a network of its own, in the machine's: what a sandbox may reach in any case, which is its model
// gateway, it so reaches while no platform runs that could decide about it.
func serveRoute(ctx context.Context, socket, target string, pid int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, unix.Close(fd))
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(err, l.Close(), unix.Close(fd))
	}
	go func() { // ends with the program at the latest
		awaitPidfd(fd)
		cancel()
	}()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	slots := make(chan struct{}, relayConns)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Go(func() {
			defer func() { <-slots }()
			carryRoute(ctx, c, target)
		})
	}
}

func carryRoute(ctx context.Context, c net.Conn, target string) {
	defer c.Close()
	d := net.Dialer{Timeout: routeDial}
	up, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); up.Close() })()
	join(c, up)
}

// awaitPidfd returns when a process has ended.
func awaitPidfd(fd int) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
