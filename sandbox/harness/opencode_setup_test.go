package harness_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/demo"
)

const (
	model      = "anthropic/claude-sonnet-4-6"
	gatewayKey = "sk-canary-7f3d"
	prompt     = "Always answer like a lighthouse keeper."
)

// openCodeBin is the real opencode, installed once into the user's cache.
var openCodeBin = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return local.NPM(filepath.Join(cache, "lap-test", "harnesses")).Install(context.Background(), "opencode", func(string) {})
})

type (
	demoRequest = demo.Request
	demoMessage = demo.Message
)

// box is a place to run opencode in, and what came out of it.
type box struct {
	gateway *demo.Gateway
	config  harness.Config
	log     *lockedBuffer
	server  *httptest.Server

	mu     sync.Mutex // guards events
	events []harness.Event
}

// newBox makes a place with a demo gateway.
func newBox(t *testing.T) *box {
	t.Helper()
	bin, err := openCodeBin()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{gateway: demo.New(gatewayKey), log: &lockedBuffer{}}
	server := httptest.NewServer(b.gateway)
	b.server = server
	t.Cleanup(server.Close)
	t.Cleanup(func() { b.checkEmpty(t) })
	root := t.TempDir()
	for _, dir := range []string{"home", "repo", "state"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.config = harness.Config{
		Bin: bin, Dir: filepath.Join(root, "repo"), StateDir: filepath.Join(root, "state"),
		Env:   []string{"HOME=" + filepath.Join(root, "home"), "PATH=" + os.Getenv("PATH"), "LITELLM_API_KEY=wrong", "TMPDIR=" + os.TempDir()},
		Model: model, Prompt: prompt, Gateway: sandboxd.Gateway{BaseURL: server.URL, APIKey: gatewayKey},
		Emit: b.emit, LogWriter: b.log,
	}
	return b
}

// processes lists what runs in the box, by the configuration that everything in it inherits.
func (b *box) processes(t *testing.T) map[int]string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !strings.Contains(string(env), "OPENCODE_CONFIG="+b.config.StateDir) {
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

func (b *box) runs(t *testing.T, command string) bool {
	t.Helper()
	for _, c := range b.processes(t) {
		if strings.Contains(c, command) {
			return true
		}
	}
	return false
}

func (b *box) checkEmpty(t *testing.T) {
	t.Helper()
	if left := b.processes(t); len(left) > 0 {
		t.Errorf("still runs: %v", left)
	}
}

func (b *box) emit(e harness.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
}

// start starts opencode and ends it with the test.
func (b *box) start(t *testing.T) harness.Running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := harness.NewOpenCode().Start(ctx, b.config)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

type outcome struct {
	id     string
	status string
	result sandboxd.TurnResult
	err    error
	events []harness.Event
}

// turn runs a turn to its end.
func (b *box) turn(t *testing.T, r harness.Running, parts ...sandboxd.InputPart) outcome {
	t.Helper()
	return <-b.begin(t, r, parts...)
}

// begin starts a turn and returns where it will end.
func (b *box) begin(t *testing.T, r harness.Running, parts ...sandboxd.InputPart) <-chan outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	o := outcome{id: newID(t)}
	ended := make(chan outcome, 1)
	go func() {
		defer cancel()
		o.status, o.result, o.err = r.Turn(ctx, sandboxd.Turn{ID: o.id, Model: model, Parts: parts})
		o.events = b.of(o.id)
		ended <- o
	}()
	return ended
}

// of returns the events of a turn so far.
func (b *box) of(turnID string) []harness.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var events []harness.Event
	for _, e := range b.events {
		if e.TurnID == turnID {
			events = append(events, e)
		}
	}
	return events
}

// await returns the first event of a type, since the box exists, that contains a text.
func (b *box) await(t *testing.T, kind, text string) harness.Event {
	t.Helper()
	var found harness.Event
	eventually(t, "event "+kind+" with "+text, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, e := range b.events {
			if e.Type == kind && strings.Contains(asJSON(t, e.Data), text) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("no %s in 20 s", what)
}

func say(text string) sandboxd.InputPart { return sandboxd.InputPart{Type: "text", Text: &text} }

func newID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// decode turns an event's data into another type.
func decode[T any](t *testing.T, e harness.Event) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(asJSON(t, e.Data)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
