package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

const (
	subprotocol   = "lap.tty.v1"
	maxFrame      = 4 << 20
	maxTyped      = 512 << 10 // of one message; the server takes 1 MiB
	writeTimeout  = 10 * time.Second
	pingInterval  = 20 * time.Second
	creatingPause = 500 * time.Millisecond
)

var (
	errProtocol = fmt.Errorf("%w: it does not speak %s", ErrForeign, subprotocol)
	errDetached = errors.New("detached")
)

// ErrNotConnected is that keys were not sent, for there is no connection at the moment.
var ErrNotConnected = errors.New("the terminal is not connected")

// AttachOptions are about the caller's side of a terminal.
type AttachOptions struct {
	Cols, Rows int         // size of the caller's window; 0: what the others have
	Lost       func(error) // if not nil, called by Output when the connection is lost, before it is opened again
}

// Terminal is the terminal of a session, with one connection at a time. Output opens the next one when one is lost; the other
// methods may be called by any goroutine meanwhile. Leaving it does not stop the session.
type Terminal struct {
	api     *API
	session string
	lost    func(error)

	mu         sync.Mutex // guards the rest
	conn       *websocket.Conn
	stop       context.CancelCauseFunc // of Output, while it runs
	closed     bool
	cols, rows int
	code       *int
}

// Attach connects to the terminal of a session: at once if it is ready, when it is woken if it is suspended, when it is ready if it
// is creating. The caller closes the terminal.
func (a *API) Attach(ctx context.Context, sessionID string, o AttachOptions) (*Terminal, error) {
	t := &Terminal{api: a, session: sessionID, lost: o.Lost, cols: o.Cols, rows: o.Rows}
	conn, err := t.connect(ctx, a.o.Patience)
	if err != nil {
		return nil, err
	}
	t.use(conn)
	return t, nil
}

// Output yields what the terminal shows, from the picture of its screen on, and answers the server's pings. Bytes are valid until
// the next iteration. Only one goroutine may range over it. It ends without an error when the program has ended or the terminal
// was closed, and else with why: ctx ended, or the session. A lost connection is opened again for as long as that may help.
func (t *Terminal) Output(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		t.mu.Lock()
		t.stop = cancel
		closed := t.closed
		t.mu.Unlock()
		if closed { // by who could not end ctx yet
			return
		}
		defer t.use(nil)
		for {
			over, cause := t.relay(ctx, func(b []byte) bool { return yield(b, nil) })
			if over || errors.Is(context.Cause(ctx), errDetached) {
				return
			}
			if ctx.Err() == nil && t.lost != nil {
				t.lost(cause)
			}
			conn, err := t.connect(ctx, -1)
			if err != nil {
				if !errors.Is(err, errDetached) {
					yield(nil, err)
				}
				return
			}
			t.use(conn)
		}
	}
}

// Write types keys. They are sent at once, or not at all: ErrNotConnected.
func (t *Terminal) Write(keys []byte) (n int, err error) {
	for n < len(keys) {
		next := keys[n:min(n+maxTyped, len(keys))]
		if err := t.send(websocket.MessageBinary, next); err != nil {
			return n, err
		}
		n += len(next)
	}
	return n, nil
}

// Resize tells the size of the caller's window.
func (t *Terminal) Resize(cols, rows int) {
	t.mu.Lock()
	t.cols, t.rows = cols, rows
	t.mu.Unlock()
	t.announce()
}

// ExitCode is that of the program, once it has ended.
func (t *Terminal) ExitCode() (code int, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.code == nil {
		return 0, false
	}
	return *t.code, true
}

// Close detaches. The program goes on.
func (t *Terminal) Close() error {
	t.mu.Lock()
	stop := t.stop
	t.closed = true
	t.mu.Unlock()
	if stop != nil {
		stop(errDetached)
	}
	t.use(nil)
	return nil
}

// use makes a connection the one that keys go to, unless the terminal was closed; the one before is closed.
func (t *Terminal) use(conn *websocket.Conn) {
	t.mu.Lock()
	before := t.conn
	if t.conn = conn; t.closed {
		t.conn = nil
	}
	refused := t.conn != conn
	t.mu.Unlock()
	if before != nil {
		_ = before.Close(websocket.StatusNormalClosure, "")
	}
	if refused {
		_ = conn.CloseNow()
	}
}

func (t *Terminal) current() *websocket.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn
}

