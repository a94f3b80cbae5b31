package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/terminal"
)

const (
	terminalProtocol = "lap.tty.v1"
	maxKeys          = 1 << 20 // bytes of one message of a client
	terminalPing     = 30 * time.Second
	terminalWithin   = 2 * time.Minute // for a client to take a message, or to answer a ping
)

// show makes a terminal the session's, for callers to attach to once the session is ready.
func (s *session) show(t *terminal.Terminal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terminal = t
}

func (s *session) attachable() (*terminal.Terminal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != stateReady:
		return nil, fmt.Errorf("%w: the harness is not ready, the sandbox is %s", errConflict, s.state)
	case s.terminal == nil:
		return nil, fmt.Errorf("%w: the harness has no terminal", errConflict)
	}
	return s.terminal, nil
}

type requestKey struct{}

// withRequest puts the request on the context, for those who upgrade its connection.
func withRequest(f sandboxd.StrictHandlerFunc, _ string) sandboxd.StrictHandlerFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		return f(context.WithValue(ctx, requestKey{}, r), w, r, request)
	}
}

func (a *api) OpenTerminal(ctx context.Context, r sandboxd.OpenTerminalRequestObject) (sandboxd.OpenTerminalResponseObject, error) {
	t, err := a.s.attachable()
	if err != nil {
		return sandboxd.OpenTerminal409JSONResponse{Error: err.Error()}, nil
	}
	request, _ := ctx.Value(requestKey{}).(*http.Request)
	s := attachment{t: t, request: request, terminals: a.terminals}
	if r.Params.Cols != nil && r.Params.Rows != nil {
		s.size = terminal.Size{Cols: max(int(*r.Params.Cols), 1), Rows: max(int(*r.Params.Rows), 1)}
	}
	return s, nil
}

// terminals are the attached clients, whose connections the HTTP server knows no more.
type terminals struct {
	work sync.WaitGroup
	cut  chan struct{} // closed when they have to go

	mu    sync.Mutex // guards ended: none is added to work after it
	ended bool
}

func newTerminals() *terminals { return &terminals{cut: make(chan struct{})} }

func (t *terminals) add() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.work.Add(1)
	}
	return !t.ended
}

// end waits for the clients of a terminal that has ended to hear of it, but not beyond ctx. Call it once.
func (t *terminals) end(ctx context.Context) {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	heard := context.AfterFunc(ctx, func() { close(t.cut) })
	t.work.Wait()
	heard()
}

// attachment is one client of a terminal.
type attachment struct {
	t         *terminal.Terminal
	request   *http.Request
	size      terminal.Size
	terminals *terminals
}

// VisitOpenTerminalResponse upgrades the connection and serves the client until either side ends.
func (a attachment) VisitOpenTerminalResponse(w http.ResponseWriter) error {
	if !strings.EqualFold(a.request.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		refuse(w, http.StatusUpgradeRequired, "a WebSocket is needed")
		return nil
	}
	if !a.terminals.add() {
		refuse(w, http.StatusConflict, "the sandbox is stopping")
		return nil
	}
	defer a.terminals.work.Done()
	ws, err := websocket.Accept(w, a.request, &websocket.AcceptOptions{
		Subprotocols: []string{terminalProtocol}, InsecureSkipVerify: true, // a token was shown, and a browser has none
	})
	if err != nil {
		return nil // Accept has answered
	}
	ws.SetReadLimit(maxKeys)
	a.serve(ws)
	return nil
}

func (a attachment) serve(ws *websocket.Conn) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.request.Context()))
	client := a.t.Attach(a.size)
	var work sync.WaitGroup
	defer work.Wait()
	defer client.Close()
	defer func() { _ = ws.CloseNow() }()
	defer cancel()
	work.Go(func() {
		defer cancel()
		a.input(ctx, ws, client)
	})
	work.Go(func() {
		defer cancel()
		a.watch(ctx, ws)
	})
	work.Go(func() {
		select {
		case <-a.terminals.cut:
			cancel()
		case <-ctx.Done():
		}
	})
	if a.output(ctx, ws, client) == nil {
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
}

// output sends what the terminal shows, and how it ended. It returns nil when it has said all.
func (a attachment) output(ctx context.Context, ws *websocket.Conn, client *terminal.Client) error {
	size := a.t.Size()
	if err := control(ctx, ws, fmt.Appendf(nil, `{"type":"ready","cols":%d,"rows":%d}`, size.Cols, size.Rows)); err != nil {
		return err
	}
	for {
		b, err := client.Next(ctx)
		if errors.Is(err, io.EOF) {
			<-a.t.Done()
			return control(ctx, ws, fmt.Appendf(nil, `{"type":"exit","code":%d}`, a.t.ExitCode()))
		}
		if err == nil {
			err = send(ctx, ws, websocket.MessageBinary, b)
		}
		if err != nil {
			return err
		}
	}
}

// send closes the connection of a client that takes nothing for too long.
func send(ctx context.Context, ws *websocket.Conn, typ websocket.MessageType, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, terminalWithin)
	defer cancel()
	return ws.Write(ctx, typ, b)
}

func control(ctx context.Context, ws *websocket.Conn, b []byte) error {
	return send(ctx, ws, websocket.MessageText, b)
}

// input does what the client says until it makes no sense.
func (a attachment) input(ctx context.Context, ws *websocket.Conn, client *terminal.Client) {
	for {
		typ, b, err := ws.Read(ctx)
		if err != nil {
			return
		}
		if typ == websocket.MessageBinary {
			err = client.Type(ctx, b)
		} else {
			err = obey(ctx, ws, client, b)
		}
		if errors.Is(err, errInvalid) {
			_ = ws.Close(websocket.StatusPolicyViolation, "not a control message")
			return
		}
	}
}

func obey(ctx context.Context, ws *websocket.Conn, client *terminal.Client, b []byte) error {
	var c struct {
		Type       string
		Cols, Rows int
	}
	if json.Unmarshal(b, &c) != nil {
		return errInvalid
	}
	switch {
	case c.Type == "resize" && c.Cols > 0 && c.Rows > 0:
		client.Resize(terminal.Size{Cols: c.Cols, Rows: c.Rows})
	case c.Type == "ping":
		return control(ctx, ws, []byte(`{"type":"pong"}`))
	default:
		return errInvalid
	}
	return nil
}

// watch returns when the client is gone, perhaps without a word.
func (a attachment) watch(ctx context.Context, ws *websocket.Conn) {
	ticker := time.NewTicker(terminalPing)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			ping, cancel := context.WithTimeout(ctx, terminalWithin)
			err := ws.Ping(ping)
			cancel()
			if err != nil {
				return
			}
		}
	}
}
