package store

import (
	"context"
	"fmt"
	"slices"

	"gorm.io/gorm"
)

// unit is one open transaction.
type unit struct {
	touched    []string // sessions, in order, with repeats
	savepoints int
}

// InTx runs fn in one transaction and commits it, or rolls everything back when
// fn returns an error or panics. Inside another InTx it joins that one: an
// error undoes only what the inner fn did, and nothing is committed or
// announced before the outermost has ended. fn must use the Store it is given
// and do nothing slow: on SQLite it holds the only writer.
func (s *Store) InTx(ctx context.Context, fn func(s *Store) error) error {
	if s.unit != nil {
		return s.nested(ctx, fn)
	}
	bound, cancel := s.bounded(ctx)
	defer cancel()
	tx := s.write.WithContext(bound).Begin()
	if tx.Error != nil {
		return fmt.Errorf("begin: %w", translate(bound, tx.Error))
	}
	ended := false
	defer func() {
		if !ended {
			tx.Rollback()
		}
	}()
	u := &unit{}
	if err := fn(&Store{shared: s.shared, write: tx, read: tx, unit: u}); err != nil {
		return err
	}
	touched := u.sessions()
	if err := s.engine.announce(tx, touched); err != nil {
		return fmt.Errorf("announce: %w", translate(bound, err))
	}
	ended = true
	err := tx.Commit().Error
	// A commit whose answer got lost may have taken effect: subscribers look.
	s.hub.publish(touched)
	if err != nil {
		return fmt.Errorf("commit: %w", translate(bound, err))
	}
	return nil
}

func (s *Store) nested(ctx context.Context, fn func(s *Store) error) error {
	s.unit.savepoints++
	name := fmt.Sprintf("lap_%d", s.unit.savepoints)
	if err := s.exec(ctx, func(db *gorm.DB) error { return db.Exec("SAVEPOINT " + name).Error }); err != nil {
		return fmt.Errorf("savepoint: %w", err)
	}
	mark, ended := len(s.unit.touched), false
	defer func() {
		if !ended {
			// When this fails the transaction is broken and cannot commit.
			_ = s.exec(context.WithoutCancel(ctx), func(db *gorm.DB) error { return db.Exec("ROLLBACK TO SAVEPOINT " + name).Error })
			s.unit.touched = s.unit.touched[:mark]
		}
	}()
	if err := fn(s); err != nil {
		return err
	}
	if err := s.exec(ctx, func(db *gorm.DB) error { return db.Exec("RELEASE SAVEPOINT " + name).Error }); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	ended = true
	return nil
}

// touch notes that the open transaction changed something of a session.
func (u *unit) touch(session string) { u.touched = append(u.touched, session) }

// sessions lists the touched sessions once each, in the order of first touch.
func (u *unit) sessions() []string {
	var out []string
	for _, id := range u.touched {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}
