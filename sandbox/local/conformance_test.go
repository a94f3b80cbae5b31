package local_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/sandbox/sandboxtest"
)

func TestLocalRuntimeConforms(t *testing.T) {
	t.Parallel()
	sandboxtest.Conformance(t, func(t *testing.T) sandboxtest.Subject { return newSubject(t, local.Options{}, "good") })
}

// ready is an Installer with nothing to install.
type ready struct{}

func (ready) Harnesses() []string { return []string{"opencode"} }

func (ready) Install(context.Context, string, func(string)) (string, error) { return "/bin/true", nil }

// subject is a local runtime with fake sandboxds.
type subject struct {
	o local.Options

	mu sync.Mutex // guards rt
	rt *local.Runtime
}

var _ sandboxtest.Subject = (*subject)(nil)

// newSubject fills in what the options leave out. At the end of the test every sandbox is stopped, and nothing may be left.
func newSubject(t *testing.T, o local.Options, mode string) *subject {
	t.Helper()
	if o.DataDir == "" {
		o.DataDir = filepath.Join(t.TempDir(), "data")
	}
	if o.Command == nil {
		o.Command = sandboxdCommand(t, mode)
	}
	if o.Installer == nil {
		o.Installer = ready{}
	}
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s := &subject{o: o}
	s.Reopen(t)
	t.Cleanup(func() { s.end(t) })
	return s
}

func sandboxdCommand(t *testing.T, mode string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, asSandboxd, mode}
}

func (s *subject) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s.Reopen(t)
	rt := s.local()
	defer rt.Close()
	if err := rt.StopAll(ctx); err != nil {
		t.Error(err)
	}
	all, err := rt.List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, st := range all {
		if pids := processes(st.ID); st.State != sandbox.Exited || len(pids) != 0 {
			t.Errorf("left behind: %+v, processes %v", st, pids)
		}
	}
}

func (s *subject) local() *local.Runtime {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rt
}

func (s *subject) Runtime() sandbox.Runtime { return s.local() }

func (s *subject) Settings() sandbox.Settings { return s.local().Settings() }

func (s *subject) Harness() string { return "opencode" }

func (s *subject) Close() { s.local().Close() }

func (s *subject) Reopen(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rt != nil {
		s.rt.Close()
	}
	rt, err := local.New(s.o)
	if err != nil {
		t.Fatal(err)
	}
	s.rt = rt
}

func (s *subject) dir(id sandbox.ID) string {
	return filepath.Join(s.o.DataDir, "sandboxes", string(id))
}

func (s *subject) pid(t *testing.T, id sandbox.ID) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir(id), "pid.json"))
	if err != nil {
		t.Fatal(err)
	}
	var who struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(b, &who); err != nil {
		t.Fatal(err)
	}
	return who.PID
}

func (s *subject) Kill(t *testing.T, id sandbox.ID) {
	t.Helper()
	if err := syscall.Kill(s.pid(t, id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func (s *subject) Spawn(t *testing.T, id sandbox.ID) {
	t.Helper()
	s.call(t, id, http.MethodPost, "/spawn", nil)
}

// call calls the fake sandboxd and decodes its answer.
func (s *subject) call(t *testing.T, id sandbox.ID, method, path string, answer any) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Runtime().Dial(ctx, id) },
	}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://sandbox"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	if answer != nil {
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *subject) Processes(_ *testing.T, id sandbox.ID) int { return len(processes(id)) }

func (s *subject) WriteFile(t *testing.T, sessionID, name, text string) {
	t.Helper()
	if err := os.WriteFile(s.workspace(sessionID, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *subject) ReadFile(sessionID, name string) (string, error) {
	b, err := os.ReadFile(s.workspace(sessionID, name))
	return string(b), err
}

func (s *subject) workspace(sessionID string, name ...string) string {
	return filepath.Join(s.o.DataDir, "sessions", sessionID, "workspace", strings.Join(name, "/"))
}
