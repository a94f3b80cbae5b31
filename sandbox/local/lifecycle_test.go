package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

func create(t *testing.T, s *subject) sandbox.Spec {
	t.Helper()
	spec := newSpec()
	if err := s.Runtime().Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return spec
}

func running(t *testing.T, s *subject) sandbox.Spec {
	t.Helper()
	spec := create(t, s)
	reaches(t, s, spec.ID, sandbox.Running)
	return spec
}

func TestSandboxdThatIgnoresSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "stubborn")
	s.local().SetTermTime(50 * time.Millisecond)
	spec := running(t, s)
	s.Spawn(t, spec.ID)
	if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	if pids := processes(spec.ID); len(pids) != 0 {
		t.Errorf("left behind: %v", pids)
	}
}

func TestDeleteGoesOnWhenItsCallerGivesUp(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "stubborn")
	s.local().SetTermTime(200 * time.Millisecond)
	spec := running(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Runtime().Delete(ctx, spec.ID); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	sandboxtest.Eventually(t, "the sandbox is gone", func() error {
		if _, err := s.Runtime().Get(t.Context(), spec.ID); !errors.Is(err, sandbox.ErrNotFound) {
			return fmt.Errorf("Get: %w", err)
		}
		return nil
	})
}

func TestSandboxdThatCannotStartIsExitedWithItsLastWordsAndNotStartedAgain(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "broken")
	spec := create(t, s)
	for range 2 {
		st := reaches(t, s, spec.ID, sandbox.Exited)
		if st.Reason != "sandboxd did not start: exit code 3: no such luck" || st.ExitCode == nil || *st.ExitCode != 3 {
			t.Errorf("got %+v", st)
		}
		s.Reopen(t)
	}
	log, err := os.ReadFile(filepath.Join(s.dir(spec.ID), "log"))
	if err != nil || strings.Count(string(log), "no such luck") != 1 {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestSandboxdProgramThatIsMissingIsTheReason(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{Command: []string{"/no/such/program"}}, "")
	st := reaches(t, s, create(t, s).ID, sandbox.Exited)
	if !strings.HasPrefix(st.Reason, "start sandboxd: ") || !strings.Contains(st.Reason, "/no/such/program") {
		t.Errorf("got %+v", st)
	}
}

func TestReasonIsTheOneThatSandboxdGives(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	pid := s.pid(t, spec.ID)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	st := reaches(t, s, spec.ID, sandbox.Exited)
	if st.Reason != "told to end" || st.ExitCode == nil || *st.ExitCode != 0 {
		t.Errorf("got %+v", st)
	}
	if exists(fmt.Sprintf("/proc/%d", pid)) {
		t.Error("it was not waited for")
	}
}

func TestSignalThatKilledSandboxdIsNamed(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	s.Kill(t, spec.ID)
	st := reaches(t, s, spec.ID, sandbox.Exited)
	if st.Reason != "sandboxd was killed by signal 9 (SIGKILL)" || st.ExitCode == nil || *st.ExitCode != 137 {
		t.Errorf("got %+v", st)
	}
}

func TestSandboxdThatDoesNotListenStaysStarting(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "mute")
	spec := create(t, s)
	sandboxtest.Eventually(t, "it has said who it is", func() error {
		_, err := os.Stat(filepath.Join(s.dir(spec.ID), "pid.json"))
		return err
	})
	s.Reopen(t)
	if st, err := s.Runtime().Get(t.Context(), spec.ID); err != nil || st.State != sandbox.Starting {
		t.Errorf("got %+v, %v", st, err)
	}
	if _, err := s.Runtime().Dial(t.Context(), spec.ID); err == nil || errors.Is(err, sandbox.ErrNotFound) {
		t.Errorf("Dial: %v", err)
	}
	if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
}

func TestSandboxdThatHasNotSaidWhoItIsIsNotStartedTwice(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "late")
	spec := startLate(t, s)
	first := processes(spec.ID)
	s.Reopen(t)
	if st, err := s.Runtime().Get(t.Context(), spec.ID); err != nil || st.State != sandbox.Starting {
		t.Errorf("got %+v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(s.dir(spec.ID), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reaches(t, s, spec.ID, sandbox.Running)
	if pids := processes(spec.ID); len(pids) != 1 || !slices.Equal(pids, first) {
		t.Errorf("processes %v, want %v", pids, first)
	}
}

func TestSandboxdThatHasNotLockedItsDirectoryIsEndedBeforeAnotherIsStarted(t *testing.T) {
	t.Parallel()
	install := newGated()
	s := newSubject(t, local.Options{Installer: install}, "good")
	spec := create(t, s)
	<-install.entered
	s.Close()
	early := exec.Command("sleep", "600")
	early.Env = []string{"LAP_SANDBOX_ID=" + string(spec.ID)}
	if err := early.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = early.Wait()
		close(ended)
	}()
	s.o.Installer = ready{}
	s.Reopen(t)
	reaches(t, s, spec.ID, sandbox.Running)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it runs")
	}
}

