package store

import (
	"encoding/json"
	"strings"

	"gorm.io/gorm"
)

// Compact drops the deltas of a turn whose part the log has as a whole, in
// this unit of work, when its own events are in the log. What a reader makes of
// the rest is the same; a reader that has seen some of them goes on with the
// part. Deltas of a part that never became whole stay: nothing else has their
// text.
func (tx *SessionTx) Compact(t Turn) { tx.compact = append(tx.compact, t) }

// write appends the events and compacts turns.
func (tx *SessionTx) write(db *gorm.DB) error {
	if err := insertEvents(db, tx.events); err != nil {
		return err
	}
	for _, t := range tx.compact {
		if err := dropDeltas(db, t); err != nil {
			return err
		}
	}
	return nil
}

// eventHead is the start of an event that belongs to a part.
type eventHead struct {
	Seq  int64
	Type string
	Head string
}

// dropDeltas reads the heads of the turn's parts and deltas once, the last one
// first. JSON functions of the databases would not do: Postgres's fail on the
// escape \u0000, which text may hold.
func dropDeltas(db *gorm.DB, t Turn) error {
	var heads []eventHead
	err := db.Raw(`SELECT seq, type, substr(CAST(data AS text), 1, 256) AS head FROM events
		WHERE session_id = ? AND seq > ? AND turn_id = ? AND type IN ('message.delta', 'message.part') ORDER BY seq DESC`,
		t.SessionID, t.AfterSeq, t.ID).Scan(&heads).Error
	if err != nil {
		return err
	}
	whole, runs, open := map[string]bool{}, [][2]int64{}, false
	for _, h := range heads {
		part, ok := h.part()
		switch {
		case h.Type == "message.part":
			whole[part] = whole[part] || ok
		case !ok || !whole[part]:
			open = false
		case open:
			runs[len(runs)-1][0] = h.Seq
		default:
			runs, open = append(runs, [2]int64{h.Seq, h.Seq}), true
		}
	}
	for _, run := range runs {
		res := db.Exec(`DELETE FROM events WHERE session_id = ? AND seq BETWEEN ? AND ? AND turn_id = ? AND type = 'message.delta'`,
			t.SessionID, run[0], run[1], t.ID)
		if res.Error != nil {
			return res.Error
		}
	}
	return nil
}

// part is the part's id if it is the first thing the event says, as sandboxd's
// events do.
func (h eventHead) part() (string, bool) {
	d := json.NewDecoder(strings.NewReader(h.Head))
	for _, want := range []json.Token{json.Delim('{'), "part_id"} {
		if got, err := d.Token(); err != nil || got != want {
			return "", false
		}
	}
	id, _ := d.Token() // nil if it is cut off
	part, ok := id.(string)
	return part, ok
}
