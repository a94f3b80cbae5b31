// Package client is the Go client of the LAP API. All of it is generated from openapi/openapi.yaml but two files: stream.go adds
// the event stream, errors.go answers that are not a success as errors. A client is safe for concurrent use.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
)

const maxEvent = 16 << 20

// Follow yields the events of a session after a cursor, live, until the stream or ctx ends. A stream that ends without an error
// yields nothing more; to go on, call it again with the last event's Seq. The error, if there is one, is the last thing yielded;
// it is a *StatusError if the server refused.
func (c *Client) Follow(ctx context.Context, sessionID string, after int64, editors ...RequestEditorFn) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		res, err := c.StreamEvents(ctx, sessionID, &StreamEventsParams{After: &after}, editors...)
		if err == nil {
			err = Check(res)
		}
		if err != nil {
			yield(Event{}, fmt.Errorf("events of session %s: %w", sessionID, err))
			return
		}
		defer func() { _ = res.Body.Close() }()
		Events(res.Body)(yield)
	}
}

// Events yields the events of a stream that StreamEvents or StreamMessage opened, until it ends. An event that was cut off is
// not yielded. The error, if there is one, is the last thing yielded. The caller closes the stream.
func Events(stream io.Reader) iter.Seq2[Event, error] {
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
