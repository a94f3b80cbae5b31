package marked_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox/marked"
)

// start starts a program that makes a child of a session of its own and ends, and returns the child's pid.
func start(t *testing.T, mark string) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("setsid", "-f", "sh", "-c", "trap '' TERM HUP; echo $$ >&3; exec sleep 600")
	c.Env, c.ExtraFiles = append(os.Environ(), mark), []*os.File{w}
	if err := errors.Join(c.Run(), w.Close()); err != nil {
		t.Fatal(err)
	}
	var said [32]byte
	n, err := r.Read(said[:])
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(said[:n])))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	return pid
}

func TestEndEndsWhatCarriesTheMarkAndNothingElse(t *testing.T) {
	t.Parallel()
	mark := "LAP_TEST_MARK=" + t.Name()
	with, longer := start(t, mark), start(t, mark+"x")
	if err := marked.End(t.Context(), mark); err != nil {
		t.Fatal(err)
	}
	if runs(with) || !runs(longer) {
		t.Errorf("the marked process runs: %v, that with another mark: %v", runs(with), runs(longer))
	}
}

// In the middle of execve a process shows no environment. This one is there most of its life.
func TestEndFindsWhatIsInTheMiddleOfExec(t *testing.T) {
	t.Parallel()
	mark := "LAP_TEST_MARK=" + t.Name()
	script := t.TempDir() + "/again"
	if err := os.WriteFile(script, []byte(`exec sh "$0"`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		c := exec.Command("sh", script)
		c.Env = append(os.Environ(), mark)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		if err := marked.End(t.Context(), mark); err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(time.Second):
			_ = c.Process.Kill()
			t.Fatal("a process between two programs was left")
		}
	}
}

// runs tells whether a process runs: what is left of one that has ended has no arguments.
func runs(pid int) bool {
	argv, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return len(argv) > 0
}

func TestAwaitExitDoesNotReap(t *testing.T) {
	t.Parallel()
	c := exec.Command("sh", "-c", "exit 7")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	marked.AwaitExit(c.Process.Pid)
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit %v, want code 7", err)
	}
}
