package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const probeTime = 10 * time.Second

// ProbeNetwork returns nil if this machine lets sandboxes have a network of their own, and why it does not otherwise. It tries, with
// a sandboxd that ends at once: what a machine forbids, no setting of it tells for sure. An empty command is as in Options.
func ProbeNetwork(ctx context.Context, command []string) error {
	if len(command) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this executable: %w", err)
		}
		command = []string{exe, "sandboxd"}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], "-probe-network")...)
	cmd.Env = []string{}
	cmd.SysProcAttr = ownNetwork()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("start a process in a network of its own: %w: %s", err, strings.TrimSpace(clip(string(out))))
	}
	return nil
}

// ownNetwork starts a process in a new user and network namespace, as the user it is. Of the capabilities that it has there it
// gets what it needs to bring loopback up, and gives them up.
func ownNetwork() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SETPCAP},
	}
}

const routeFile = "gateway.sock" // in the sandbox's directory

// routed tells whether the sandbox gets a process that carries its connections to the route.
func (b *box) routed() bool { return b.r.ownNetwork && b.r.route != "" }

// routeFor sees to it that there is a process that carries connections of a sandbox to the route for as long as its sandboxd lives.
// A former server may have been killed before it started one.
func (b *box) routeFor(sandboxd *process) {
	if !b.routed() || listens(b.dir, routeFile) {
		return
	}
	if err := b.startRoute(sandboxd.pid); err != nil {
		b.r.log.Warn("model gateway is reached through the server only", "sandbox_id", b.rec.ID, "err", err)
	}
}

// startRoute gives the process the mark of the sandbox, so that it also ends with a sandbox that is swept.
func (b *box) startRoute(pid int) error {
	out, err := b.openLog()
	if err != nil {
		return err
	}
	defer out.Close()
	args := append(append([]string{}, b.r.command[1:]...), "-route", b.r.route, "-socket", routeFile, "-pid", strconv.Itoa(pid))
	cmd := exec.CommandContext(context.Background(), b.r.command[0], args...) // no end of a context ends it
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = b.dir, out, out, b.env(b.root())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p, err := b.r.openProcess(cmd.Process.Pid)
	if err != nil {
		return errors.Join(err, cmd.Process.Release())
	}
	b.r.spawn(func() {
		select {
		case <-p.done:
			p.reap()
		case <-b.r.ctx.Done():
		}
		p.close()
	})
	return cmd.Process.Release()
}
