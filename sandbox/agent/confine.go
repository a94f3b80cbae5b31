package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

const confinedFlag = "-confined"

// confine takes what a sandbox with a network of its own must not have: it is called in a process that was started in a new user
// and network namespace, on its main thread. It brings loopback up, gives up every capability for good and starts this program
// again with confinedFlag; so no thread is left that still has them. It returns only with an error.
func confine(args []string) error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // one that this kernel does not know
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give up ambient capabilities: %w", err)
	}
	header, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	argv := slices.Concat(os.Args[:len(os.Args)-len(args)], args, []string{confinedFlag})
	return fmt.Errorf("start again: %w", unix.Exec("/proc/self/exe", argv, os.Environ()))
}

// isConfined returns nil in a process that has no capability and no network but loopback.
func isConfined() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if caps != [2]unix.CapUserData{} {
		return errors.New("capabilities are left")
	}
	devices, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, d := range devices {
		// Tunnels that a kernel makes in each namespace are down, and nobody here may bring them up.
		if d.Flags&net.FlagLoopback == 0 && d.Flags&net.FlagUp != 0 {
			return fmt.Errorf("the network has a device %s", d.Name)
		}
		if d.Flags&net.FlagLoopback != 0 && d.Flags&net.FlagUp == 0 {
			return errors.New("loopback is down")
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var request struct { // ifreq
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = unix.IFF_UP | unix.IFF_RUNNING
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
