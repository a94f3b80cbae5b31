// Package servertest gives tests that run the real binary what they share: the binary itself, a free address for it, and the
// directory where installed harnesses are kept from one run to the next. It must not be imported by anything but tests.
package servertest

import (
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

// FreeAddr returns a loopback address that nobody listened on a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
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
