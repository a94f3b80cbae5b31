package agent_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

const patience = 2 * time.Minute // a Python environment takes long on a busy machine

// box is a sandboxd under test, in this process or another one, and a caller of it.
type box struct {
	t      *testing.T
	key    ed25519.PrivateKey
	c      agent.Config
	fake   *fakeHarness
	tty    *ttyHarness // instead of fake, unless nil
	client *sandboxd.ClientWithResponses
	http   *http.Client
	cancel context.CancelFunc
	ended  chan error
}

// newBox makes everything but the sandboxd.
func newBox(t *testing.T) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "lapd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, key: key, fake: &fakeHarness{}, ended: make(chan error, 1)}
	b.c = agent.Config{
		SandboxID: "sb-" + filepath.Base(dir), CallerKey: pub, Socket: "sock", Dir: dir,
		Root: filepath.Join(dir, "root"), StateDir: filepath.Join(dir, "state"), HarnessID: "fake",
	}
	b.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, "sock"))
	}}}
	t.Cleanup(b.http.CloseIdleConnections)
	b.client = b.caller(b.token(sandbox.ID(b.c.SandboxID), key, time.Hour))
	return b
}

func (b *box) token(aud sandbox.ID, key ed25519.PrivateKey, valid time.Duration) string {
	now := time.Now()
	return sandbox.SignToken(key, sandbox.Claims{Audience: aud, IssuedAt: now.Add(-2 * time.Hour), Expires: now.Add(valid)})
}

func (b *box) caller(tokens ...string) *sandboxd.ClientWithResponses {
	c, err := sandboxd.NewClientWithResponses("http://sandbox", sandboxd.WithHTTPClient(b.http),
		sandboxd.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			for _, token := range tokens {
				r.Header.Add(sandbox.TokenHeader, token)
			}
			return nil
		}))
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// boot runs a sandboxd in this process until the test ends.
func boot(t *testing.T, change ...func(*box)) *box {
	t.Helper()
	b := newBox(t)
	for _, c := range change {
		c(b)
	}
	b.start()
	return b
}

func (b *box) start() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	log := slog.New(slog.NewTextHandler(b.t.Output(), nil))
	ended := make(chan error, 1)
	b.ended = ended
	harnesses := map[string]harness.Harness{"fake": b.fake}
	if b.tty != nil {
		harnesses["fake"] = b.tty
	}
	go func() { ended <- agent.Run(ctx, b.c, harnesses, log) }()
	b.t.Cleanup(func() {
		if err := b.stop(); err != nil {
			b.t.Error(err)
		}
	})
	b.awaitSocket()
}

// stop ends the sandboxd in this process, once.
func (b *box) stop() error {
	b.cancel()
	err := <-b.ended
	b.ended <- err
	return err
}

