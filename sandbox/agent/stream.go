package agent

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"
)

const (
	heartbeat   = 15 * time.Second
	streamWrite = 30 * time.Second // a reader that takes no byte for so long is gone
	streamChunk = 32 << 10
)

// eventStream is one reader of the event log.
type eventStream struct {
	ctx    context.Context // of the request: the response outlives the handler's call
	events *eventLog
	after  int64
	beat   time.Duration
}

// VisitStreamEventsResponse writes records until the caller or the log ends.
func (s eventStream) VisitStreamEventsResponse(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := &lineSkipper{w: w, rc: http.NewResponseController(w)}
	offset, skip := s.events.seek(s.after)
	out.skip = skip
	if err := out.flush(); err != nil {
		return nil // the caller is gone, and the status is sent
	}
	s.follow(out, offset)
	return nil
}

func (s eventStream) follow(out *lineSkipper, offset int64) {
	timer := time.NewTimer(s.beat)
	defer timer.Stop()
	buf := make([]byte, streamChunk)
	for {
		size, changed, closed := s.events.tail()
		if offset < size {
			n, err := s.events.f.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
			if err != nil || out.write(buf[:n]) != nil {
				return
			}
			offset += int64(n)
			continue
		}
		if out.flush() != nil || closed {
			return
		}
		timer.Reset(s.beat)
		select {
		case <-changed:
		case <-timer.C:
			if out.blank() != nil {
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// lineSkipper leaves out the first skip lines of what is written to it.
type lineSkipper struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	skip int64
}

func (l *lineSkipper) write(b []byte) error {
	for l.skip > 0 {
		_, rest, whole := bytes.Cut(b, []byte{'\n'})
		b = rest
		if !whole {
			return nil
		}
		l.skip--
	}
	if len(b) == 0 {
		return nil
	}
	if err := l.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	_, err := l.w.Write(b)
	return err
}

func (l *lineSkipper) blank() error {
	if err := l.rc.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	_, err := l.w.Write([]byte{'\n'})
	return err
}

func (l *lineSkipper) flush() error { return l.rc.Flush() }
