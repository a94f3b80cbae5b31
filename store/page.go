package store

import (
	"time"

	"gorm.io/gorm"
)

// PageRequest asks for a part of a list: newest first, ties by id, unless the
// list can be sorted otherwise.
type PageRequest struct {
	// Limit is the number of rows; below 1 means 50.
	Limit int
	// Offset skips rows of what After leaves. Its cost grows with it.
	Offset int
	// After continues behind this position; rows added meanwhile change nothing.
	After *Key
	// Total asks for the number of all rows, which costs a count.
	Total bool
}

// Key is the position of a row in a list.
type Key struct {
	CreatedAt time.Time
	ID        string
	// Order names the order the key is of; empty is newest first.
	Order string
	// Value is what the row is sorted by, where that is not the time.
	Value string
}

const defaultLimit = 50

func (p PageRequest) limit() int {
	if p.Limit < 1 {
		return defaultLimit
	}
	return p.Limit
}

// apply orders and cuts db, asking for one row more than the page holds: that
// row says whether there is a next page.
func (p PageRequest) apply(db *gorm.DB, table string) *gorm.DB {
	if p.After != nil {
		id := p.After.ID
		if !validID(id) {
			id = zeroID
		}
		db = db.Where("("+table+".created_at, "+table+".id) < (?, ?)", toMillis(p.After.CreatedAt), id)
	}
	if p.Offset > 0 {
		db = db.Offset(p.Offset)
	}
	return db.Order(table + ".created_at DESC, " + table + ".id DESC").Limit(p.limit() + 1)
}

const zeroID = "00000000-0000-0000-0000-000000000000"

// cut drops the extra row of a page and returns the position of the last row
// that stays, nil on the last page.
func cut[T any](rows []T, p PageRequest, key func(T) Key) ([]T, *Key) {
	if len(rows) <= p.limit() {
		return rows, nil
	}
	rows = rows[:p.limit()]
	next := key(rows[len(rows)-1])
	return rows, &next
}