func (b *box) awaitSocket() {
	b.t.Helper()
	eventually(b.t, "sandboxd answers", func() bool {
		r, err := b.client.GetHealthWithResponse(context.Background())
		return err == nil && r.JSON200 != nil
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

func (b *box) health() sandboxd.Health {
	b.t.Helper()
	r, err := b.client.GetHealthWithResponse(context.Background())
	if err != nil || r.JSON200 == nil {
		b.t.Fatalf("health: %v %+v", err, r)
	}
	return *r.JSON200
}

// config is a session that needs nothing.
func (b *box) config(change ...func(*sandboxd.SessionConfig)) sandboxd.SessionConfig {
	c := sandboxd.SessionConfig{
		SessionID: "session-1", Attempt: 1, HarnessID: "fake", Model: "m", Env: map[string]string{"A": "b"},
		Gateway: sandboxd.Gateway{BaseURL: "http://127.0.0.1:1", APIKey: "sk-gateway-key"},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func (b *box) bind(change ...func(*sandboxd.SessionConfig)) {
	b.t.Helper()
	r, err := b.client.BindSessionWithResponse(context.Background(), b.config(change...))
	if err != nil || r.StatusCode() != 200 {
		b.t.Fatalf("bind: %v %s", err, r.Body)
	}
}

// ready binds and waits until turns may come.
func (b *box) ready(change ...func(*sandboxd.SessionConfig)) []sandboxd.Record {
	b.t.Helper()
	b.bind(change...)
	all := b.until("ready", "failed")
	if last := all[len(all)-1]; last.Type != "ready" {
		b.t.Fatalf("not ready: %s", last.Data)
	}
	return all
}

// failure binds and returns why it failed.
func (b *box) failure(change ...func(*sandboxd.SessionConfig)) string {
	b.t.Helper()
	b.bind(change...)
	all := b.until("ready", "failed")
	last := all[len(all)-1]
	if last.Type != "failed" {
		b.t.Fatal("it became ready")
	}
	eventually(b.t, "state is failed", func() bool { return b.health().State == "failed" })
	return field(b.t, last, "reason")
}

func turn(id, text string) sandboxd.Turn {
	return sandboxd.Turn{ID: id, Model: "m", Parts: []sandboxd.InputPart{{Type: "text", Text: &text}}}
}

// turn hands a turn over and returns the status of the call.
func (b *box) turn(id, text string) int {
	b.t.Helper()
	r, err := b.client.StartTurnWithResponse(context.Background(), turn(id, text))
	if err != nil {
		b.t.Fatal(err)
	}
	return r.StatusCode()
}

// do runs a turn to its end and returns the record of it.
func (b *box) do(id, text string) sandboxd.Record {
	b.t.Helper()
	if status := b.turn(id, text); status != 202 {
		b.t.Fatalf("turn %s: status %d", id, status)
	}
	return b.end(id)
}

func (b *box) end(id string) sandboxd.Record {
	b.t.Helper()
	all := b.follow(0, func(r sandboxd.Record) bool {
		return isEnd(r) && *r.TurnID == id
	})
	return all[len(all)-1]
}

func isEnd(r sandboxd.Record) bool {
	return r.Type == "turn.completed" || r.Type == "turn.failed" || r.Type == "turn.aborted"
}

// until reads the log from its start up to the first record of one of the types.
func (b *box) until(types ...string) []sandboxd.Record {
	b.t.Helper()
	return b.follow(0, func(r sandboxd.Record) bool {
		for _, typ := range types {
			if r.Type == typ {
				return true
			}
		}
		return false
	})
}

// follow streams the log until last holds; it fails if a number is missing.
func (b *box) follow(after int64, last func(sandboxd.Record) bool) []sandboxd.Record {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := b.client.StreamEvents(ctx, &sandboxd.StreamEventsParams{After: &after})
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []sandboxd.Record
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			b.t.Fatalf("the stream ended: %v after %s", err, types(all))
		}
		if len(line) == 1 {
			continue
		}
		var r sandboxd.Record
		if err := json.Unmarshal(line, &r); err != nil {
			b.t.Fatalf("%v: %s", err, line)
		}
		after++
		if r.N != after {
			b.t.Fatalf("record %d where %d was due", r.N, after)
		}
		all = append(all, r)
		if last(r) {
			return all
		}
	}
}

func types(all []sandboxd.Record) string {
	var list []string
	for _, r := range all {
		list = append(list, r.Type)
	}
	return strings.Join(list, " ")
}

func field(t *testing.T, r sandboxd.Record, name string) string {
	t.Helper()
	var data map[string]any
	if err := json.Unmarshal(r.Data, &data); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(data[name])
}

func result(t *testing.T, r sandboxd.Record) sandboxd.TurnResult {
	t.Helper()
	var res sandboxd.TurnResult
	if err := json.Unmarshal(r.Data, &res); err != nil {
		t.Fatal(err)
	}
	if res.Parts == nil {
		t.Errorf("parts of %s are null", r.Type)
	}
	return res
}

func (b *box) read(path string) string {
	b.t.Helper()
	got, err := os.ReadFile(filepath.Join(b.c.Root, path))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(got)
}

func (b *box) exit() (e struct {
	Code   int
	Reason string
}) {
	b.t.Helper()
	got, err := os.ReadFile(filepath.Join(b.c.Dir, "exit.json"))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := json.Unmarshal(got, &e); err != nil {
		b.t.Fatal(err)
	}
	return e
}

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
