package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	driver "modernc.org/sqlite"
)

func preparingPool(t *testing.T, whole bool) *sql.DB {
	t.Helper()
	c, err := driver.NewConnector("file:" + filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	pool := sql.OpenDB(preparing{Connector: c, whole: whole})
	pool.SetMaxOpenConns(1)
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := pool.ExecContext(t.Context(), "CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two')"); err != nil {
		t.Fatal(err)
	}
	return pool
}

// kept is how many statements the pool's one connection keeps.
func kept(t *testing.T, pool *sql.DB) (n int) {
	t.Helper()
	c, err := pool.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Raw(func(raw any) error { n = len(raw.(*preparedConn).free); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAStatementThatRunsIsNotUsedASecondTime(t *testing.T) {
	t.Parallel()
	pool := preparingPool(t, false)
	tx, err := pool.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	const query = "SELECT a FROM t WHERE a >= ? ORDER BY a"
	var got []int
	outer, err := tx.QueryContext(t.Context(), query, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	for outer.Next() {
		var a, b int
		if err := errors.Join(outer.Scan(&a), tx.QueryRowContext(t.Context(), query, 2).Scan(&b)); err != nil {
			t.Fatal(err)
		}
		got = append(got, a, b)
	}
	if err := outer.Err(); err != nil || fmt.Sprint(got) != "[1 2 2 2]" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestStatementsAreKeptAndBounded(t *testing.T) {
	t.Parallel()
	pool := preparingPool(t, false)
	before := kept(t, pool)
	for range 10 {
		var b string
		if err := pool.QueryRowContext(t.Context(), "SELECT b FROM t WHERE a = ?", 2).Scan(&b); err != nil || b != "two" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if n := kept(t, pool); n != before+1 {
		t.Errorf("%d statements after the same one, %d before", n, before)
	}
	for i := range 3 * statementsKept {
		var n int
		if err := pool.QueryRowContext(t.Context(), fmt.Sprintf("SELECT %d", i)).Scan(&n); err != nil || n != i {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if n := kept(t, pool); n != statementsKept {
		t.Errorf("%d statements are kept", n)
	}
}

func TestAKeptStatementSeesANewSchemaAndSurvivesAnError(t *testing.T) {
	t.Parallel()
	pool := preparingPool(t, false)
	insert := func(a any) error {
		_, err := pool.ExecContext(t.Context(), "INSERT INTO t (a) VALUES (?)", a)
		return err
	}
	if err := insert(3); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.ExecContext(t.Context(), "CREATE UNIQUE INDEX u ON t (a)"); err != nil {
		t.Fatal(err)
	}
	if err := insert(3); err == nil {
		t.Error("the index is not heeded")
	}
	if err := insert(4); err != nil {
		t.Error(err)
	}
}

func TestAWritingStatementIsNotCutInTheMiddle(t *testing.T) {
	t.Parallel()
	const slow = `INSERT INTO t SELECT value, 'x' FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 500000)
		SELECT value FROM n WHERE value % 100000 = 0)`
	for _, whole := range []bool{true, false} {
		pool := preparingPool(t, whole)
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := pool.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(5*time.Millisecond, cancel)
		_, err = tx.ExecContext(ctx, slow)
		if whole != (err == nil) {
			t.Errorf("whole %v: %v", whole, err)
		}
		<-ctx.Done()
		if _, err := tx.ExecContext(ctx, "DELETE FROM t"); !errors.Is(err, context.Canceled) {
			t.Errorf("a statement that has not begun: %v", err)
		}
		if err := tx.Commit(); whole != (err == nil) {
			t.Errorf("whole %v: commit: %v", whole, err)
		}
	}
}
