package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	subprotocol   = "lap.tty.v1"
	maxFrame      = 4 << 20
	writeTimeout  = 10 * time.Second
	pingInterval  = 20 * time.Second
	steadyAfter   = 2 * time.Second // a connection that held so long starts the pauses anew
	leaveTimeout  = time.Second     // for saying goodbye
	creatingPause = 500 * time.Millisecond
)

// reset undoes what a program in the terminal may have left behind: modes of keyboard, mouse and screen, colours, a hidden cursor.
const reset = "\x1b[?2026l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[=0;1u\x1b[>4;0m\x1b[?1l\x1b>" +
	"\x1b[?1049l\x1b[=0;1u\x1b[r\x1b[?6l\x1b[?7h\x1b[4l\x1b(B\x0f\x1b[0m\x1b[0 q\x1b[?25h\x1b[999;1H\r\n"

var (
	errDetached = errors.New("detached")
	errLost     = errors.New("connection lost")
)

// exited is how the program in the terminal ended.
type exited int

func (e exited) Error() string { return fmt.Sprintf("the program ended with exit code %d", int(e)) }

// attachment is the person's terminal on a session's. The goroutine that runs it opens the connections; keys and sizes go to
// the one that is open, and nowhere while there is none.
type attachment struct {
	s     *shell
	api   *client.Client
	id    string
	set   settings
	tty   *tty
	conn  atomic.Pointer[websocket.Conn]
	leave context.CancelCauseFunc
}

// terminal attaches to a session's terminal until the person detaches or the program or the session ends.
func (s *shell) terminal(ctx context.Context, api *client.Client, id string) error {
	set, err := s.settings()
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	a := &attachment{s: s, api: api, id: id, set: set, tty: newTTY(s.in), leave: leave}
	defer a.tty.restore()
	err = a.run(ctx)
	var exit exited
	switch {
	case errors.Is(err, errDetached):
		s.say("Detached; back with: lap attach %s", id)
		return nil
	case errors.As(err, &exit):
		s.say("The program ended with exit code %d; start it again with: lap attach -restart %s", int(exit), id)
		if exit != 0 {
			return errSaid
		}
		return nil
	}
	return s.left(id, err)
}

// run connects, again and again. While it waits for the first connection the terminal is not raw and Ctrl-C ends it.
func (a *attachment) run(ctx context.Context) error {
	conn, err := a.first(ctx)
	if err != nil {
		return err
	}
	if err := a.tty.raw(); err != nil {
		_ = conn.CloseNow()
		return err
	}
	ctx, release := a.s.untilInterrupt(ctx) // by kill; a key is none
	defer release()
	go a.keys()
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, syscall.SIGWINCH, syscall.SIGCONT)
	defer signal.Stop(sizes)
	go a.sizes(ctx, sizes)

	ended := make(chan error, 1)
	go func() { defer a.tty.guard(); ended <- a.serve(ctx, conn) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
		select { // if the terminal takes nothing any more, neither does the end of serve come
		case <-ended: //nolint:errcheck // the context is why it ends
		case <-time.After(leaveTimeout):
			a.tty.restore()
			return err
		}
	}
	a.tty.restore()
	_, _ = io.WriteString(a.s.out, reset)
	return err
}

func (a *attachment) first(ctx context.Context) (*websocket.Conn, error) {
	ctx, release := a.s.untilInterrupt(ctx)
	defer release()
	return a.dial(ctx, patience)
}

// serve relays one connection after the other. It returns why that ended, never nil.
func (a *attachment) serve(ctx context.Context, conn *websocket.Conn) error {
	for {
		err := a.relay(ctx, conn)
		if !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		_, _ = io.WriteString(a.s.out, "\r\n\x1b[0m[lap: connection lost, trying again; Ctrl-] leaves]\r\n")
		if conn, err = a.dial(ctx, 0); err != nil {
			return err
		}
	}
}

// dial connects to the terminal. It tries again while that may help, for so long, or as long as it takes if that is 0.
func (a *attachment) dial(ctx context.Context, limit time.Duration) (*websocket.Conn, error) {
	begun, pause := time.Now(), firstPause
	for {
		conn, err := a.connect(ctx)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		wait, err := a.hopeless(ctx, err)
		if err == nil {
			err = sleep(ctx, max(wait, pause))
		}
		if err != nil {
			return nil, err
		}
		if pause = min(2*pause, maxPause); wait > 0 {
			begun, pause = time.Now(), firstPause
		}
		if limit > 0 && time.Since(begun) > limit {
			return nil, errors.New("cannot reach the server")
		}
	}
}

