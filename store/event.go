package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"
)

// Event is one entry of a session's log. Seq strictly increases in commit
// order and is never used twice.
type Event struct {
	SessionID string
	Seq       int64
	Type      string
	TurnID    *string
	Time      time.Time       `gorm:"serializer:lap_ms"`
	Data      json.RawMessage `gorm:"serializer:lap_json"`
}

// eventRow adds where an event came from.
type eventRow struct {
	Event
	Attempt int32
	N       int64
}

func (eventRow) TableName() string { return "events" }

// NewEvent is an event to be appended. A zero Time means now. Data must encode
// as a JSON object; nil is the empty one. N is the record's number in the
// sandbox's log of Attempt, 0 for events that do not come from there; a second
// event with the same Attempt and N makes the unit of work fail with
// ErrConflict.
type NewEvent struct {
	Type    string
	TurnID  *string
	Time    time.Time
	Data    any
	Attempt int32
	N       int64
}

// eventBatch bounds the rows of one statement.
const eventBatch = 500

// Append adds an event at the end of the session's log. The unit of work gives
// it its number when fn has returned; an event that cannot be stored makes the
// whole unit of work fail.
func (tx *SessionTx) Append(e NewEvent) {
	data, err := object(e.Data)
	if err == nil && e.TurnID != nil && !validID(*e.TurnID) {
		err = errors.New("ill-formed turn id")
	}
	if err != nil {
		tx.err = errors.Join(tx.err, fmt.Errorf("append %s: %w", e.Type, err))
		return
	}
	if e.Time.IsZero() {
		e.Time = tx.now
	}
	truncate(&e.Time)
	tx.events = append(tx.events, eventRow{
		Event:   Event{Type: clean(e.Type), TurnID: e.TurnID, Time: e.Time, Data: data},
		Attempt: e.Attempt, N: e.N,
	})
}

// object encodes v as a JSON object on one line.
func object(v any) (json.RawMessage, error) {
	if v == nil {
		return json.RawMessage("{}"), nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	if !bytes.HasPrefix(text, []byte("{")) {
		return nil, errors.New("data is not a JSON object")
	}
	return text, nil
}

// eventInsertions are the statements that add events.
func eventInsertions(events []eventRow) (all []statement, err error) {
	for batch := range slices.Chunk(events, eventBatch) {
		one, err := eventTable().insertion(batch, "")
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

var (
	eventTable   = sync.OnceValue(func() table[eventRow] { return newTable[eventRow]("events") })
	storedEvents = sync.OnceValue(func() table[Event] { return newTable[Event]("events") })
)

// Events returns up to limit events of a session with a seq above after, in
// order; a limit below 1 means 1000.
func (s *Store) Events(ctx context.Context, sessionID string, after int64, limit int) ([]Event, error) {
	events, _, err := s.EventsWithin(ctx, sessionID, after, limit, 0)
	return events, err
}

// EventsWithin is Events that stops when the data of what it returns has
// reached size bytes, if size is above 0. It reports whether there may be more.
func (s *Store) EventsWithin(ctx context.Context, sessionID string, after int64, limit, size int) (events []Event, more bool, err error) {
	if !validID(sessionID) {
		return nil, false, fmt.Errorf("read events: %w", ErrNotFound)
	}
	if limit < 1 {
		limit = 1000
	}
	bounded := size > 0
	events = []Event{}
	err = s.query(ctx, func(db *gorm.DB) error {
		t := storedEvents()
		query := t.selected + "WHERE session_id = ? AND seq > ? ORDER BY seq LIMIT ?"
		return t.each(db, query, []any{sessionID, after, limit}, func(e Event) bool {
			events, size = append(events, e), size-len(e.Data)
			more = bounded && size <= 0
			return !more
		})
	})
	if err != nil {
		return nil, false, fmt.Errorf("read events: %w", err)
	}
	return events, more || len(events) == limit, nil
}