func (t *Terminal) send(kind websocket.MessageType, b []byte) error {
	conn := t.current()
	if conn == nil {
		return ErrNotConnected
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := conn.Write(ctx, kind, b); err != nil {
		_ = conn.CloseNow()
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	return nil
}

// announce sends the size of the window, if there is one; a new connection does it again.
func (t *Terminal) announce() {
	t.mu.Lock()
	cols, rows := t.cols, t.rows
	t.mu.Unlock()
	if cols > 0 && rows > 0 {
		_ = t.send(websocket.MessageText, fmt.Appendf(nil, `{"type":"resize","cols":%d,"rows":%d}`, cols, rows))
	}
}

// relay hands over what comes over the connection. Over means that nothing is to come any more.
func (t *Terminal) relay(ctx context.Context, show func([]byte) bool) (over bool, cause error) {
	conn := t.current()
	if conn == nil {
		return true, nil
	}
	begun := time.Now()
	pings, stop := context.WithCancel(ctx)
	var ping sync.WaitGroup
	defer ping.Wait()
	defer stop()
	defer func() {
		if ctx.Err() == nil {
			_ = conn.CloseNow()
		}
	}()
	ping.Go(func() { keepAlive(pings, conn) })
	t.announce()
	over, cause = t.show(ctx, conn, show)
	if !over && ctx.Err() == nil && time.Since(begun) < steadyAfter {
		_ = pause(ctx, firstPause) // why it ended early shows when it is opened again
	}
	return over, cause
}

func (t *Terminal) show(ctx context.Context, conn *websocket.Conn, show func([]byte) bool) (over bool, cause error) {
	for {
		kind, r, err := conn.Reader(ctx)
		if err != nil {
			return false, err
		}
		if kind == websocket.MessageBinary {
			b, err := io.ReadAll(r)
			if err != nil {
				return false, err
			}
			if !show(b) {
				return true, nil
			}
			continue
		}
		var m struct {
			Type string
			Code int
		}
		if json.NewDecoder(r).Decode(&m) == nil && m.Type == "exit" {
			t.mu.Lock()
			t.code = &m.Code
			t.mu.Unlock()
			return true, nil
		}
		_, _ = io.Copy(io.Discard, r)
	}
}

// keepAlive notices a connection that died without a word.
func keepAlive(ctx context.Context, conn *websocket.Conn) {
	for pause(ctx, pingInterval) == nil {
		pong, cancel := context.WithTimeout(ctx, pingInterval)
		err := conn.Ping(pong)
		cancel()
		if err != nil && ctx.Err() == nil {
			_ = conn.CloseNow()
			return
		}
	}
}

// connect opens a connection. It tries again while that may help, for so long, or until ctx ends if that is negative.
func (t *Terminal) connect(ctx context.Context, patience time.Duration) (*websocket.Conn, error) {
	begun := time.Now()
	for try := 0; ; try++ {
		conn, err := t.open(ctx)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		wait, starting, err := t.hopeless(ctx, err)
		if err != nil {
			return nil, err
		}
		if starting {
			begun, try = time.Now(), 0
		}
		if patience >= 0 && time.Since(begun) > patience {
			return nil, fmt.Errorf("gave up after %v: cannot reach the server", patience)
		}
		if err := pause(ctx, wait+backoff(try)); err != nil {
			return nil, err
		}
	}
}

func (t *Terminal) open(ctx context.Context) (*websocket.Conn, error) {
	t.mu.Lock()
	query := url.Values{"cols": {strconv.Itoa(t.cols)}, "rows": {strconv.Itoa(t.rows)}}
	if t.cols <= 0 || t.rows <= 0 {
		query = nil
	}
	t.mu.Unlock()
	o := &websocket.DialOptions{HTTPClient: t.api.dial, HTTPHeader: http.Header{}, Subprotocols: []string{subprotocol}}
	t.api.auth(o.HTTPHeader)
	conn, res, err := websocket.Dial(ctx, t.api.url+"/api/v1/managed_agents/sessions/"+url.PathEscape(t.session)+"/tty?"+query.Encode(), o)
	switch {
	case err != nil && res != nil && res.StatusCode >= 300:
		return nil, Check(res)
	case err != nil:
		return nil, err
	case conn.Subprotocol() != subprotocol:
		_ = conn.CloseNow()
		return nil, errProtocol
	}
	conn.SetReadLimit(maxFrame)
	return conn, nil
}

// hopeless returns an error if connecting again cannot help, and else how long to wait. Of a session that is starting it says so.
func (t *Terminal) hopeless(ctx context.Context, cause error) (wait time.Duration, starting bool, _ error) {
	if wait, ok := transient(cause); ok && wait <= t.api.o.LongestWait {
		return wait, false, nil
	}
	var status *StatusError
	if !errors.As(cause, &status) || status.Status != http.StatusConflict {
		return 0, false, cause
	}
	s, err := Decode[Session](t.api.once.GetSession(ctx, t.session))
	switch _, passing := transient(err); {
	case err != nil && passing:
		return 0, false, nil
	case err != nil:
		return 0, false, cause
	case s.Status == SessionStatusCreating:
		return creatingPause, true, nil
	case s.Status == SessionStatusReady:
		return 0, false, cause
	}
	return 0, false, &EndedError{Session: s}
}

// EndedError is that a session has ended, so that there is nothing to attach to.
type EndedError struct{ Session Session }

// Error says how the session ended, and why if that is known.
func (e *EndedError) Error() string {
	if reason, err := e.Session.FailureReason.Get(); err == nil && reason != "" {
		return fmt.Sprintf("the session is %s: %s", e.Session.Status, reason)
	}
	return fmt.Sprintf("the session is %s", e.Session.Status)
}