// hopeless returns an error if connecting again cannot help. Of a session that is starting it says when to look again.
func (a *attachment) hopeless(ctx context.Context, err error) (wait time.Duration, _ error) {
	var status *client.StatusError
	switch {
	case passing(err):
		return 0, nil
	case !errors.As(err, &status) || status.Status != http.StatusConflict:
		return 0, refused(err)
	}
	v, getErr := into[client.Session](a.api.GetSession(ctx, a.id))
	switch {
	case getErr != nil:
		return 0, nil
	case v.Status == client.SessionStatusCreating:
		return creatingPause, nil
	case v.Status == client.SessionStatusReady:
		return 0, err
	}
	return 0, fmt.Errorf("the session is %s%s", v.Status, detail(orEmpty(v.FailureReason)))
}

func (a *attachment) connect(ctx context.Context) (*websocket.Conn, error) {
	cols, rows := a.tty.size()
	query := url.Values{"cols": {strconv.Itoa(cols)}, "rows": {strconv.Itoa(rows)}}
	conn, res, err := websocket.Dial(ctx, a.set.URL+"/api/v1/managed_agents/sessions/"+a.id+"/tty?"+query.Encode(), &websocket.DialOptions{
		HTTPClient:   &http.Client{Transport: http.DefaultTransport}, // waking a session takes longer than other answers
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + a.set.Key}},
		Subprotocols: []string{subprotocol},
	})
	switch {
	case err != nil && res != nil && res.StatusCode >= 300:
		return nil, client.Check(res)
	case err != nil:
		return nil, err
	case conn.Subprotocol() != subprotocol:
		_ = conn.CloseNow()
		return nil, &client.StatusError{Status: http.StatusNotImplemented, Answer: client.Error{Code: "-", Error: "the server does not speak " + subprotocol}}
	}
	conn.SetReadLimit(maxFrame)
	return conn, nil
}

// relay shows what comes over a connection until it ends.
func (a *attachment) relay(ctx context.Context, conn *websocket.Conn) error {
	begun := time.Now()
	defer func() { _ = conn.CloseNow() }()
	a.conn.Store(conn)
	defer a.conn.Store(nil)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go a.ping(ctx, conn)
	a.resize()
	err := a.show(ctx, conn)
	switch {
	case ctx.Err() != nil:
		_ = conn.Close(websocket.StatusNormalClosure, "")
		return context.Cause(ctx)
	case errors.Is(err, errLost) && time.Since(begun) < steadyAfter:
		if err := sleep(ctx, firstPause); err != nil {
			return err
		}
	}
	return err
}

func (a *attachment) show(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, r, err := conn.Reader(ctx)
		if err != nil {
			return errLost
		}
		if kind == websocket.MessageBinary {
			b, err := io.ReadAll(r)
			if err != nil {
				return errLost
			}
			if _, err := a.s.out.Write(b); err != nil {
				return err
			}
			continue
		}
		var m struct {
			Type string
			Code int
		}
		if json.NewDecoder(r).Decode(&m) == nil && m.Type == "exit" {
			return exited(m.Code)
		}
		_, _ = io.Copy(io.Discard, r)
	}
}

// ping notices a connection that died without a word.
func (a *attachment) ping(ctx context.Context, conn *websocket.Conn) {
	defer a.tty.guard()
	for sleep(ctx, pingInterval) == nil {
		pong, cancel := context.WithTimeout(ctx, pingInterval)
		err := conn.Ping(pong)
		cancel()
		if err != nil && ctx.Err() == nil {
			_ = conn.CloseNow()
			return
		}
	}
}

// send writes to the open connection, if there is one.
func (a *attachment) send(kind websocket.MessageType, b []byte) {
	conn := a.conn.Load()
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if conn.Write(ctx, kind, b) != nil {
		_ = conn.CloseNow()
	}
}

func (a *attachment) resize() {
	cols, rows := a.tty.size()
	a.send(websocket.MessageText, fmt.Appendf(nil, `{"type":"resize","cols":%d,"rows":%d}`, cols, rows))
}

// sizes follows the size of the person's terminal. After a stop from outside the terminal is made raw again.
func (a *attachment) sizes(ctx context.Context, signals <-chan os.Signal) {
	defer a.tty.guard()
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGCONT {
				_ = a.tty.raw()
			}
			a.resize()
		case <-ctx.Done():
			return
		}
	}
}

// keys sends what is typed, until the key that detaches or the end of the input. It ends with the process at the latest.
func (a *attachment) keys() {
	defer a.tty.guard()
	buf := make([]byte, 32<<10)
	for {
		n, err := a.s.in.Read(buf)
		typed, detach := cutDetach(buf[:n])
		if len(typed) > 0 {
			a.send(websocket.MessageBinary, typed)
		}
		if detach || err != nil {
			a.leave(errDetached)
			return
		}
	}
}
