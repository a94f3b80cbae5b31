package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/local"
)

// gated is an Installer that waits to be let on.
type gated struct {
	ready
	entered chan struct{} // closed by the first Install
	proceed chan struct{}
	err     error
	once    *sync.Once
}

func newGated() gated {
	return gated{entered: make(chan struct{}), proceed: make(chan struct{}), once: &sync.Once{}}
}

func (g gated) Install(ctx context.Context, _ string, progress func(string)) (string, error) {
	progress("installing something")
	g.once.Do(func() { close(g.entered) })
	select {
	case <-g.proceed:
		return "/bin/true", g.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func TestInstallationIsStartingWithProgressAndGoesOnAfterTheServer(t *testing.T) {
	t.Parallel()
	install := newGated()
	s := newSubject(t, local.Options{Installer: install}, "good")
	spec := create(t, s)
	<-install.entered
	if st, err := s.Runtime().Get(t.Context(), spec.ID); err != nil || st.State != sandbox.Starting || st.Detail != "installing something" {
		t.Errorf("got %+v, %v", st, err)
	}
	s.Reopen(t)
	if st, err := s.Runtime().Get(t.Context(), spec.ID); err != nil || st.State != sandbox.Starting {
		t.Errorf("got %+v, %v", st, err)
	}
	close(install.proceed)
	if st := reaches(t, s, spec.ID, sandbox.Running); st.Detail != "" {
		t.Errorf("got %+v", st)
	}
}

func TestDeleteBreaksOffAnInstallation(t *testing.T) {
	t.Parallel()
	install := newGated()
	s := newSubject(t, local.Options{Installer: install}, "good")
	spec := create(t, s)
	<-install.entered
	if err := s.Runtime().Delete(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	if exists(s.dir(spec.ID)) {
		t.Error("its directory is left")
	}
}

func TestInstallationThatFailsIsTheReason(t *testing.T) {
	t.Parallel()
	install := newGated()
	install.err = errors.New("npm is out to lunch")
	close(install.proceed)
	s := newSubject(t, local.Options{Installer: install}, "good")
	spec := create(t, s)
	for range 2 {
		if st := reaches(t, s, spec.ID, sandbox.Exited); st.Reason != "install opencode: npm is out to lunch" || st.ExitCode != nil {
			t.Errorf("got %+v", st)
		}
		s.Reopen(t)
	}
}

func TestSandboxdGetsItsConfigurationAndNoSecretOfTheServer(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	root := filepath.Join(s.o.DataDir, "sessions", spec.SessionID)
	var env []string
	s.call(t, spec.ID, http.MethodGet, "/env", &env)
	for _, want := range []string{"LAP_SANDBOX_ID=" + string(spec.ID), "HOME=" + root + "/workspace/home", "PATH=" + os.Getenv("PATH")} {
		if !slices.Contains(env, want) {
			t.Errorf("%q is not in %q", want, env)
		}
	}
	if text := strings.Join(env, "\n"); strings.Contains(text, canary) {
		t.Errorf("a secret is in %q", env)
	}
	if sid, err := unix.Getsid(s.pid(t, spec.ID)); err != nil || sid != s.pid(t, spec.ID) {
		t.Errorf("it is in session %d, %v", sid, err)
	}
	b, err := os.ReadFile(filepath.Join(s.dir(spec.ID), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c fakeConfig
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if c.SandboxID != spec.ID || string(c.CallerKey) != string(spec.CallerKey) || c.Socket != "sock" || c.Root != root ||
		c.StateDir != s.dir(spec.ID)+"/state" || c.HarnessID != "opencode" || c.HarnessBin != "/bin/true" || c.IdleExitS != 600 {
		t.Errorf("got %s", b)
	}
}

func TestPathsLongerThanASocketAddressWork(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a", 100), strings.Repeat("b", 100))
	s := newSubject(t, local.Options{DataDir: dir}, "good")
	conn, err := s.Runtime().Dial(t.Context(), running(t, s).ID)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestLogsSinceBeginWithTheFirstLineOfThatTime(t *testing.T) {
	t.Parallel()
	s := newSubject(t, local.Options{}, "good")
	spec := running(t, s)
	now := time.Now().UTC()
	lines := []string{
		`{"time":"` + now.Add(-time.Hour).Format(time.RFC3339Nano) + `","msg":"old"}`, "plain and old",
		`{"time":"` + now.Add(-time.Minute).Format(time.RFC3339Nano) + `","msg":"new"}`, "plain and new", "unfinished",
	}
	if err := os.WriteFile(filepath.Join(s.dir(spec.ID), "log"), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    sandbox.LogOptions
		want []string
	}{
		{sandbox.LogOptions{}, lines},
		{sandbox.LogOptions{Since: 10 * time.Minute}, lines[2:]},
		{sandbox.LogOptions{Since: 2 * time.Hour}, lines},
		{sandbox.LogOptions{Since: time.Second}, nil},
		{sandbox.LogOptions{Tail: 2}, lines[3:]},
		{sandbox.LogOptions{Tail: 4, Since: 10 * time.Minute}, lines[2:]},
		{sandbox.LogOptions{Tail: 1, Since: 10 * time.Minute}, lines[4:]},
	} {
		r, err := s.Runtime().Logs(t.Context(), spec.ID, tt.o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || string(got) != strings.Join(tt.want, "\n") {
			t.Errorf("%+v: got %q, %v; want %q", tt.o, got, err, tt.want)
		}
	}
}
