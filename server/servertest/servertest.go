// Package servertest gives tests that run the real binary what they share: the binary itself, a free address for it, and the
// directory where installed harnesses are kept from one run to the next. It must not be imported by anything but tests.
package servertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Build builds the lap binary with further flags of go build and returns its path.
func Build(t testing.TB, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lap")
	args := append([]string{"build", "-o", path}, flags...)
	if out, err := exec.Command("go", append(args, "github.com/litellm-agent-platform/lap/server")...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// Ports of FreeAddr, where the kernel takes none from for those who do not care.
const (
	firstPort = 20_000
	ports     = 10_000
)

// FreeAddr returns a loopback address that nobody listens on and that is the test's until its end: no other test gets it, also in
// another process. An abstract socket says so, which is gone with its process and is, like ports, one of its network namespace.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range ports {
		port := firstPort + rand.IntN(ports)
		mine, err := net.Listen("unix", fmt.Sprintf("@lap-test-port-%d", port))
		if err != nil {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			_ = mine.Close()
			continue
		}
		_ = l.Close()
		t.Cleanup(func() { _ = mine.Close() })
		return addr
	}
	t.Fatal("no port is free")
	return ""
}

// HarnessDir is where tests keep installed harnesses.
func HarnessDir(t testing.TB) string {
	t.Helper()
	dir, err := Harnesses()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Harnesses is that directory, for a TestMain.
func Harnesses() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "lap-test", "harnesses"), err
}