func TestSandboxdThatNeverSaysWhoItIsIsDeletedAllTheSame(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "late")
	spec := startLate(t, s)
	s.Reopen(t)
	if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	if pids := processes(spec.ID); len(pids) != 0 {
		t.Errorf("left behind: %v", pids)
	}
}

// startLate returns when sandboxd of mode late holds its lock.
func startLate(t *testing.T, s *subject) sandbox.Spec {
	t.Helper()
	spec := create(t, s)
	awaitLock(t, s.dir(spec.ID))
	return spec
}

func awaitLock(t *testing.T, dir string) {
	t.Helper()
	sandboxtest.Eventually(t, "sandboxd holds its lock", func() error {
		f, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
			return errors.New("it does not")
		}
		return nil
	})
}

func TestSandboxdThatFindsAnotherGivesWayToIt(t *testing.T) {
	t.Parallel()
	install := newGated()
	s := newSubject(t, local.Options{Installer: install}, "good")
	spec := create(t, s)
	<-install.entered
	first := startForeign(t, s, spec)
	close(install.proceed)
	sandboxtest.Eventually(t, "the second one has given way", func() error {
		log, err := os.ReadFile(filepath.Join(s.dir(spec.ID), "log"))
		if err == nil && !strings.Contains(string(log), "lock: ") {
			err = errors.New("its log is " + string(log))
		}
		return err
	})
	sandboxtest.Eventually(t, "the first one is alone", func() error {
		if pids := processes(spec.ID); !slices.Equal(pids, []int{first}) {
			return fmt.Errorf("processes %v, want %d", pids, first)
		}
		return nil
	})
	reaches(t, s, spec.ID, sandbox.Running)
	s.Kill(t, spec.ID)
	if st := reaches(t, s, spec.ID, sandbox.Exited); !strings.HasPrefix(st.Reason, "sandboxd was killed") {
		t.Errorf("got %+v", st)
	}
}

// startForeign starts a fake sandboxd for a sandbox behind the back of its runtime.
func startForeign(t *testing.T, s *subject, spec sandbox.Spec) int {
	t.Helper()
	b, err := json.Marshal(fakeConfig{SandboxID: spec.ID, CallerKey: spec.CallerKey, Socket: "sock"})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, b, 0o600); err != nil {
		t.Fatal(err)
	}
	command := append(sandboxdCommand(t, "good"), "-config", config)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = s.dir(spec.ID), []string{"LAP_SANDBOX_ID=" + string(spec.ID)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	awaitLock(t, s.dir(spec.ID))
	return cmd.Process.Pid
}

func TestProcessThatHasTheNumberOfADeadSandboxdIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	s.Close()
	other := exec.Command("sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = other.Wait()
		close(ended)
	}()
	rewritePid(t, s, spec.ID, func(who map[string]any) { who["pid"] = other.Process.Pid })
	s.Reopen(t)
	if st := reaches(t, s, spec.ID, sandbox.Exited); st.Reason != "sandboxd was killed" || st.ExitCode != nil {
		t.Errorf("got %+v", st)
	}
	if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("the other process has ended")
	default:
		_ = other.Process.Kill()
		<-ended
	}
}

func TestRestartOfTheMachineIsTheReason(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	s.Close()
	rewritePid(t, s, spec.ID, func(who map[string]any) { who["boot_id"] = "00000000-0000-0000-0000-000000000000" })
	s.Reopen(t)
	if st := reaches(t, s, spec.ID, sandbox.Exited); st.Reason != "the machine was restarted" {
		t.Errorf("got %+v", st)
	}
}

