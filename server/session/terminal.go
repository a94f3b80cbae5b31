package session

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

// TerminalProtocol is the WebSocket subprotocol of terminals, of sandboxd and in strict mode of the public API.
const TerminalProtocol = "lap.tty.v1"

const (
	maxControl = 4 << 10         // bytes of a text message of sandboxd
	noteWithin = 2 * time.Second // for what is written about a terminal when it ends
)

// TerminalSize is the size of a client's window in cells.
type TerminalSize struct{ Cols, Rows int32 }

// TerminalEnd is why a terminal is over. The reason is short and safe to show to the holder of a terminal token.
type TerminalEnd struct {
	Reason string
	Again  bool // the session goes on, so that the client may attach again
}

func (e *TerminalEnd) Error() string { return e.Reason }

// Control is a message of sandboxd other than output: ready with the size, pong, or exit with the code.
type Control struct {
	Type string `json:"type"`
	Cols int32  `json:"cols"`
	Rows int32  `json:"rows"`
	Code int    `json:"code"`
}

// Terminal is one client's attachment to the terminal of a session. Its goroutine watches the session, notes activity and ends the
// attachment when the session or the service does. One goroutine may receive while another sends; Close may be called from any.
type Terminal struct {
	s       *Service
	ws      *websocket.Conn
	session string
	attempt int32
	rest    io.Reader    // of the output message that is being read
	active  atomic.Int64 // when bytes last went through, in ns; 0: nothing to note
	over    chan struct{}
	why     error              // why it is over; set before over is closed
	cancel  context.CancelFunc // of the goroutine
	done    chan struct{}      // it has ended
	once    sync.Once          // for Close
}

// OpenTerminal attaches to the terminal of a session. A suspended session is woken, and it returns when that is ready or ctx ends.
// The caller closes the terminal. Errors: store.ErrNotFound, also for a deleted session, ErrNoTerminal, ErrNotReady, ErrNotWoken,
// ErrUnreachable, ErrNoGateway, ErrCapacity, ErrClosing.
func (s *Service) OpenTerminal(ctx context.Context, sessionID string, size *TerminalSize) (*Terminal, error) {
	sess, err := s.awake(ctx, sessionID)
	if err != nil {
		return nil, err
	}
	ws, err := s.dialTerminal(ctx, sess, size)
	if err != nil {
		return nil, err
	}
	if !s.terminals.add() {
		_ = ws.CloseNow()
		return nil, ErrClosing
	}
	ws.SetReadLimit(-1) // nothing keeps a message whole but parseControl, which has a limit of its own
	t := &Terminal{s: s, ws: ws, session: sess.ID, attempt: sess.Attempt, over: make(chan struct{}), done: make(chan struct{})}
	changed, unwatch := s.hub.watch(sess.ID)
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.cancel = cancel
	go func() {
		defer close(t.done)
		defer unwatch()
		t.watch(watchCtx, changed, noteEvery(sess))
	}()
	return t, nil
}

