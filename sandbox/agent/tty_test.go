package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

// ttyHarness is a harness with a terminal, in which a program runs.
type ttyHarness struct {
	argv []string

	mu      sync.Mutex // guards configs
	configs []harness.Config
}

func (h *ttyHarness) Start(_ context.Context, c harness.Config) (harness.Running, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.configs = append(h.configs, c)
	t, err := terminal.Start(terminal.Config{Path: h.argv[0], Args: h.argv[1:], Dir: c.Dir, Env: append(os.Environ(), c.Env...)})
	if err != nil {
		return nil, err
	}
	return ttyRun{t}, nil
}

func (h *ttyHarness) starts() []harness.Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.configs
}

type ttyRun struct{ t *terminal.Terminal }

func (r ttyRun) SessionID() string     { return "native-tty" }
func (r ttyRun) Done() <-chan struct{} { return r.t.Done() }
func (r ttyRun) ExitReason() string {
	return fmt.Sprintf("the program exited with code %d", r.t.ExitCode())
}
func (r ttyRun) Close()                      { r.t.Close() }
func (r ttyRun) Abort(context.Context) error { return nil }

func (r ttyRun) Turn(context.Context, sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	return "", sandboxd.TurnResult{}, errors.New("no turns")
}

func (r ttyRun) Terminal() *terminal.Terminal { return r.t }

// bootTerminal runs a sandboxd whose harness is a program in a terminal, until that is ready.
func bootTerminal(t *testing.T, argv ...string) *box {
	t.Helper()
	b := boot(t, func(b *box) { b.tty = &ttyHarness{argv: argv} })
	b.ready()
	return b
}

func bootShell(t *testing.T, script string) *box {
	t.Helper()
	return bootTerminal(t, "/bin/sh", "-c", script)
}

// viewer is a client of the terminal, with the screen of a terminal of its own.
type viewer struct {
	t     *testing.T
	ws    *websocket.Conn
	raw   strings.Builder
	texts []string
}

func (b *box) dial(query string) (*websocket.Conn, int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "http://sandbox/v1/terminal"+query, &websocket.DialOptions{
		HTTPClient: b.http, Subprotocols: []string{"lap.tty.v1"},
		HTTPHeader: map[string][]string{sandbox.TokenHeader: {b.token(sandbox.ID(b.c.SandboxID), b.key, time.Hour)}},
	})
	status := 0
	if resp != nil {
		status = resp.StatusCode
	}
	return ws, status, err
}

func (b *box) attach(query string) *viewer {
	b.t.Helper()
	ws, _, err := b.dial(query)
	if err != nil {
		b.t.Fatal(err)
	}
	if ws.Subprotocol() != "lap.tty.v1" {
		b.t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	ws.SetReadLimit(1 << 20)
	b.t.Cleanup(func() { _ = ws.CloseNow() })
	v := &viewer{t: b.t, ws: ws}
	v.until("it is greeted", func() bool { return len(v.texts) == 1 })
	return v
}

// read takes one message.
func (v *viewer) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	typ, b, err := v.ws.Read(ctx)
	switch {
	case err != nil:
	case typ == websocket.MessageText:
		v.texts = append(v.texts, string(b))
	default:
		v.raw.Write(b)
	}
	return err
}

func (v *viewer) until(what string, ok func() bool) {
	v.t.Helper()
	for !ok() {
		if err := v.read(); err != nil {
			v.t.Fatalf("waited in vain: %s: %v; got %q %v", what, err, v.raw.String(), v.texts)
		}
	}
}

func (v *viewer) sees(text string) {
	v.t.Helper()
	v.until("it sees "+text, func() bool { return strings.Contains(v.raw.String(), text) })
}

func (v *viewer) send(typ websocket.MessageType, text string) {
	v.t.Helper()
	if err := v.ws.Write(context.Background(), typ, []byte(text)); err != nil {
		v.t.Fatal(err)
	}
}

func (v *viewer) types(text string) { v.t.Helper(); v.send(websocket.MessageBinary, text) }

func (v *viewer) says(text string) { v.t.Helper(); v.send(websocket.MessageText, text) }

// end reads to the end of the connection and returns how it was closed.
func (v *viewer) end() websocket.StatusCode {
	v.t.Helper()
	for {
		if err := v.read(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}
