package store

import (
	"context"
	"database/sql/driver"
)

// statementsKept bounds the statements that a connection keeps prepared. What the store does often is a few dozen texts.
const statementsKept = 128

// preparing makes every connection keep the statements it has prepared: SQLite's parser took a quarter of the time of a
// transaction.
type preparing struct {
	driver.Connector
	// whole keeps a statement that has begun from being interrupted, for with it SQLite undoes the whole transaction, which others
	// may have a part in.
	whole bool
}

func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &preparedConn{sqliteConn: c.(sqliteConn), whole: p.whole, free: map[string]preparedStmt{}}, nil
}

// sqliteConn is what the driver's connections are.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type preparedStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// preparedConn runs statements through prepared ones. Like all connections it is used by one goroutine at a time.
type preparedConn struct {
	sqliteConn
	whole bool
	free  map[string]preparedStmt // by text; one that runs is taken out, so that a second one with its text is another
}

// Unwrap lets the driver find its own connection.
func (c *preparedConn) Unwrap() driver.Conn { return c.sqliteConn }

func (c *preparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	ctx, s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	defer c.put(query, s)
	return s.ExecContext(ctx, args)
}

func (c *preparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	ctx, s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		c.put(query, s)
		return nil, err
	}
	return &preparedRows{Rows: rows, done: func() { c.put(query, s) }}, nil
}

// Close frees the statements first, which SQLite would otherwise keep the connection for.
func (c *preparedConn) Close() error {
	for _, s := range c.free {
		_ = s.Close()
	}
	c.free = nil
	return c.sqliteConn.Close()
}

// take returns a statement and the context it is to run in.
func (c *preparedConn) take(ctx context.Context, query string) (context.Context, preparedStmt, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if c.whole {
		ctx = context.WithoutCancel(ctx)
	}
	if s, ok := c.free[query]; ok {
		delete(c.free, query)
		return ctx, s, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, nil, err
	}
	return ctx, s.(preparedStmt), nil
}

// put keeps a statement that has run, in the place of any other when there are many.
func (c *preparedConn) put(query string, s preparedStmt) {
	if _, twice := c.free[query]; twice || c.free == nil {
		_ = s.Close()
		return
	}
	if len(c.free) >= statementsKept {
		for text, other := range c.free {
			_ = other.Close()
			delete(c.free, text)
			break
		}
	}
	c.free[query] = s
}

// preparedRows are the rows of a prepared statement, which is free again once they are closed.
type preparedRows struct {
	driver.Rows
	done func()
}

func (r *preparedRows) Close() error {
	err := r.Rows.Close()
	if r.done != nil {
		r.done()
		r.done = nil
	}
	return err
}
