package harness_test

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/demo"
)

// realHarness returns a program that is installed once into the user's cache.
func realHarness(id string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		return local.NPM(filepath.Join(cache, "lap-test", "harnesses")).Install(context.Background(), id, func(string) {})
	})
}

// homeBox is a place to run a harness in, with a home of its own.
type homeBox struct {
	*box
	home string
}

func newHomeBox(t *testing.T, program func() (string, error)) *homeBox {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	b := &homeBox{box: &box{gateway: demo.New(gatewayKey), log: &lockedBuffer{}}, home: filepath.Join(root, "home")}
	b.server = httptest.NewServer(b.gateway)
	t.Cleanup(b.server.Close)
	t.Cleanup(func() { b.checkEmpty(t) })
	for _, dir := range []string{"home", "repo", "state"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.config = harness.Config{
		Bin: bin, Dir: filepath.Join(root, "repo"), StateDir: filepath.Join(root, "state"),
		Env:   []string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "LITELLM_API_KEY=wrong", "ANTHROPIC_API_KEY=wrong", "TMPDIR=" + os.TempDir()},
		Model: model, Prompt: prompt, Gateway: sandboxd.Gateway{BaseURL: b.server.URL + "/v1/", APIKey: gatewayKey},
		Emit: b.emit, LogWriter: b.log,
	}
	return b
}

// put writes a file below the box's home or repository.
func (b *homeBox) put(t *testing.T, path, content string) {
	t.Helper()
	path = filepath.Join(filepath.Dir(b.home), path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// processes lists what runs in the box and the arguments of each.
func (b *homeBox) processes(t *testing.T) map[int]string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !strings.Contains("\x00"+string(env), "\x00HOME="+b.home+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		command, cmdErr := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err == nil && cmdErr == nil {
			found[pid] = strings.ReplaceAll(string(command), "\x00", " ")
		}
	}
	return found
}

func (b *homeBox) checkEmpty(t *testing.T) {
	t.Helper()
	if left := b.processes(t); len(left) > 0 {
		t.Errorf("still runs: %v", left)
	}
}

// tuiRun is a harness with a terminal that was started, and what is on its screen.
type tuiRun struct{ harness.Terminal }

// shows waits until the screen has a text, whatever the line breaks.
func (r tuiRun) shows(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want = strings.Join(strings.Fields(want), "")
	err := r.Terminal.Terminal().Wait(ctx, func(screen string) bool { return strings.Contains(strings.Join(strings.Fields(screen), ""), want) })
	if err != nil {
		t.Fatalf("no %q: %v; the screen:\n%s", want, err, r.Terminal.Terminal().Screen())
	}
}

// ask types a message and waits for its answer, of which the demo gateway is the author.
func (r tuiRun) ask(t *testing.T, text, answer string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Terminal.Terminal().Paste(ctx, text); err != nil {
		t.Fatal(err)
	}
	r.shows(t, answer)
}

// asked returns the requests of the conversation with a user message that is text: those for a title have no tools.
func (b *homeBox) asked(text string) (found []demo.Request) {
	for _, r := range b.gateway.Requests() {
		if len(r.Tools) > 0 && slices.ContainsFunc(r.Messages, func(m demo.Message) bool { return m.Role == "user" && m.Text == text }) {
			found = append(found, r)
		}
	}
	return found
}

func startTUI(t *testing.T, h harness.Harness, c harness.Config) tuiRun {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := h.Start(ctx, c)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(r.Close)
	term, ok := r.(harness.Terminal)
	if !ok {
		t.Fatalf("%T has no terminal", r)
	}
	return tuiRun{term}
}
