package agent

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A pod's way out is a network policy's business. Many network plugins enforce it on the addresses that they give to pods alone: on
// a cluster without IPv6, what listens on a node is still reached by its link-local IPv6 address, past every policy. And a socket of
// another family, such as one to the hypervisor of a virtual machine (AF_VSOCK), is no plugin's business at all.

// callNumbers are those of a processor's own system calls and of its 32-bit ones, from the kernel's tables.
type callNumbers struct {
	arch, socket             uint32 // AUDIT_ARCH_ and the call
	arch32, socket32, call32 uint32 // call32 is socketcall, which hides its arguments
}

var calls = map[string]callNumbers{
	"amd64": {unix.AUDIT_ARCH_X86_64, 41, unix.AUDIT_ARCH_I386, 359, 102},
	"arm64": {unix.AUDIT_ARCH_AARCH64, 198, unix.AUDIT_ARCH_ARM, 281, noCall},
}

const (
	noCall       = x32Bit     // is refused anyway
	ioUringSetup = 425        // on every processor; its operations are no calls
	x32Bit       = 0x40000000 // set in the numbers of a third table of amd64
)

// keepToIP leaves this process and all that it starts only sockets whose ways a network policy sees: Unix sockets, the kernel's
// netlink, IPv4, and IPv6 if the network gave an address of it. It is for good.
func keepToIP() error {
	families := []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK}
	has, err := hasIPv6()
	if err != nil {
		return err
	}
	if has {
		families = append(families, unix.AF_INET6)
	}
	return allowFamilies(families)
}

// hasIPv6 tells whether a device has an address beyond its link.
func hasIPv6() (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsGlobalUnicast() {
			return true, nil
		}
	}
	return false, nil
}

func allowFamilies(families []uint32) error {
	n, ok := calls[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("no system calls are known of %s", runtime.GOARCH)
	}
	program, err := bpf.Assemble(socketFilter(n, families))
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	raw := make([]unix.SockFilter, len(program))
	for i, p := range program {
		raw[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}
	// On all threads of the process, or none: a number is that of a thread that cannot have it.
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("filter system calls: %w", errno)
	}
	if r != 0 {
		return errors.New("filter system calls: a thread has another filter")
	}
	return nil
}

// socketFilter is the program for the kernel (seccomp(2)). Other families are as unknown as if this system did not have them.
func socketFilter(n callNumbers, families []uint32) []bpf.Instruction {
	const (
		number, arch, family = 0, 4, 16 // offsets of what the kernel tells of a call
		allow                = unix.SECCOMP_RET_ALLOW
		unknownFamily        = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
		unknownCall          = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	load := func(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }
	when := func(cond bpf.JumpTest, v, action uint32) []bpf.Instruction {
		return []bpf.Instruction{bpf.JumpIf{Cond: cond, Val: v, SkipFalse: 1}, bpf.RetConstant{Val: action}}
	}
	section := func(socket, hidden uint32) []bpf.Instruction {
		return slices.Concat(
			[]bpf.Instruction{load(number)},
			when(bpf.JumpEqual, ioUringSetup, unknownCall),
			when(bpf.JumpGreaterOrEqual, x32Bit, unknownCall),
			when(bpf.JumpEqual, hidden, unknownFamily),
			when(bpf.JumpNotEqual, socket, allow),
		)
	}
	own, other := section(n.socket, noCall), section(n.socket32, n.call32)
	other = slices.Concat(when(bpf.JumpNotEqual, n.arch32, unknownCall), other, []bpf.Instruction{bpf.Jump{Skip: uint32(len(own))}})
	program := slices.Concat(
		[]bpf.Instruction{load(arch), bpf.JumpIf{Cond: bpf.JumpEqual, Val: n.arch, SkipTrue: uint8(len(other))}},
		other, own, []bpf.Instruction{load(family)},
	)
	for _, f := range families {
		program = append(program, when(bpf.JumpEqual, f, allow)...)
	}
	return append(program, bpf.RetConstant{Val: unknownFamily})
}