// A server that is killed right after it has started sandboxd leaves a sandbox without its way to the model gateway.
func TestASandboxThatIsTakenOverGetsItsRoute(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	s.Close()
	s.o.OwnNetwork, s.o.Route = true, "gateway.example:80"
	s.Reopen(t)
	sandboxtest.Eventually(t, "the route is open", func() error {
		_, err := os.Stat(filepath.Join(s.dir(spec.ID), "routes"))
		return err
	})
	was := processes(spec.ID)
	s.Reopen(t)
	reaches(t, s, spec.ID, sandbox.Running)
	if is := processes(spec.ID); !slices.Equal(is, was) {
		t.Errorf("processes %v became %v", was, is)
	}
	if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	if left := processes(spec.ID); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func rewritePid(t *testing.T, s *subject, id sandbox.ID, change func(map[string]any)) {
	t.Helper()
	path := filepath.Join(s.dir(id), "pid.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var who map[string]any
	if err := json.Unmarshal(b, &who); err != nil {
		t.Fatal(err)
	}
	change(who)
	if b, err = json.Marshal(who); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCloseLeavesSandboxesAndRefusesWork(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	changes := s.Runtime().Watch(context.Background())
	s.Close()
	s.Close()
	for range changes { // until it is closed
	}
	if _, ok := <-s.Runtime().Watch(context.Background()); ok {
		t.Error("a watch of a closed runtime tells something")
	}
	if err := s.Runtime().Create(t.Context(), newSpec()); !errors.Is(err, local.ErrClosed) {
		t.Errorf("Create: %v", err)
	}
	if err := s.Runtime().Delete(t.Context(), spec.ID); !errors.Is(err, local.ErrClosed) {
		t.Errorf("Delete: %v", err)
	}
	if pids := processes(spec.ID); len(pids) != 1 {
		t.Errorf("processes %v", pids)
	}
}

func TestStopAllEndsSandboxesAndKeepsThemExited(t *testing.T) {
	t.Parallel()
	install := newGated()
	s := newSubject(t, local.Options{}, "good")
	one, two := running(t, s), running(t, s)
	s.Spawn(t, one.ID)
	s.Close()
	s.o.Installer = install
	s.Reopen(t)
	three := create(t, s)
	<-install.entered
	if err := s.local().StopAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.o.Installer = ready{}
	for range 2 {
		for id, reason := range map[sandbox.ID]string{
			one.ID: "told to end", two.ID: "told to end", three.ID: "stopped together with the server",
		} {
			st, err := s.Runtime().Get(t.Context(), id)
			if err != nil || st.State != sandbox.Exited || st.Reason != reason {
				t.Errorf("got %+v, %v; want %q", st, err, reason)
			}
			if pids := processes(id); len(pids) != 0 {
				t.Errorf("left behind: %v", pids)
			}
		}
		s.Reopen(t)
	}
}

func TestHalfMadeAndHalfRemovedDirectoriesAreCleanedUp(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	kept := running(t, s)
	broken := running(t, s)
	s.Close()
	sandboxes, sessions := filepath.Join(s.o.DataDir, "sandboxes"), filepath.Join(s.o.DataDir, "sessions")
	for _, dir := range []string{filepath.Join(sandboxes, "half"), filepath.Join(sandboxes, ".deleted-x"), filepath.Join(sessions, ".deleted-y", "z")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir(broken.ID), "spec.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Reopen(t)
	all, err := s.Runtime().List(t.Context())
	if err != nil || len(all) != 1 || all[0].ID != kept.ID || all[0].State != sandbox.Running {
		t.Errorf("got %+v, %v", all, err)
	}
	if pids := processes(broken.ID); len(pids) != 0 {
		t.Errorf("left behind: %v", pids)
	}
	s.Close()
	for dir, want := range map[string]int{sandboxes: 1, sessions: 2} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%s holds %v, %v", filepath.Base(dir), entries, err)
		}
	}
}

func TestUnreadableIdentityEndsTheSandboxAndNotTheServer(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	s.Close()
	if err := os.WriteFile(filepath.Join(s.dir(spec.ID), "pid.json"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Reopen(t)
	if st := reaches(t, s, spec.ID, sandbox.Exited); !strings.Contains(st.Reason, "pid.json") {
		t.Errorf("got %+v", st)
	}
	if pids := processes(spec.ID); len(pids) != 0 {
		t.Errorf("left behind: %v", pids)
	}
}

func TestEverythingIsReadableByTheOwnerOnly(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	if err := s.Settings().Put(t.Context(), spec.SessionID, map[string]string{"A": "1"}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(s.o.DataDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == s.o.DataDir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		seen++
		if info.Mode().Perm()&0o077 != 0 && info.Mode().Type() != fs.ModeSocket {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || seen < 15 {
		t.Errorf("%d files seen, %v", seen, err)
	}
}
