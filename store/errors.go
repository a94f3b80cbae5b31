package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"gorm.io/gorm"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	// ErrNotFound means that there is no such row, or it is not visible to this question.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that another row already has this key, or a rule of the schema
	// forbids the change.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable means that the database cannot be reached, is too busy or is full.
	// Whether a failed commit took effect is then unknown.
	ErrUnavailable = errors.New("database unavailable")
	// ErrLeaseLost means that another process leads now; nothing was written.
	ErrLeaseLost = errors.New("lease lost")
	// ErrKeyReused means that an idempotency key was used with another body. The text is
	// safe to show to callers.
	ErrKeyReused = errors.New("this Idempotency-Key was used with another body")
	// ErrInUse means that another process has the SQLite file open.
	ErrInUse = errors.New("in use by another process")
	// ErrAgentGone means that the agent of a new session does not exist or was deleted.
	// It is also an ErrNotFound.
	ErrAgentGone = fmt.Errorf("agent is gone: %w", ErrNotFound)
)

var errTooSlow = errors.New("no answer in time")

// translate turns the error of a driver into one of this package. ctx is the
// context the statement ran under: when that has ended, the error is the
// context's, or ErrUnavailable when the bound set by this package ended it.
func translate(ctx context.Context, err error) error {
	if err == nil || ours(err) {
		return err
	}
	if ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errTooSlow) {
			return fmt.Errorf("%w: %v", ErrUnavailable, errTooSlow)
		}
		return ctx.Err()
	}
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound), errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.Is(err, gorm.ErrDuplicatedKey), errors.Is(err, gorm.ErrForeignKeyViolated),
		errors.Is(err, gorm.ErrCheckConstraintViolated):
		return fmt.Errorf("%w: %v", ErrConflict, err)
	case unavailable(err):
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return err
}

func ours(err error) bool {
	for _, e := range []error{ErrNotFound, ErrConflict, ErrUnavailable, ErrLeaseLost} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func unavailable(err error) bool {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return unavailableState(pg.Code)
	}
	if lite := (*sqlite.Error)(nil); errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
			sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY:
			return true
		}
		return false
	}
	var netErr net.Error
	var connect *pgconn.ConnectError
	return errors.As(err, &netErr) || errors.As(err, &connect) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// unavailableState says which SQLSTATEs are a matter of the server's state and
// not of the statement: connection, resources, operator intervention, serialization and
// deadlock, lock and idle timeouts, a standby.
func unavailableState(code string) bool {
	for _, p := range []string{"08", "53", "57", "58", "40", "55P03", "25P03", "25006", "28"} {
		if strings.HasPrefix(code, p) {
			return true
		}
	}
	return false
}
