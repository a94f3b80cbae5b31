package local_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

// fakeServer takes a data directory, a sandbox id, a session id and a key, creates the sandbox, and says what it sees.
func fakeServer(args []string) int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	rt, err := local.New(local.Options{DataDir: args[0], Command: []string{exe, asSandboxd, "good"}, Installer: chatty{}})
	if err != nil {
		return 1
	}
	changes := rt.Watch(context.Background())
	fmt.Println("open")
	key, err := base64.StdEncoding.DecodeString(args[3])
	if err != nil {
		return 1
	}
	spec := sandbox.Spec{ID: sandbox.ID(args[1]), SessionID: args[2], Harness: "opencode", CallerKey: key}
	if err := rt.Create(context.Background(), spec); err != nil {
		return 1
	}
	fmt.Println("created")
	for range changes {
		if st, err := rt.Get(context.Background(), spec.ID); err == nil && st.State == sandbox.Running {
			break
		}
		fmt.Println("changed")
	}
	fmt.Println("running")
	select {}
}

// chatty is an Installer that reports progress.
type chatty struct{ ready }

func (chatty) Install(_ context.Context, _ string, progress func(string)) (string, error) {
	for i := range 3 {
		progress(fmt.Sprintf("step %d", i))
	}
	return "/bin/true", nil
}

func TestServerKilledAtAnyMomentLeavesOneSandboxOrNone(t *testing.T) {
	t.Parallel()
	for _, when := range []struct {
		line  int // killed after this line of its output, at the latest when the sandbox runs
		delay time.Duration
	}{
		{1, 0}, {1, time.Millisecond}, {2, 0}, {2, 500 * time.Microsecond}, {2, time.Millisecond}, {2, 2 * time.Millisecond},
		{2, 3 * time.Millisecond}, {2, 5 * time.Millisecond}, {2, 8 * time.Millisecond}, {3, 0}, {4, 0}, {5, 0}, {99, 0},
	} {
		t.Run(fmt.Sprintf("line %d and %v", when.line, when.delay), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			spec := newSpec()
			killServer(t, dir, spec, when.line, when.delay)
			s := newSubject(t, local.Options{DataDir: dir}, "good")
			if err := s.Runtime().Create(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			reaches(t, s, spec.ID, sandbox.Running)
			sandboxtest.Eventually(t, "a second one has found the lock taken and ended", func() error {
				if pids := processes(spec.ID); len(pids) != 1 || pids[0] != s.pid(t, spec.ID) {
					return fmt.Errorf("processes %v, want %d alone", pids, s.pid(t, spec.ID))
				}
				return nil
			})
			if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
				t.Fatal(err)
			}
			if pids := processes(spec.ID); len(pids) != 0 {
				t.Errorf("left behind: %v", pids)
			}
		})
	}
}

func killServer(t *testing.T, dir string, spec sandbox.Spec, line int, delay time.Duration) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command(exe, asServer, dir, string(spec.ID), spec.SessionID, base64.StdEncoding.EncodeToString(spec.CallerKey))
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range line {
		if !lines.Scan() || lines.Text() == "running" {
			break
		}
	}
	<-time.After(delay)
	_ = server.Process.Kill()
	if err := server.Wait(); err == nil {
		t.Fatal("the server ended before it was killed")
	}
}

func newSpec() sandbox.Spec {
	return sandbox.Spec{
		ID: sandbox.ID(sandboxtest.NewID()), SessionID: sandboxtest.NewID(), Harness: "opencode", CallerKey: make([]byte, 32),
	}
}

func reaches(t *testing.T, s *subject, id sandbox.ID, want sandbox.State) sandbox.Status {
	t.Helper()
	var last sandbox.Status
	sandboxtest.Eventually(t, "sandbox is "+string(want), func() (err error) {
		if last, err = s.Runtime().Get(t.Context(), id); err == nil && last.State != want {
			err = fmt.Errorf("it is %+v", last)
		}
		return err
	})
	return last
}
