package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// postgresEngine is a pool, a connection that listens for other processes and,
// while leading, one that holds the leader lock.
type postgresEngine struct {
	config   *pgx.ConnConfig
	pool     *sql.DB
	listener *listener
	instance string // tells this process's notifications from others'
}

func openPostgres(ctx context.Context, s *Store, o Options) (err error) {
	config, err := postgresConfig(o)
	if err != nil {
		return err
	}
	e := &postgresEngine{config: config, instance: uuid.NewString(), pool: stdlib.OpenDB(*config, stdlib.OptionAfterConnect(prepare))}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	e.pool.SetMaxOpenConns(o.MaxConns)
	e.pool.SetMaxIdleConns(o.MaxConns)
	e.pool.SetConnMaxIdleTime(5 * time.Minute)
	e.pool.SetConnMaxLifetime(time.Hour)
	bound, cancel := s.bounded(ctx)
	defer cancel()
	if err := e.pool.PingContext(bound); err != nil {
		return fmt.Errorf("connect: %w", translate(bound, err))
	}
	if err := migrate(ctx, e.pool, goose.DialectPostgres, "postgres"); err != nil {
		return err
	}
	s.write, err = gorm.Open(quietPostgres{&postgres.Dialector{Config: &postgres.Config{Conn: e.pool}}}, gormConfig())
	if err != nil {
		return translate(ctx, err)
	}
	s.read = s.write
	e.listener, err = listen(ctx, config, e.instance, &s.hub, s.log)
	if err != nil {
		return err
	}
	s.engine = e
	return nil
}

func postgresConfig(o Options) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(o.DatabaseURL)
	if err != nil {
		return nil, errors.New("the database URL is not a valid Postgres connection string") // err may quote it
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > o.Timeout {
		config.ConnectTimeout = o.Timeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "lap"
	}
	return config, nil
}

// clientLost makes the server give up a client that stopped in the middle of a
// transaction or whose machine is gone, with all its locks. These are not
// startup parameters because poolers in session mode refuse those.
const clientLost = `SET idle_in_transaction_session_timeout = '30s'; SET tcp_keepalives_idle = 10;
	SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`

func prepare(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, clientLost)
	return err
}

// dial opens a connection outside the pool.
func dial(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := prepare(ctx, conn); err != nil {
		discard(conn)
		return nil, err
	}
	return conn, nil
}

// extentMarks end the notification of a change of this extent.
var extentMarks = [...]string{Anything: "", OnlyTurns: "*", OnlyEnds: "-", OnlyProgress: "+"}

// apply sends one statement, for each takes its way to the server and back.
func (e *postgresEngine) apply(tx *gorm.DB, all []statement, c Change) error {
	var one statement
	for i, st := range all {
		before := ", "
		if i == 0 {
			before = "WITH "
		}
		one.add(before+"w"+strconv.Itoa(i)+" AS ("+st.sql+")", st.args...)
	}
	one.add(" SELECT pg_notify(?, ?)", channel, e.instance+":"+c.SessionID+extentMarks[c.Extent])
	_, err := one.run(tx)
	return err
}

func (e *postgresEngine) locking(clause string) string { return clause }

// insertAgent sends one statement, so that it needs no transaction of its own.
func (e *postgresEngine) insertAgent(db *gorm.DB, a agentRow, v versionRow) error {
	return db.Exec("WITH agent AS ("+insertAgent+") "+insertVersion, append(a.values(), v.values()...)...).Error
}

func (e *postgresEngine) close() error {
	if e.listener != nil {
		e.listener.stop()
	}
	return e.pool.Close()
}
