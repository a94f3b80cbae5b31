package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	contentTypeSSE    = "text/event-stream"
	defaultEventLimit = 200
	maxEventLimit     = 1000
	maxPageBytes      = 4 << 20 // a page that has reached this ends, so that a thousand large events do not fill the memory
)

type events struct {
	store        *store.Store
	sessions     *session.Service
	writeTimeout time.Duration // of one write to a reader; one that is slower is dropped and can resume
	open         *subscriptions
}

func (h events) StreamEvents(ctx context.Context, r gen.StreamEventsRequestObject) (gen.StreamEventsResponseObject, error) {
	var after int64
	if r.Params.After != nil {
		after = *r.Params.After
	}
	if r.Params.LastEventID != nil {
		after = *r.Params.LastEventID
	}
	if r.Params.Follow == nil || *r.Params.Follow {
		feed, err := h.sessions.Subscribe(ctx, r.SessionID, after)
		if err != nil {
			return nil, orNotFound(err, sessionNotFound(r.SessionID))
		}
		return subscription{ctx: ctx, feed: feed, timeout: h.writeTimeout, all: h.open}, nil
	}
	limit := defaultEventLimit
	if r.Params.Limit != nil {
		limit = min(max(*r.Params.Limit, 1), maxEventLimit)
	}
	return h.page(ctx, r.SessionID, after, limit)
}

func (h events) page(ctx context.Context, sessionID string, after int64, limit int) (gen.StreamEventsResponseObject, error) {
	if _, err := h.store.GetSession(ctx, sessionID); err != nil {
		return nil, orNotFound(err, sessionNotFound(sessionID))
	}
	list, more, err := h.store.EventsWithin(ctx, sessionID, after, limit+1, maxPageBytes)
	if err != nil {
		return nil, err
	}
	p := eventPage{NextAfter: after, HasMore: more, Data: make([]json.RawMessage, 0, min(len(list), limit))}
	for _, e := range list[:min(len(list), limit)] {
		p.Data, p.NextAfter = append(p.Data, session.EncodeEvent(e)), e.Seq
	}
	return p, nil
}

// eventPage is gen.EventPage with the events as the session service encodes them, like those of a stream.
type eventPage struct {
	Data      []json.RawMessage `json:"data"`
	NextAfter int64             `json:"next_after"`
	HasMore   bool              `json:"has_more"`
}

// VisitStreamEventsResponse writes the page.
func (p eventPage) VisitStreamEventsResponse(w http.ResponseWriter) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode events: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(body, '\n'))
	return err
}

// stream is the events of a turn as server-sent events, for as long as there are any, the client reads and the server runs. The
// response owns the request's context, for it is written after the handler has returned.
type stream struct {
	ctx     context.Context
	timeout time.Duration // of one write
	follow  func(emit func([]session.Frame) error) error
}

// begin writes the head of an event stream.
func begin(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", contentTypeSSE)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
}

// VisitStreamMessageResponse writes events until the turn ends, or the reader or the server goes. None is a fault.
func (s stream) VisitStreamMessageResponse(w http.ResponseWriter) error {
	begin(w)
	out := &eventWriter{w: w, rc: http.NewResponseController(w), timeout: s.timeout}
	if out.write(nil) != nil {
		return nil
	}
	err := s.follow(out.write)
	if out.failed || s.ctx.Err() != nil {
		return nil
	}
	return err
}

// eventWriter writes batches of events, each within a deadline.
type eventWriter struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	buf     bytes.Buffer
	failed  bool // the reader is gone or too slow
}

func (o *eventWriter) write(frames []session.Frame) error {
	o.buf.Reset()
	appendFrames(&o.buf, frames)
	err := o.rc.SetWriteDeadline(time.Now().Add(o.timeout))
	if err == nil {
		_, err = o.w.Write(o.buf.Bytes())
	}
	if err == nil {
		err = o.rc.Flush()
	}
	o.failed = err != nil
	return err
}

// appendFrames writes events in the format of the HTML standard; without any a comment, which keeps proxies from closing.
func appendFrames(b *bytes.Buffer, frames []session.Frame) {
	if len(frames) == 0 {
		b.WriteString(":\n\n")
	}
	for _, f := range frames {
		b.WriteString("id: ")
		b.Write(strconv.AppendInt(b.AvailableBuffer(), f.Seq, 10))
		b.WriteString("\nevent: ")
		b.WriteString(f.Type)
		b.WriteString("\ndata: ")
		b.Write(f.Event)
		b.WriteString("\n\n")
	}
}
