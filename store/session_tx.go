package store

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"
)

// SessionTx is a unit of work on one session, whose row it has locked.
type SessionTx struct {
	// Session is a copy to be changed freely; what differs at the end is
	// written. ID, AgentID, AgentVersion, Skills, CreatedAt and LastSeq are not.
	Session *Session

	db      *gorm.DB
	lastSeq int64 // before this unit of work
	now     time.Time
	events  []eventRow
	turns   int  // turns written
	news    bool // a turn came and waits, ended or shall end
	compact []Turn
	err     error
}

// Session runs fn with the row locked, then writes what changed in it together
// with the appended events, commits and notifies. An error of fn rolls
// everything back and is returned as it is. ErrNotFound if there is no row.
func (s *Store) Session(ctx context.Context, id string, fn func(tx *SessionTx) error) error {
	return s.session(ctx, id, nil, fn)
}

// Observe is Session for the leader: it fails with ErrLeaseLost, having written
// nothing, unless l is still the current lease.
func (s *Store) Observe(ctx context.Context, l Lease, id string, fn func(tx *SessionTx) error) error {
	return s.session(ctx, id, &l, fn)
}

func (s *Store) session(ctx context.Context, id string, l *Lease, fn func(tx *SessionTx) error) error {
	if !validID(id) {
		return fmt.Errorf("session: %w", ErrNotFound)
	}
	return s.InTx(ctx, func(s *Store) error {
		if l != nil {
			if err := s.fence(ctx, *l); err != nil {
				return err
			}
		}
		var row Session
		err := s.exec(ctx, func(db *gorm.DB) error {
			return db.Clauses(clause.Locking{Strength: "UPDATE"}).Where("id = ?", id).Take(&row).Error
		})
		if err != nil {
			return fmt.Errorf("load session: %w", err)
		}
		return s.work(ctx, &row, fn)
	})
}

// work runs fn on a locked row and writes the outcome; row then holds it.
func (s *Store) work(ctx context.Context, row *Session, fn func(tx *SessionTx) error) error {
	if fn == nil {
		return nil
	}
	before := row.clone()
	bound, cancel := s.bounded(ctx)
	defer cancel()
	tx := &SessionTx{Session: row, lastSeq: row.LastSeq, db: s.write.WithContext(bound), now: now()}
	if err := fn(tx); err != nil {
		return err
	}
	if tx.err != nil {
		return tx.err
	}
	changed := tx.settle(before)
	err := s.exec(ctx, func(db *gorm.DB) error {
		if err := tx.write(db); err != nil || len(changed) == 0 {
			return err
		}
		return db.Model(&Session{}).Where("id = ?", row.ID).Select(changed).Updates(row).Error
	})
	if err != nil {
		return fmt.Errorf("write session: %w", err)
	}
	if len(changed)+len(tx.events)+tx.turns > 0 {
		s.unit.touch(Change{row.ID, tx.extent(changed)})
	}
	return nil
}

// progress are the columns of a session that change while it goes on.
var progress = []string{"last_seq", "log_n", "last_seen_at", "turn_count", "title_preview", "response"}

func (tx *SessionTx) extent(changed []string) Extent {
	switch {
	case slices.ContainsFunc(changed, func(column string) bool { return !slices.Contains(progress, column) }):
		return Anything
	case tx.news:
		return OnlyTurns
	}
	return OnlyProgress
}

// settle numbers the events, restores what callers may not change and returns
// the columns that differ from before.
func (tx *SessionTx) settle(before *Session) []string {
	row := tx.Session
	row.ID, row.AgentID, row.AgentVersion = before.ID, before.AgentID, before.AgentVersion
	row.Skills, row.CreatedAt, row.LastSeq = before.Skills, before.CreatedAt, before.LastSeq
	for i := range tx.events {
		row.LastSeq++
		tx.events[i].SessionID, tx.events[i].Seq = row.ID, row.LastSeq
	}
	cleanText(row)
	truncate(row.times()...)
	return changedColumns(before, row)
}

// Now is the time of this unit of work: one value for all it writes.
func (tx *SessionTx) Now() time.Time { return tx.now }

func (sess *Session) times() []*time.Time {
	return []*time.Time{&sess.AttemptStartedAt, sess.ReadyAt, sess.LastSeenAt, sess.StoppedAt, sess.DeletedAt, sess.SuspendedAt, sess.ExpiredAt}
}

// truncate makes times equal to what will be read back.
func truncate(times ...*time.Time) {
	for _, t := range times {
		if t != nil && !t.IsZero() {
			*t = t.UTC().Truncate(time.Millisecond)
		}
	}
}

var sessionFields = sync.OnceValue(func() []*schema.Field {
	parsed, err := schema.Parse(&Session{}, &sync.Map{}, schema.NamingStrategy{})
	if err != nil {
		panic(err) // the struct's tags are wrong
	}
	return parsed.Fields
})

// clone shares nothing with sess, so that a change behind a pointer is seen.
func (sess *Session) clone() *Session {
	c := *sess
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			p := reflect.New(f.Type().Elem())
			p.Elem().Set(f.Elem())
			f.Set(p)
		}
	}
	return &c
}

func changedColumns(before, after *Session) []string {
	var columns []string
	ctx := context.Background()
	a, b := reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem()
	for _, f := range sessionFields() {
		if !reflect.DeepEqual(f.ReflectValueOf(ctx, a).Interface(), f.ReflectValueOf(ctx, b).Interface()) {
			columns = append(columns, f.DBName)
		}
	}
	return columns
}