// dialTerminal makes the connection to sandboxd.
func (s *Service) dialTerminal(ctx context.Context, sess store.Session, size *TerminalSize) (*websocket.Conn, error) {
	_, key, err := callerKey(s.o.Keyring, sess.KeyID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	box := sandbox.ID(sess.SandboxID)
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return s.o.Runtime.Dial(ctx, box) },
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxAnswer,
	}
	query := url.Values{}
	if size != nil {
		query.Set("cols", strconv.Itoa(int(size.Cols)))
		query.Set("rows", strconv.Itoa(int(size.Rows)))
	}
	dialCtx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ws, resp, err := websocket.Dial(dialCtx, "http://sandbox/v1/terminal?"+query.Encode(), &websocket.DialOptions{ //nolint:bodyclose // of an upgrade there is none, and that of a refusal is in memory
		HTTPClient: &http.Client{
			Transport:     &caller{key: key, box: box, next: transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Subprotocols: []string{TerminalProtocol},
	})
	switch {
	case err == nil:
		return ws, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case resp != nil && resp.StatusCode == http.StatusConflict:
		return nil, ErrNotReady
	}
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// Receive returns the next output, at most len(p) bytes of it, or a control message. Its error is a *TerminalEnd or ErrClosing.
func (t *Terminal) Receive(p []byte) (n int, c *Control, err error) {
	for {
		if t.rest != nil {
			n, err := t.rest.Read(p)
			if errors.Is(err, io.EOF) {
				t.rest, err = nil, nil
			}
			if err != nil {
				return 0, nil, t.lost(err)
			}
			if n > 0 {
				t.touch()
				return n, nil, nil
			}
			continue
		}
		typ, r, err := t.ws.Reader(context.Background()) // Close ends it
		if err != nil {
			return 0, nil, t.lost(err)
		}
		if typ == websocket.MessageBinary {
			t.rest = r
			continue
		}
		c, err := parseControl(r)
		if err != nil {
			return 0, nil, t.lost(err)
		}
		if c != nil {
			return 0, c, nil
		}
	}
}

// parseControl reads a text message of sandboxd; nil stands for one that says nothing of use.
func parseControl(r io.Reader) (*Control, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxControl+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxControl {
		return nil, errors.New("a control message of the sandbox is too long")
	}
	var c Control
	if json.Unmarshal(text, &c) != nil {
		return nil, nil
	}
	return &c, nil
}

// Type sends keystrokes. Its error is that of Receive, as those of Resize and Ping are.
func (t *Terminal) Type(p []byte) error {
	t.touch()
	return t.send(websocket.MessageBinary, p)
}

// Resize says that the client's window has another size.
func (t *Terminal) Resize(size TerminalSize) error {
	return t.send(websocket.MessageText, fmt.Appendf(nil, `{"type":"resize","cols":%d,"rows":%d}`, size.Cols, size.Rows))
}

// Ping asks for a pong, which Receive returns.
func (t *Terminal) Ping() error { return t.send(websocket.MessageText, []byte(`{"type":"ping"}`)) }

func (t *Terminal) send(typ websocket.MessageType, p []byte) error {
	if err := t.ws.Write(context.Background(), typ, p); err != nil { // Close ends it
		return t.lost(err)
	}
	return nil
}

// Over is closed when the session or the service has ended the attachment; Why then says why.
func (t *Terminal) Over() <-chan struct{} { return t.over }

// Why is for after Over.
func (t *Terminal) Why() error { return t.why }

// Close detaches and ends Receive and Type. What runs in the terminal goes on. Idempotent.
func (t *Terminal) Close() {
	t.once.Do(func() {
		t.cancel()
		_ = t.ws.CloseNow()
		<-t.done
		t.s.terminals.done()
	})
}

// lost finds out why the connection to the sandbox is no more.
func (t *Terminal) lost(cause error) error {
	select {
	case <-t.over:
		return t.why
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), noteWithin)
	defer cancel()
	if end := t.look(ctx); end != nil {
		return end
	}
	if websocket.CloseStatus(cause) == websocket.StatusNormalClosure {
		return &TerminalEnd{Reason: "the program has ended"}
	}
	return &TerminalEnd{Reason: "the connection to the sandbox was lost", Again: true}
}

// terminals counts open terminals, for the service to wait for them.
type terminals struct {
	wg sync.WaitGroup

	mu     sync.Mutex // guards closed, and that nothing is added once it is set
	closed bool
}

func (t *terminals) add() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.wg.Add(1)
	}
	return !t.closed
}

func (t *terminals) done() { t.wg.Done() }

func (t *terminals) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}

// noteEvery is how often activity is written down: so often that no session is idle meanwhile.
func noteEvery(s store.Session) time.Duration {
	return min(cmp.Or(time.Duration(s.IdleTimeoutMs)*time.Millisecond/4, time.Second), 30*time.Second)
}
