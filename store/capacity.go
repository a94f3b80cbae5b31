package store

import (
	"fmt"
	"time"

	"gorm.io/gorm"
)

// admission is the second key of the advisory lock under which places are counted; the first is lockClass.
const admission = 2

// Others says what there is beside the session of a unit of work.
type Others struct {
	// Placed counts the sessions that have a sandbox or are to get one.
	Placed int64
	// Last is when the n-th last session was created, zero if there are fewer.
	Last time.Time
}

// Others counts sessions beside this one, for n see Others.Last; below 1 it is
// not looked for. Until the end of this unit of work no other one, of any
// process, gets an answer: what it decides on these numbers holds.
func (tx *SessionTx) Others(n int) (o Others, err error) {
	if err := tx.count(&o, n); err != nil {
		return Others{}, fmt.Errorf("count sessions: %w", translate(tx.db.Statement.Context, err))
	}
	return o, nil
}

func (tx *SessionTx) count(o *Others, n int) error {
	// SQLite has one writer at a time anyway.
	if tx.db.Name() == "postgres" {
		if err := tx.db.Exec("SELECT pg_advisory_xact_lock(?, ?)", lockClass, admission).Error; err != nil {
			return err
		}
	}
	others := func() *gorm.DB { return tx.db.Table("sessions").Where("id <> ?", tx.Session.ID) }
	err := others().Where("status IN ('creating', 'ready') AND desired = 'running'").Count(&o.Placed).Error
	if err != nil || n < 1 {
		return err
	}
	var created []int64
	err = others().Order("created_at DESC, id DESC").Offset(n-1).Limit(1).Pluck("created_at", &created).Error
	if err == nil && len(created) > 0 {
		o.Last = fromMillis(created[0])
	}
	return err
}
