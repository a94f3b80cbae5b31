package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/server/session"
)

// subscription is a stream of events that may last for days and have thousands of readers. When its head is written it takes the
// connection from net/http, whose goroutines, buffers and request would cost several times what it needs: what remains is one
// goroutine that writes and one that notices when the reader goes. The connection ends with it.
type subscription struct {
	ctx     context.Context // of the request: what is stored is written under it
	feed    *session.Feed
	timeout time.Duration // of one write
	all     *subscriptions
}

// subscriptions are those that outlive their handlers.
type subscriptions struct{ running sync.WaitGroup }

func (s *subscriptions) wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// VisitStreamEventsResponse writes the stream.
func (s subscription) VisitStreamEventsResponse(w http.ResponseWriter) error {
	w.Header().Set("Connection", "close")
	begin(w)
	rc := http.NewResponseController(w)
	if rc.Flush() != nil {
		s.feed.Close()
		return nil
	}
	conn, _, err := rc.Hijack()
	if err != nil {
		s.feed.Close()
		return fmt.Errorf("take over connection: %w", err)
	}
	out := &subscriber{conn: conn, timeout: s.timeout}
	r := runOf(s.ctx)
	out.chunked = r.chunked
	if err := s.open(out); err != nil {
		s.feed.Close()
		return errors.Join(out.fault(err), conn.Close())
	}
	r.outlive()
	s.all.running.Go(func() { r.conclude(out.serve(s.feed)) })
	return nil
}

// open writes what is stored, here and not later, for reading the store takes a stack that would stay.
func (s subscription) open(out *subscriber) error {
	if err := out.conn.SetReadDeadline(time.Time{}); err != nil {
		out.gone = true
		return err
	}
	if err := out.write(nil); err != nil {
		return err
	}
	return s.feed.CatchUp(s.ctx, out.write)
}

// subscriber writes to one reader.
type subscriber struct {
	conn    net.Conn
	timeout time.Duration
	chunked bool // HTTP/1.1; else the stream ends with the connection
	gone    bool // the reader is gone or too slow
}

// serve writes events until the reader or the server goes, neither of which is a fault.
func (o *subscriber) serve(feed *session.Feed) (fault error) {
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	defer func() {
		if v := recover(); v != nil {
			fault = &panicError{value: v, stack: debug.Stack()}
		}
		feed.Close()
		cancel()
		fault = errors.Join(fault, ignoreClosed(o.conn.Close()))
		watch.Wait()
	}()
	watch.Go(func() { defer cancel(); o.drain() })
	err := feed.Follow(ctx, o.write)
	if err == nil && o.chunked {
		err = o.send([]byte("0\r\n\r\n"))
	}
	if ctx.Err() != nil {
		return nil
	}
	return o.fault(err)
}

// drain returns when the reader is gone. It has nothing to say.
func (o *subscriber) drain() {
	var b [64]byte
	for {
		if _, err := o.conn.Read(b[:]); err != nil {
			return
		}
	}
}

func (o *subscriber) fault(err error) error {
	if o.gone {
		return nil
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// write writes a batch of events. One alone, as they come live, is encoded once for all readers.
func (o *subscriber) write(frames []session.Frame) error {
	if len(frames) == 1 && o.chunked {
		return o.send(frames[0].Wire(chunk))
	}
	var b bytes.Buffer
	appendFrames(&b, frames)
	if !o.chunked {
		return o.send(b.Bytes())
	}
	return o.send(inChunk(b.Bytes()))
}

func (o *subscriber) send(b []byte) error {
	err := o.conn.SetWriteDeadline(time.Now().Add(o.timeout))
	if err == nil {
		_, err = o.conn.Write(b)
	}
	o.gone = err != nil
	return err
}

func chunk(f session.Frame) []byte {
	var b bytes.Buffer
	appendFrames(&b, []session.Frame{f})
	return inChunk(b.Bytes())
}

// inChunk frames bytes as HTTP/1.1 sends what has no length.
func inChunk(b []byte) []byte {
	out := make([]byte, 0, len(b)+20)
	out = strconv.AppendInt(out, int64(len(b)), 16)
	out = append(out, "\r\n"...)
	out = append(out, b...)
	return append(out, "\r\n"...)
}
