package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Addresses of the room. There is nothing else: what leads out of the node ends in a second network of the room, Outside.
const (
	NodeAddr   = "10.99.0.1"
	APIAddr    = "10.0.0.1" // the cluster's own service: the API server itself listens there
	podRange   = "10.88.0.0/16"
	Outside    = "10.99.0.254" // a private address beyond the node
	Public     = "93.184.215.14"
	Metadata   = "169.254.169.254"
	nodeName   = "node1"
	outsideNet = "/run/netns/outside"
)

// Private are addresses of private and shared ranges that answer, too.
var Private = []string{"10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1"}

// furnish makes the namespaces of this process into a machine for a node.
func furnish(dir string) error {
	mounts := []struct {
		source, target, kind, data string
		flags                      uintptr
	}{
		{"", "/", "", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", "", 0},
		{"tmpfs", "/run", "tmpfs", "mode=755", 0},
		{"overlay", "/var/lib", "overlay", fmt.Sprintf("lowerdir=/var/lib,upperdir=%[1]s/upper,workdir=%[1]s/work", dir), 0},
		{"", "/", "", "", unix.MS_REC | unix.MS_SHARED}, // as a kubelet wants it
	}
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := errors.Join(os.MkdirAll("/run/lock", 0o755), unix.Sethostname([]byte(nodeName))); err != nil {
		return err
	}
	return connect()
}

// connect makes the network of the node and the one outside, and a link between them.
func connect() error {
	commands := [][]string{
		{"netns", "add", "outside"},
		{"link", "set", "lo", "up"},
		{"link", "add", "node0", "type", "bridge"},
		{"addr", "add", NodeAddr + "/24", "dev", "node0"},
		{"addr", "add", APIAddr + "/32", "dev", "lo"},
		{"addr", "add", NamesAddr + "/32", "dev", "lo"},
		{"link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", "outside"},
		{"link", "set", "wire", "master", "node0", "up"},
		{"link", "set", "node0", "up"},
		{"route", "add", "default", "via", Outside},
		{"-n", "outside", "link", "set", "lo", "up"},
		{"-n", "outside", "addr", "add", Outside + "/24", "dev", "eth0"},
		{"-n", "outside", "link", "set", "eth0", "up"},
		{"-n", "outside", "route", "add", "default", "via", NodeAddr},
	}
	for _, addr := range append([]string{Public, Metadata}, Private...) {
		commands = append(commands, []string{"-n", "outside", "addr", "add", addr + "/32", "dev", "lo"})
	}
	for _, args := range commands {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	for _, name := range []string{"ipv4/ip_forward", "bridge/bridge-nf-call-iptables"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// outside runs f where sockets belong to the network outside.
func outside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			ns, err := os.Open(outsideNet)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// Listen listens outside until the end of the test.
func Listen(t testing.TB, addr string) (l net.Listener) {
	t.Helper()
	err := outside(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket does so for datagrams.
func ListenPacket(t testing.TB, addr string) (p net.PacketConn) {
	t.Helper()
	err := outside(func() (err error) {
		p, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// LinkLocal is the node's address on the pods' network that needs no IPv6 to be set up, as a pod writes it.
func LinkLocal(t testing.TB) string {
	t.Helper()
	i, err := net.InterfaceByName("cni0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() == nil && ip.IsLinkLocalUnicast() {
			return "[" + ip.String() + "%eth0]"
		}
	}
	t.Fatalf("the node has only %v", addrs)
	return ""
}
