package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/litellm-agent-platform/lap/server/session"
)

const (
	maxKeystrokes = 1 << 20  // bytes of a message from a client
	maxControl    = 4 << 10  // and of one that may be for the server
	outputChunk   = 32 << 10 // bytes sent in one message
	maxReason     = 123      // bytes, by RFC 6455
	maxSide       = 1000     // columns and rows, as in the document
)

// relay passes messages between a client and a terminal, one at a time each way, so that whoever is slow slows down the sender and
// nothing piles up here. Its goroutines are one for each way and one for pings.
type relay struct {
	ws       *websocket.Conn
	terminal *session.Terminal
	strict   bool
	timeout  time.Duration
	typing   atomic.Bool // the client is not read because the terminal takes no keystrokes
}

// ending is how a connection closes. The zero ending leaves it to the peer.
type ending struct {
	code   websocket.StatusCode
	reason string
}

// run relays until the client, the program, the session or the service ends. It returns when the connection is closed.
func (r *relay) run() {
	r.ws.SetReadLimit(maxKeystrokes)
	stop := make(chan struct{})
	ends := make(chan ending, 3)
	var wg sync.WaitGroup
	wg.Go(func() { ends <- r.output() })
	wg.Go(func() { ends <- r.input() })
	wg.Go(func() { ends <- r.keepAlive(stop) })
	var end ending
	select {
	case end = <-ends:
	case <-r.terminal.Over():
		end = endingOf(r.terminal.Why())
	}
	close(stop)
	if end.code == 0 {
		_ = r.ws.CloseNow()
	} else {
		_ = r.ws.Close(end.code, end.reason)
	}
	r.terminal.Close()
	wg.Wait()
}

func endingOf(err error) ending {
	var end *session.TerminalEnd
	switch {
	case errors.Is(err, session.ErrClosing):
		return ending{websocket.StatusGoingAway, err.Error()}
	case errors.As(err, &end) && !end.Again:
		return ending{websocket.StatusNormalClosure, clipped(end.Reason)}
	case errors.As(err, &end):
		return ending{websocket.StatusServiceRestart, clipped(end.Reason)}
	}
	return ending{websocket.StatusInternalError, "internal error"}
}

func clipped(reason string) string { return reason[:min(len(reason), maxReason)] }

// output passes on what comes from the terminal.
func (r *relay) output() ending {
	buf := make([]byte, outputChunk)
	for exit := ""; ; {
		n, c, err := r.terminal.Receive(buf)
		switch {
		case err != nil && exit != "":
			return ending{websocket.StatusNormalClosure, exit}
		case err != nil:
			return endingOf(err)
		case c == nil:
			err = r.write(websocket.MessageBinary, buf[:n])
		default:
			if c.Type == "exit" {
				exit = fmt.Sprintf("the program has ended with code %d", c.Code)
			}
			err = r.tell(c)
		}
		if err != nil {
			return ending{} // the client is gone or too slow
		}
	}
}

// tell passes a message of the sandbox on to a strict client, with the fields that it is known to have.
func (r *relay) tell(c *session.Control) error {
	var m any
	switch c.Type {
	case "ready":
		m = struct {
			Type string `json:"type"`
			Cols int32  `json:"cols"`
			Rows int32  `json:"rows"`
		}{c.Type, c.Cols, c.Rows}
	case "exit":
		m = struct {
			Type string `json:"type"`
			Code int    `json:"code"`
		}{c.Type, c.Code}
	case "pong":
		m = struct {
			Type string `json:"type"`
		}{c.Type}
	}
	if m == nil || !r.strict {
		return nil
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return r.write(websocket.MessageText, text)
}

func (r *relay) write(typ websocket.MessageType, p []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	return r.ws.Write(ctx, typ, p)
}

// input passes on what comes from the client.
func (r *relay) input() ending {
	buf := make([]byte, maxControl)
	for {
		typ, message, err := r.ws.Reader(context.Background()) // closing the connection ends it
		if err != nil {
			return ending{} // the client is gone
		}
		n, err := io.ReadFull(message, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return ending{}
		}
		if typ == websocket.MessageText {
			done, end := r.control(buf[:n], err != nil)
			if end != nil {
				return *end
			}
			if done {
				continue
			}
		}
		if end := r.keys(buf, n, message); end != nil {
			return *end
		}
	}
}

// keys types the n bytes in buf and the rest of a message.
func (r *relay) keys(buf []byte, n int, rest io.Reader) *ending {
	r.typing.Store(true)
	defer r.typing.Store(false)
	for {
		if n > 0 {
			if err := r.terminal.Type(buf[:n]); err != nil {
				return new(endingOf(err))
			}
		}
		var err error
		if n, err = rest.Read(buf); err != nil && !errors.Is(err, io.EOF) {
			return clientLost(err)
		} else if err != nil && n == 0 {
			return nil
		}
	}
}

// clientLost is for an error while a message is read.
func clientLost(err error) *ending {
	if errors.Is(err, websocket.ErrMessageTooBig) {
		return &ending{websocket.StatusMessageTooBig, "a message has at most 1 MiB"}
	}
	return &ending{}
}

var errNotControl = &ending{websocket.StatusPolicyViolation, "text messages are resize or ping"}

// control does what a text message says. It reports false if the message is keystrokes.
func (r *relay) control(text []byte, whole bool) (bool, *ending) {
	var m struct {
		Type jsontext.Value `json:"type"`
		Cols jsontext.Value `json:"cols"`
		Rows jsontext.Value `json:"rows"`
	}
	var kind string
	if !whole || jsonv2.Unmarshal(text, &m) != nil || jsonv2.Unmarshal(m.Type, &kind) != nil {
		return r.otherText()
	}
	var err error
	switch kind {
	case "ping":
		if r.strict {
			err = r.terminal.Ping()
		}
	case "resize":
		size, ok := sizeOf(m.Cols, m.Rows)
		if !ok && r.strict {
			return true, errNotControl
		}
		if ok {
			err = r.terminal.Resize(size)
		}
	default:
		return r.strict, nil
	}
	if err != nil {
		return true, new(endingOf(err))
	}
	return true, nil
}

// otherText is a text message that is no control: keystrokes, or in strict mode a fault.
func (r *relay) otherText() (bool, *ending) {
	if r.strict {
		return true, errNotControl
	}
	return false, nil
}

func sizeOf(cols, rows jsontext.Value) (session.TerminalSize, bool) {
	var s session.TerminalSize
	if jsonv2.Unmarshal(cols, &s.Cols) != nil || jsonv2.Unmarshal(rows, &s.Rows) != nil {
		return s, false
	}
	return s, 1 <= s.Cols && s.Cols <= maxSide && 1 <= s.Rows && s.Rows <= maxSide
}

// keepAlive drops a client that does not answer. One that is not read now cannot be heard to answer.
func (r *relay) keepAlive(stop <-chan struct{}) ending {
	tick := time.NewTicker(r.timeout)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return ending{}
		case <-tick.C:
		}
		if r.typing.Load() {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
		err := r.ws.Ping(ctx)
		cancel()
		if err != nil && !r.typing.Load() {
			return ending{}
		}
	}
}
