package sdk_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
)

const (
	masterKey = "sdk-master-key-canary-0123456789"
	patience  = 5 * time.Minute // until a program has ended; harnesses may have to be installed
)

var lap string // the binary under test

func TestMain(m *testing.M) { goleak.VerifyTestMain(builtRunner{m}) }

type builtRunner struct{ next *testing.M }

func (b builtRunner) Run() int {
	dir, err := os.MkdirTemp("", "lap-sdk-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	lap = filepath.Join(dir, "lap")
	if out, err := exec.Command("go", "build", "-o", lap, "..").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return b.next.Run()
}

// start starts the real server on SQLite, with the demo gateway behind it, and returns its URL. Its key is masterKey.
func start(t *testing.T) string {
	t.Helper()
	dir, gateway := t.TempDir(), httptest.NewServer(demo.New("sk-gateway"))
	addr := servertest.FreeAddr(t)
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lap, "serve", "--stop-sandboxes")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "DATA_DIR=" + dir, "HARNESS_DIR=" + servertest.HarnessDir(t),
		"LISTEN_ADDR=" + addr, "METRICS_ADDR=off", "MASTER_KEY=" + masterKey, "ENCRYPTION_KEY=sdk-encryption-key-0123456789",
		"LITELLM_API_BASE=" + gateway.URL, "LITELLM_API_KEY=sk-gateway",
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		gateway.Close()
		_ = log.Close()
		said, err := os.ReadFile(log.Name())
		if err != nil || strings.Contains(string(said), masterKey) {
			t.Errorf("the server's log has the key: %v", err)
		}
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", said[max(0, len(said)-8<<10):])
		}
	})
	url := "http://" + addr
	for deadline := time.Now().Add(time.Minute); !ready(t, url); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server is not ready")
		}
	}
	return url
}

func ready(t *testing.T, url string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// run runs a program to its end and returns what it wrote. Without an environment it has that of the tests.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// settings is the environment of a program that uses a server.
func settings(url string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LAP_URL=" + url, "LAP_KEY=" + masterKey}
}

// quickStart returns the first block of code of a language in a README.
func quickStart(t *testing.T, readme, language string) string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n```"+language+"\n")
	code, _, closed := strings.Cut(rest, "\n```\n")
	if !ok || !closed {
		t.Fatalf("%s has no block of %s", readme, language)
	}
	return code
}
