package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

// Options says which database to open and how.
type Options struct {
	// DatabaseURL is a Postgres connection string. Leadership and notifications
	// need session state, so it must not lead to a transaction pooler. Empty:
	// SQLite at Path.
	DatabaseURL string
	// Path is the SQLite file. It and its directory are created when missing.
	Path string
	// Keyring seals what must not be readable in the database. Required.
	Keyring *Keyring
	// Logger is where background work reports. Nil discards.
	Logger *slog.Logger
	// MaxConns bounds the Postgres pool; 0 means 16. Two further connections
	// serve notifications and leadership.
	MaxConns int
	// Timeout bounds one operation or one unit of work, waiting for a
	// connection included; 0 means 10 s. What takes longer ends with
	// ErrUnavailable.
	Timeout time.Duration
}

// Store is a handle on the database, or on one open transaction of it.
type Store struct {
	*shared
	write *gorm.DB // the transaction inside a unit of work
	read  *gorm.DB // equal to write on Postgres and inside a unit of work
	unit  *unit    // nil outside a unit of work
}

// shared is what all handles of one open database have in common.
type shared struct {
	engine  engine
	writer  *writer // of SQLite; nil on Postgres
	keyring *Keyring
	log     *slog.Logger
	timeout time.Duration
	hub     hub
	asked   currents
	leading chan struct{} // holds a token while a Lead of this process runs
}

// engine is what differs between Postgres and SQLite beyond SQL.
type engine interface {
	// apply runs statements that do not depend on each other, and tells other processes what the open transaction changes.
	apply(tx *gorm.DB, all []statement, c Change) error
	// locking is a clause that locks rows, empty where transactions exclude each other.
	locking(clause string) string
	// insertAgent inserts an agent with its version: both or neither.
	insertAgent(db *gorm.DB, a agentRow, v versionRow) error
	// lead returns a held lease, or blocks until it can.
	lead(ctx context.Context, s *Store) (*heldLease, error)
	close() error
}

// Open connects, migrates the schema and returns the store. Two processes may
// open the same Postgres database at once; a SQLite file belongs to one process
// and a second one is refused. A database that cannot be reached gives
// ErrUnavailable within Options.Timeout.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Keyring == nil {
		return nil, errors.New("open store: no keyring")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	s := &Store{shared: &shared{
		keyring: o.Keyring, log: o.Logger, timeout: o.Timeout, leading: make(chan struct{}, 1),
	}}
	open := openPostgres
	if o.DatabaseURL == "" {
		open = openSQLite
	}
	if err := open(ctx, s, o); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Close ends the background work, waits for it and closes the database.
// Operations and Lead calls must have ended.
func (s *Store) Close() error {
	return s.engine.close()
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.query(ctx, func(db *gorm.DB) error {
		return db.Exec("SELECT 1").Error
	})
}

// query runs fn, which only reads, bounded and with its error translated.
func (s *Store) query(ctx context.Context, fn func(db *gorm.DB) error) error {
	if o := s.onceOf(ctx); o != nil && o.tx != nil {
		s = o.tx
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return translate(ctx, fn(s.read.WithContext(ctx)))
}

// exec runs fn, one writing statement, bounded and with its error translated.
func (s *Store) exec(ctx context.Context, fn func(db *gorm.DB) error) error {
	if s.onceOf(ctx) != nil {
		return s.InTx(ctx, func(s *Store) error { return s.exec(ctx, fn) })
	}
	if s.unit != nil && s.unit.broken {
		return errBroken
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return translate(ctx, fn(s.write.WithContext(ctx)))
}

func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, errTooSlow)
}

func gormConfig() *gorm.Config {
	return &gorm.Config{
		SkipDefaultTransaction: true,
		QueryFields:            true,
		TranslateError:         true,
		NowFunc:                now,
		// Statements carry values, sealed and clear: nothing of them is logged.
		Logger:               logger.Discard,
		DisableAutomaticPing: true,
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
