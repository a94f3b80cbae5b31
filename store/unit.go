package store

import (
	"context"
	"fmt"
	"slices"

	"gorm.io/gorm"
)

// unit is one open transaction.
type unit struct {
	batch      *batch   // the transaction it shares on SQLite; nil on Postgres
	touched    []Change // in order, with repeats
	savepoints int
	ended      bool
	broken     bool // what it holds is unknown: it takes nothing more and is not committed
}

var errBroken = fmt.Errorf("%w: the transaction is broken", ErrUnavailable)

// InTx runs fn in one transaction and commits it, or rolls everything back when
// fn returns an error or panics. Inside another InTx, or in the work of Once, it
// joins that one: an error undoes only what the inner fn did, and nothing is
// committed or announced before the outermost has ended. fn must use the Store
// it is given and do nothing slow: on SQLite it holds the only writer. There, units of work that waited for each other are
// committed together; each still fails alone, unless the database itself fails, which all of them are told.
func (s *Store) InTx(ctx context.Context, fn func(s *Store) error) error {
	if o := s.onceOf(ctx); o != nil {
		joined, err := o.begin()
		if err != nil {
			return err
		}
		s = joined
	}
	if s.unit != nil {
		return s.nested(ctx, fn)
	}
	bound, cancel := s.bounded(ctx)
	defer cancel()
	tx, err := s.begin(bound, false)
	if err != nil {
		return err
	}
	defer tx.rollback()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.commit(bound)
}

// begin opens a transaction, which ctx ends at the latest. What may take long is to be alone in it.
func (s *Store) begin(ctx context.Context, alone bool) (*Store, error) {
	if s.writer != nil {
		b, err := s.writer.join(ctx, s.write, alone)
		if err != nil {
			return nil, fmt.Errorf("begin: %w", translate(ctx, err))
		}
		return &Store{shared: s.shared, write: b.tx, read: b.tx, unit: &unit{batch: b}}, nil
	}
	tx := s.write.WithContext(ctx).Begin()
	if tx.Error != nil {
		return nil, fmt.Errorf("begin: %w", translate(ctx, tx.Error))
	}
	return &Store{shared: s.shared, write: tx, read: tx, unit: &unit{}}, nil
}

// rollback undoes what was not committed.
func (s *Store) rollback() {
	switch u := s.unit; {
	case u.ended:
		return
	case u.batch != nil:
		_ = s.writer.leave(u.batch, false, nil)
	default:
		s.write.Rollback()
	}
	s.unit.ended = true
}

// commit ends the transaction and tells who listens.
func (s *Store) commit(ctx context.Context) error {
	if s.unit.broken {
		return errBroken
	}
	if b := s.unit.batch; b != nil {
		s.unit.ended = true
		if err := s.writer.leave(b, true, s.unit.touched); err != nil {
			return fmt.Errorf("commit: %w", translate(ctx, err))
		}
		return nil
	}
	s.unit.ended = true
	err := s.write.Commit().Error
	// A commit whose answer got lost may have taken effect: subscribers look.
	s.hub.publish(merged(s.unit.touched))
	if err != nil {
		return fmt.Errorf("commit: %w", translate(ctx, err))
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
			// SQLite may have ended the transaction by itself: what came next would be committed at once.
			err := s.exec(context.WithoutCancel(ctx), func(db *gorm.DB) error { return db.Exec("ROLLBACK TO SAVEPOINT " + name).Error })
			s.unit.broken = s.unit.broken || err != nil
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

// touch writes what changes a session in the open transaction, of which others are told when it is committed.
func (s *Store) touch(db *gorm.DB, all []statement, c Change) error {
	s.unit.touched = append(s.unit.touched, c)
	return s.engine.apply(db, all, c)
}

// merged lists the touched sessions once each, in the order of first touch.
func merged(touched []Change) []Change {
	var out []Change
	for _, c := range touched {
		i := slices.IndexFunc(out, func(o Change) bool { return o.SessionID == c.SessionID })
		if i < 0 {
			out = append(out, c)
			continue
		}
		out[i].Extent = min(out[i].Extent, c.Extent)
	}
	return out
}
