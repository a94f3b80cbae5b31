package agent

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The kernel of the machine has one table of system calls that a test can use; this runs the filter for all.
func TestTheSocketFilterKnowsEveryWayToMakeASocket(t *testing.T) {
	t.Parallel()
	const (
		allowed = unix.SECCOMP_RET_ALLOW
		family  = unix.SECCOMP_RET_ERRNO | int(unix.EAFNOSUPPORT)
		nosys   = unix.SECCOMP_RET_ERRNO | int(unix.ENOSYS)
	)
	for _, c := range []struct {
		what                   string
		processor              string
		arch, number, argument uint32
		want                   int
	}{
		{"IPv4", "amd64", unix.AUDIT_ARCH_X86_64, 41, unix.AF_INET, allowed},
		{"IPv6", "amd64", unix.AUDIT_ARCH_X86_64, 41, unix.AF_INET6, family},
		{"no family", "amd64", unix.AUDIT_ARCH_X86_64, 41, 1 << 31, family},
		{"another call with the number of a family", "amd64", unix.AUDIT_ARCH_X86_64, 42, unix.AF_INET6, allowed},
		{"io_uring", "amd64", unix.AUDIT_ARCH_X86_64, 425, 1, nosys},
		{"x32", "amd64", unix.AUDIT_ARCH_X86_64, x32Bit | 41, unix.AF_INET, nosys},
		{"32 bits, IPv4", "amd64", unix.AUDIT_ARCH_I386, 359, unix.AF_INET, allowed},
		{"32 bits, IPv6", "amd64", unix.AUDIT_ARCH_I386, 359, unix.AF_INET6, family},
		{"32 bits, socketcall", "amd64", unix.AUDIT_ARCH_I386, 102, 1, family},
		{"32 bits, io_uring", "amd64", unix.AUDIT_ARCH_I386, 425, 1, nosys},
		{"32 bits, what is socket with 64", "amd64", unix.AUDIT_ARCH_I386, 41, unix.AF_INET6, allowed},
		{"another processor", "amd64", unix.AUDIT_ARCH_AARCH64, 198, unix.AF_INET, nosys},
		{"IPv4", "arm64", unix.AUDIT_ARCH_AARCH64, 198, unix.AF_INET, allowed},
		{"IPv6", "arm64", unix.AUDIT_ARCH_AARCH64, 198, unix.AF_INET6, family},
		{"32 bits, VSOCK", "arm64", unix.AUDIT_ARCH_ARM, 281, unix.AF_VSOCK, family},
		{"32 bits, netlink", "arm64", unix.AUDIT_ARCH_ARM, 281, unix.AF_NETLINK, allowed},
		{"32 bits, socketcall of others", "arm64", unix.AUDIT_ARCH_ARM, 102, 1, allowed},
	} {
		vm, err := bpf.NewVM(socketFilter(calls[c.processor], []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK}))
		if err != nil {
			t.Fatal(err)
		}
		call := make([]byte, 64) // seccomp_data, in the order of bytes that this machine's packets have
		binary.BigEndian.PutUint32(call[0:], c.number)
		binary.BigEndian.PutUint32(call[4:], c.arch)
		binary.BigEndian.PutUint32(call[16:], c.argument)
		if got, err := vm.Run(call); err != nil || got != c.want {
			t.Errorf("%s, %s: %#x, want %#x (%v)", c.processor, c.what, got, c.want, err)
		}
	}
}
