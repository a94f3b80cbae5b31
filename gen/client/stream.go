// Package client is the Go client of the LAP API. All of it is generated from openapi/openapi.yaml but this file, which adds the
// event stream. A client is safe for concurrent use.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
)

const maxEvent = 16 << 20

// Follow yields the events of a session after a cursor, live, until the stream or ctx ends. A stream that ends without an error
// yields nothing more; to go on, call it again with the last event's Seq. The error, if there is one, is the last thing yielded.
func (c *Client) Follow(ctx context.Context, sessionID string, after int64, editors ...RequestEditorFn) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		res, err := c.StreamEvents(ctx, sessionID, &StreamEventsParams{After: &after}, editors...)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
			yield(Event{}, fmt.Errorf("events of session %s: %s: %s", sessionID, res.Status, body))
			return
		}
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, maxEvent)
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
