// Command escape tries to leave a sandbox, ignoring the proxy that it is given, and prints the names of the ways that led out as
// <out=a b>. Its arguments say what answers outside: name=kind:address, where kind is tcp, udp (something that echoes) or icmp.
// A name may come more than once, and stands for a way if any of its addresses was reached. What needs no address it always tries:
// raw and packet sockets, entering other namespaces, reading other processes.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 3 * time.Second // a packet that is dropped is not answered

type way struct {
	name string
	out  func() bool
}

func main() {
	ways := []way{
		{"raw", func() bool { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{"packet", func() bool { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
		{"namespace", namespace},
		{"memory", memory},
	}
	for _, arg := range os.Args[1:] {
		name, target, _ := strings.Cut(arg, "=")
		kind, addr, _ := strings.Cut(target, ":")
		reach := map[string]func(string) bool{"tcp": tcp, "udp": udp, "icmp": icmp}[kind]
		if reach == nil || addr == "" {
			fmt.Fprintf(os.Stderr, "%q is not name=kind:address\n", arg)
			os.Exit(2)
		}
		ways = append(ways, way{name, func() bool { return reach(addr) }})
	}
	out := make([]string, len(ways))
	var wg sync.WaitGroup
	for i, w := range ways {
		wg.Go(func() {
			if w.out() {
				out[i] = w.name
			}
		})
	}
	wg.Wait()
	slices.Sort(out)
	out = slices.DeleteFunc(slices.Compact(out), func(name string) bool { return name == "" })
	fmt.Printf("<out=%s>\n", strings.Join(out, " "))
}

func dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

func tcp(addr string) bool {
	conn, err := dial("tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func udp(addr string) bool { return echoes("udp", addr, []byte("ping")) }

// icmp asks with a socket that needs no privilege where the system lets it, else with a raw one.
func icmp(addr string) bool {
	echo := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0} // with its checksum
	if echoes("ip4:icmp", addr, echo) {
		return true
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	ip := net.ParseIP(addr).To4()
	if ip == nil {
		return false
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit) != nil ||
		unix.Sendto(fd, echo, 0, &unix.SockaddrInet4{Addr: [4]byte(ip)}) != nil {
		return false
	}
	_, _, err = unix.Recvfrom(fd, make([]byte, 64), 0)
	return err == nil
}

func echoes(network, addr string, text []byte) bool {
	conn, err := dial(network, addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(text); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 64))
	return err == nil
}

func socket(family, kind, proto int) bool {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// namespace enters the network of another process.
func namespace() bool {
	own, _ := os.Readlink("/proc/self/ns/net")
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range paths {
		if other, err := os.Readlink(path); err != nil || other == own {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		_ = f.Close()
		if err == nil {
			return true
		}
	}
	return false
}

// memory opens that of sandboxd or the server, where keys are.
func memory() bool {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, err := os.ReadFile(path)
		program, _, _ := bytes.Cut(line, []byte{0})
		if name := filepath.Base(string(program)); err != nil || name != "sandboxd" && name != "lap" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(filepath.Dir(path), "mem"), syscall.O_RDONLY, 0)
		if err == nil {
			_ = f.Close()
			return true
		}
	}
	return false
}
