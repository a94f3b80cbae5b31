package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/libtnb/sqlite"
	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	"gorm.io/gorm"
	driver "modernc.org/sqlite"
)

// sqliteReaders bounds the read pool; more only compete for the processor.
const sqliteReaders = 4

// sqliteEngine keeps two pools on one file: a single writer whose transactions
// take the write lock when they begin, and readers that see the last commit
// without waiting for it. The lock file keeps other processes out.
type sqliteEngine struct {
	lock        *os.File
	write, read *sql.DB
}

func openSQLite(ctx context.Context, s *Store, o Options) (err error) {
	if o.Path == "" {
		return errors.New("neither a database URL nor a path is set")
	}
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return err
	}
	e := &sqliteEngine{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.lock, err = lockDatabase(path); err != nil {
		return err
	}
	if s.write, e.write, err = openSQLitePool(path, 1, s, preparing{whole: true}, url.Values{"_txlock": {"immediate"}}); err != nil {
		return err
	}
	if err := migrate(ctx, e.write, goose.DialectSQLite3, "sqlite"); err != nil {
		return err
	}
	if s.read, e.read, err = openSQLitePool(path, sqliteReaders, s, preparing{}, url.Values{"_pragma": {"query_only(1)"}}); err != nil {
		return err
	}
	s.engine, s.writer = e, &writer{publish: s.hub.publish, within: batchTime}
	return nil
}

// lockDatabase creates the database file when missing, readable by its owner
// only, and locks it against other processes for as long as the returned file
// is open.
func lockDatabase(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("database %s is %w", path, ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return lock, nil
}

func openSQLitePool(path string, conns int, s *Store, p preparing, extra url.Values) (*gorm.DB, *sql.DB, error) {
	q := url.Values{"_pragma": {
		"busy_timeout(" + strconv.FormatInt(s.timeout.Milliseconds(), 10) + ")",
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}}
	for k, v := range extra {
		q[k] = append(q[k], v...)
	}
	dsn := url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: q.Encode()}
	var err error
	if p.Connector, err = driver.NewConnector(dsn.String()); err != nil {
		return nil, nil, err
	}
	pool := sql.OpenDB(p)
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	db, err := gorm.Open(quietSQLite{&sqlite.Dialector{Conn: pool}}, gormConfig())
	if err != nil {
		pool.Close()
		return nil, nil, translate(context.Background(), err)
	}
	return db, pool, nil
}

func (e *sqliteEngine) apply(tx *gorm.DB, all []statement, _ Change) error {
	for _, st := range all {
		if _, err := st.run(tx); err != nil {
			return err
		}
	}
	return nil
}

func (e *sqliteEngine) locking(string) string { return "" }

func (e *sqliteEngine) insertAgent(db *gorm.DB, a agentRow, v versionRow) error {
	return db.Transaction(func(tx *gorm.DB) error {
		if err := tx.Exec(insertAgent, a.values()...).Error; err != nil {
			return err
		}
		return tx.Exec(insertVersion, v.values()...).Error
	})
}

func (e *sqliteEngine) close() error {
	var errs []error
	for _, pool := range []*sql.DB{e.read, e.write} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}

// lead needs no lock of its own: the file is locked, and Lead admits one caller
// of this process at a time.
func (e *sqliteEngine) lead(ctx context.Context, s *Store) (*heldLease, error) {
	var epoch int64
	err := s.exec(ctx, func(db *gorm.DB) error { return db.Raw(nextEpoch).Scan(&epoch).Error })
	if err != nil {
		return nil, err
	}
	return &heldLease{lease: Lease{Epoch: epoch}}, nil
}
