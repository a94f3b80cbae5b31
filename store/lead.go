package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Lease names one term of leadership. Every new term has a higher epoch.
type Lease struct {
	Epoch int64
}

// The leader lock of Postgres, two keys of the advisory lock space of one
// database.
const (
	lockClass  = 0x6c6170
	lockObject = 1
)

const (
	nextEpoch = "UPDATE leadership SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch"
	lockHeld  = `SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
		AND classid = $1 AND objid = $2 AND objsubid = 2`
)

var errPooled = errors.New("the leader lock is not held by its own connection: the database URL must not lead to a transaction pooler")

// heldLease is leadership in hand.
type heldLease struct {
	lease Lease
	conn  *pgx.Conn // holds the Postgres lock; nil on SQLite
}

// Lead blocks until this process leads, then runs fn once and returns its
// error, or ctx's when ctx ends. fn's context ends as soon as leadership is
// lost; Lead then returns ErrLeaseLost after fn has returned. What fn observed is written with Observe,
// which refuses a lease that is no longer the current one. At most one fn runs
// at a time in one process; across processes an old one may still be returning
// when the next begins, and can write nothing any more.
func (s *Store) Lead(ctx context.Context, fn func(ctx context.Context, l Lease) error) error {
	select {
	case s.leading <- struct{}{}:
		defer func() { <-s.leading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	held, err := s.engine.lead(ctx, s)
	if err != nil {
		return err
	}
	leading, lost := context.WithCancelCause(ctx)
	guarded := make(chan struct{})
	go func() {
		defer close(guarded)
		held.guard(leading, lost)
	}()
	defer func() {
		lost(nil)
		<-guarded
		held.release()
	}()
	s.log.Info("leadership gained", "epoch", held.lease.Epoch)
	err = fn(leading, held.lease)
	if ctx.Err() == nil && errors.Is(context.Cause(leading), ErrLeaseLost) {
		s.log.Warn("leadership lost", "epoch", held.lease.Epoch, "err", context.Cause(leading))
		return context.Cause(leading)
	}
	return err
}

// guard ends the lease when the lock's connection no longer answers or no
// longer holds the lock.
func (h *heldLease) guard(ctx context.Context, lost context.CancelCauseFunc) {
	if h.conn == nil {
		return
	}
	for ctx.Err() == nil {
		_, err := await(ctx, h.conn)
		if err == nil {
			err = probe(ctx, h.conn, lockHeld, lockClass, lockObject)
		}
		if errors.Is(err, pgx.ErrNoRows) {
			err = errPooled
		}
		if err != nil && ctx.Err() == nil {
			lost(fmt.Errorf("%w: %v", ErrLeaseLost, err))
		}
	}
}

func (h *heldLease) release() {
	if h.conn != nil {
		discard(h.conn)
	}
}

func (e *postgresEngine) lead(ctx context.Context, s *Store) (*heldLease, error) {
	var conn *pgx.Conn
	waiting := ""
	for {
		epoch, err := e.tryLead(ctx, &conn)
		if err == nil {
			return &heldLease{lease: Lease{Epoch: epoch}, conn: conn}, nil
		}
		reason := "another process leads"
		if !errors.Is(err, errNotLeader) {
			reason = translate(ctx, err).Error()
			if conn != nil {
				discard(conn)
				conn = nil
			}
		}
		if reason != waiting && ctx.Err() == nil {
			waiting = reason
			s.log.Info("leadership awaited", "reason", reason)
		}
		if !wait(ctx, retryEvery) {
			if conn != nil {
				discard(conn)
			}
			return nil, ctx.Err()
		}
	}
}

var errNotLeader = errors.New("not the leader")

// tryLead takes the lock on *conn, which it opens when nil, and begins a new
// epoch. The lock is looked up afterwards: a pooler may have run the two
// statements on different connections.
func (e *postgresEngine) tryLead(ctx context.Context, conn **pgx.Conn) (epoch int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.ConnectTimeout)
	defer cancel()
	if *conn == nil {
		if *conn, err = dial(ctx, e.config); err != nil {
			return 0, err
		}
	}
	var got bool
	if err := (*conn).QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", lockClass, lockObject).Scan(&got); err != nil {
		return 0, err
	}
	if !got {
		return 0, errNotLeader
	}
	if err := probe(ctx, *conn, lockHeld, lockClass, lockObject); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			err = errPooled
		}
		return 0, err
	}
	err = (*conn).QueryRow(ctx, nextEpoch).Scan(&epoch)
	return epoch, err
}

// fence fails unless l is the current lease, and keeps a next one from
// beginning before the open transaction has ended.
func (s *Store) fence(ctx context.Context, l Lease) error {
	var epoch int64
	err := s.exec(ctx, func(db *gorm.DB) error {
		return db.Table("leadership").Clauses(clause.Locking{Strength: "SHARE"}).
			Select("epoch").Where("id = 1").Take(&epoch).Error
	})
	if err != nil {
		return fmt.Errorf("read lease: %w", err)
	}
	if epoch != l.Epoch {
		return fmt.Errorf("%w: epoch %d, now %d", ErrLeaseLost, l.Epoch, epoch)
	}
	return nil
}
