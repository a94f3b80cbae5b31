package servertest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PublicAddr is the address of hosts that are public to the product. Nothing leads out of where it is used.
const PublicAddr = "93.184.215.14"

// hosts are the names of the network of InNetwork.
const hosts = "127.0.0.1 localhost inside.example gateway.example\n" + PublicAddr + " allowed.example denied.example other.example\n"

const inNetworkEnv = "LAP_TEST_IN_NETWORK"

// InNetwork runs the rest of a test in a network without any link, in which the names of hosts lead to its loopback. It returns
// false in the process that only waits for that.
func InNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNetworkEnv) != "" {
		if err := EnterNetwork(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNetworkEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_ADMIN},
	}
	out, err := cmd.CombinedOutput()
	t.Logf("in a network of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("it failed: %v", err)
	}
	return false
}

// EnterNetwork makes the network of InNetwork usable in the process that has it. A TestMain that starts something calls it before.
var EnterNetwork = sync.OnceValue(func() error {
	if os.Getenv(inNetworkEnv) == "" {
		return nil
	}
	for name, addr := range map[string]string{"lo": "127.0.0.1", "lo:1": PublicAddr} {
		if err := addAddress(name, addr); err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
	}
	file, err := os.CreateTemp("", "hosts")
	if err != nil {
		return err
	}
	_, err = file.WriteString(hosts)
	err = errors.Join(err, file.Chmod(0o644), file.Close(), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(file.Name(), "/etc/hosts", "", unix.MS_BIND, ""))
	return errors.Join(err, os.Remove(file.Name())) // the mount keeps it
})

// addAddress gives the loopback device an address and brings it up.
func addAddress(device, addr string) error {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct {
		name [unix.IFNAMSIZ]byte
		data [24]byte
	}
	copy(request.name[:], device)
	call := func(number uintptr) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return errno
		}
		return nil
	}
	request.data[0] = unix.AF_INET
	four := ip.As4()
	copy(request.data[4:8], four[:])
	if err := call(unix.SIOCSIFADDR); err != nil {
		return err
	}
	request.data = [24]byte{unix.IFF_UP | unix.IFF_RUNNING}
	return call(unix.SIOCSIFFLAGS)
}
