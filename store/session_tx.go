package store

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"
)

// SessionTx is a unit of work on one session, whose row it has locked.
type SessionTx struct {
	// Session is a copy to be changed freely; what differs at the end is
	// written. ID, AgentID, AgentVersion, Skills, CreatedAt and LastSeq are not.
	Session *Session

	db       *gorm.DB
	lastSeq  int64 // before this unit of work
	now      time.Time
	events   []eventRow
	position int64 // of the session's last turn, if it is known
	turns    int   // turns written
	news     bool  // a turn came and waits, or shall end
	ends     bool  // a turn ended
	compact  []Turn
	err      error
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
		row, epoch, err := s.lockSession(ctx, id, l != nil)
		if err != nil {
			return fmt.Errorf("load session: %w", err)
		}
		if l != nil && epoch != l.Epoch {
			return fmt.Errorf("%w: epoch %d, now %d", ErrLeaseLost, l.Epoch, epoch)
		}
		return s.work(ctx, &row, fn)
	})
}

var sessionTable = sync.OnceValue(func() table[Session] { return newTable[Session]("sessions") })

// lockSession reads a session's row, and who leads if that is asked for, and keeps both as they are until the commit.
func (s *Store) lockSession(ctx context.Context, id string, fenced bool) (row Session, epoch int64, err error) {
	err = s.exec(ctx, func(db *gorm.DB) error {
		r := sessionTable()
		if fenced {
			query := "SELECT " + r.columns + ", leadership.epoch FROM sessions, leadership WHERE sessions.id = ? AND leadership.id = 1"
			row, err = r.take(db, query+s.engine.locking(" FOR UPDATE OF sessions FOR SHARE OF leadership"), []any{id}, &epoch)
		} else {
			row, err = r.take(db, r.selected+"WHERE id = ?"+s.engine.locking(" FOR UPDATE"), []any{id})
		}
		return err
	})
	return row, epoch, err
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
		if err := tx.dropDeltas(db); err != nil {
			return err
		}
		all, err := eventInsertions(tx.events)
		if err == nil && len(changed) > 0 {
			var change statement
			change, err = sessionTable().change(row, changed, "id = ?", row.ID)
			all = append(all, change)
		}
		if err != nil || len(all)+tx.turns == 0 {
			return err
		}
		return s.touch(db, all, Change{row.ID, tx.extent(changed)})
	})
	if err != nil {
		return fmt.Errorf("write session: %w", err)
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
	case tx.ends:
		return OnlyEnds
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
	for _, f := range sessionTable().fields {
		if !reflect.DeepEqual(f.ReflectValueOf(ctx, a).Interface(), f.ReflectValueOf(ctx, b).Interface()) {
			columns = append(columns, f.DBName)
		}
	}
	return columns
}
