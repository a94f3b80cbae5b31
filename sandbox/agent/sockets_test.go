package agent_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/agent"
)

// trySockets prints the families of which it cannot make a socket, on a thread that was there before the filter, and what a program
// says that it starts.
func trySockets(args []string) int {
	ready, filtered, tried := make(chan struct{}), make(chan struct{}), make(chan string, 1)
	go func() {
		runtime.LockOSThread()
		close(ready)
		<-filtered
		tried <- refusedFamilies()
	}()
	<-ready
	if len(args) > 0 {
		if err := agent.AllowFamilies([]uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	close(filtered)
	fmt.Print("thread:", <-tried)
	if len(args) > 0 {
		c := exec.Command("/proc/self/exe", "sockets")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

func refusedFamilies() string {
	var refused strings.Builder
	for _, f := range []struct {
		name         string
		family, kind int
	}{
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM}, {"inet", unix.AF_INET, unix.SOCK_STREAM}, {"netlink", unix.AF_NETLINK, unix.SOCK_RAW},
		{"inet6", unix.AF_INET6, unix.SOCK_STREAM}, {"inet6-udp", unix.AF_INET6, unix.SOCK_DGRAM}, {"vsock", unix.AF_VSOCK, unix.SOCK_STREAM},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW},
	} {
		fd, err := unix.Socket(f.family, f.kind, 0)
		if err == unix.EAFNOSUPPORT {
			refused.WriteString(" " + f.name)
		}
		if err == nil {
			_ = unix.Close(fd)
		}
	}
	return refused.String() + "\n"
}

func TestASandboxInAPodMakesNoSocketPastTheNetworkPolicies(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(os.Args[0], "sockets", "filtered").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const refused = "thread: inet6 inet6-udp vsock packet\n"
	if string(out) != refused+refused {
		t.Errorf("refused are %q", out)
	}
}
