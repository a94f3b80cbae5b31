package store

import (
	"encoding/json"
	"slices"
	"strings"

	"gorm.io/gorm"
)

// Compact drops the deltas of a turn whose part the log has as a whole, in
// this unit of work, when its own events are in the log. What a reader makes of
// the rest is the same; a reader that has seen some of them goes on with the
// part. Deltas of a part that never became whole stay: nothing else has their
// text.
func (tx *SessionTx) Compact(t Turn) { tx.compact = append(tx.compact, t) }

// dropDeltas compacts turns: what was stored before, and what is about to be.
func (tx *SessionTx) dropDeltas(db *gorm.DB) error {
	for _, t := range tx.compact {
		whole, begun := map[string]bool{}, false
		kept := tx.events[:0:0]
		for _, e := range slices.Backward(tx.events) {
			of := e.TurnID != nil && *e.TurnID == t.ID
			head := eventHead{Type: e.Type, Head: string(e.Data[:min(len(e.Data), headSize)])}
			begun = begun || of && e.Type == "turn.started"
			if !of || !head.dropped(whole) {
				kept = append(kept, e)
			}
		}
		slices.Reverse(kept)
		tx.events = kept
		if begun {
			continue // nothing of it was stored before
		}
		if err := dropStored(db, t, tx.lastSeq, whole); err != nil {
			return err
		}
	}
	return nil
}

// headSize is how much of an event is looked at.
const headSize = 256

// eventHead is the start of an event that belongs to a part.
type eventHead struct {
	Seq  int64
	Type string
	Head string
}

// dropped tells whether an event of a turn is a delta of a part that is whole; those after it were asked about before.
func (h eventHead) dropped(whole map[string]bool) bool {
	switch h.Type {
	case "message.part":
		if part, ok := h.part(); ok {
			whole[part] = true
		}
	case "message.delta":
		part, ok := h.part()
		return ok && whole[part]
	}
	return false
}

// dropStored reads the heads of the turn's parts and deltas up to a seq once,
// the last one first. JSON functions of the databases would not do: Postgres's
// fail on the escape \u0000, which text may hold.
func dropStored(db *gorm.DB, t Turn, upTo int64, whole map[string]bool) error {
	var heads []eventHead
	err := db.Raw(`SELECT seq, type, substr(CAST(data AS text), 1, ?) AS head FROM events WHERE session_id = ? AND seq > ? AND seq <= ?
		AND turn_id = ? AND type IN ('message.delta', 'message.part') ORDER BY seq DESC`, headSize, t.SessionID, t.AfterSeq, upTo, t.ID).
		Scan(&heads).Error
	if err != nil {
		return err
	}
	runs, open := [][2]int64{}, false
	for _, h := range heads {
		switch drop := h.dropped(whole); {
		case h.Type == "message.part":
		case !drop:
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
