package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"
)

const (
	maxEvent    = 16 << 20
	steadyAfter = 2 * time.Second // a connection that held so long got on
)

// errBroken marks the end of a stream that had been opened.
var errBroken = errors.New("the stream broke")

// Events yields the events of a session after a cursor, 0 for all, each once and in order, and goes on with those that happen. A
// stream that breaks or falls silent is resumed where it broke. It ends when the caller stops ranging, or with an error: why ctx
// ended, a *StatusError if the server refuses, or that there was no getting on for as long as Options.Patience.
func (a *API) Events(ctx context.Context, sessionID string, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		err := a.follow(ctx, after, func(after int64) (*http.Response, error) {
			return a.once.StreamEvents(ctx, sessionID, &StreamEventsParams{After: &after})
		}, func(e Event) bool { return yield(e, nil) })
		if err != nil {
			yield(Event{}, err)
		}
	}
}

// Turn sends a message and yields the events of its turn, each once, to its end. Reply makes text of them. However often the
// connection is lost, and however often the iterator is ranged over, the message is one turn; params may name its key. To go on
// after a crash of the program, call it again with the same key and message. It ends with an error as Events does; how the turn
// ended is in its last event.
func (a *API) Turn(ctx context.Context, sessionID string, params *StreamMessageParams, message MessageCreate) iter.Seq2[Event, error] {
	var named StreamMessageParams
	if params != nil {
		named = *params
	}
	if named.IdempotencyKey == nil {
		named.IdempotencyKey = new(rand.Text())
	}
	return func(yield func(Event, error) bool) {
		err := a.follow(ctx, 0, func(int64) (*http.Response, error) {
			return a.once.StreamMessage(ctx, sessionID, &named, message)
		}, func(e Event) bool { return yield(e, nil) && !e.EndsTurn() })
		if err != nil {
			yield(Event{}, err)
		}
	}
}

// follow hands over the events that open brings after a cursor, each once, until more wants no more. A broken stream is opened again.
func (a *API) follow(ctx context.Context, after int64, open func(after int64) (*http.Response, error), more func(Event) bool) error {
	lost := false
	for begun, try := time.Now(), 0; ; try++ {
		opened := time.Now()
		over, cause := read(&after, open, func(e Event) bool { try, lost = 0, false; begun = time.Now(); return more(e) })
		if over {
			return nil
		}
		if errors.Is(cause, errBroken) && time.Since(opened) > steadyAfter {
			begun, try, lost = time.Now(), 0, false
		}
		notBefore, ok := transient(cause)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !ok || notBefore > a.o.LongestWait:
			return cause
		case a.o.Patience >= 0 && time.Since(begun) > a.o.Patience:
			return fmt.Errorf("gave up after %v: %w", a.o.Patience, cause)
		case !lost && a.o.Lost != nil:
			a.o.Lost(cause)
		}
		lost = true
		if err := pause(ctx, notBefore+backoff(try)); err != nil {
			return err
		}
	}
}

// read hands over the events of one stream that come after a cursor, which it moves.
func read(after *int64, open func(after int64) (*http.Response, error), more func(Event) bool) (over bool, cause error) {
	res, err := open(*after)
	if err != nil {
		return false, err
	}
	defer func() { _ = res.Body.Close() }()
	for e, err := range ReadEvents(res.Body) {
		if err != nil {
			return false, fmt.Errorf("%w: %w", errBroken, err)
		}
		if e.Seq <= *after {
			continue
		}
		*after = e.Seq
		if !more(e) {
			return true, nil
		}
	}
	return false, fmt.Errorf("%w: %w", errBroken, io.ErrUnexpectedEOF)
}

// ReadEvents yields the events of one stream that StreamEvents or StreamMessage opened, until it ends. An event that was cut off is
// not yielded. The error, if there is one, is the last thing yielded. The caller closes the stream.
func ReadEvents(stream io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, maxEvent)
		lines.Split(wholeLines)
		for lines.Scan() {
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
			if !ok {
				continue
			}
			var e Event
			if err := json.Unmarshal(data, &e); err != nil {
				yield(e, fmt.Errorf("decode event: %w", err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Event{}, err)
		}
	}
}

// wholeLines is bufio.ScanLines without a last line that has no end: the connection broke in the middle of it.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}
