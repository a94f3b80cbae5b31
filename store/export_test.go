package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
)

// CountRows counts the rows of a table.
func CountRows(t *testing.T, s *Store, table string) (n int64) {
	t.Helper()
	if err := s.query(t.Context(), func(db *gorm.DB) error { return db.Table(table).Count(&n).Error }); err != nil {
		t.Fatal(err)
	}
	return n
}

// Exec runs one statement on the writing side.
func Exec(t *testing.T, s *Store, sql string, args ...any) error {
	t.Helper()
	return s.exec(t.Context(), func(db *gorm.DB) error { return db.Exec(sql, args...).Error })
}

// ExecRead runs one statement on the reading side.
func ExecRead(t *testing.T, s *Store, sql string) error {
	t.Helper()
	return s.query(t.Context(), func(db *gorm.DB) error { return db.Exec(sql).Error })
}

// ExplainAgents returns how the database would find a page of agents.
func ExplainAgents(t *testing.T, s *Store, q AgentQuery, p PageRequest) string {
	t.Helper()
	explain := "EXPLAIN "
	if s.write.Name() == "sqlite" {
		explain = "EXPLAIN QUERY PLAN "
	}
	page := q.page(p)
	var lines []string
	err := s.query(t.Context(), func(db *gorm.DB) error {
		rows, err := db.Raw(explain+page.sql, page.args...).Rows()
		if err != nil {
			return err
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		for rows.Next() {
			if err := rows.Scan(values...); err != nil {
				return err
			}
			lines = append(lines, fmt.Sprint(*values[len(values)-1].(*any)))
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// Disrupt ends an open transaction behind the back of its unit of work, as SQLite does by itself when the disk is full, and begins
// another.
func Disrupt(ctx context.Context, s *Store) error {
	for _, statement := range []string{"ROLLBACK", "BEGIN"} {
		if err := s.exec(ctx, func(db *gorm.DB) error { return db.Exec(statement).Error }); err != nil {
			return err
		}
	}
	return errors.New("disrupted")
}

// Waiting reports whether a writer waits for another one.
func Waiting(t *testing.T, s *Store) bool {
	t.Helper()
	if s.writer != nil {
		return UnitsWaiting(s) > 0
	}
	var n int64
	err := s.query(t.Context(), func(db *gorm.DB) error {
		return db.Raw("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n).Error
	})
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// UnitsWaiting counts the units of work that wait for SQLite's one writing transaction.
func UnitsWaiting(s *Store) int {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	return len(s.writer.waiting)
}

// Patient lets units of work join a transaction of any age; no unit may run.
func Patient(s *Store) { s.writer.within = time.Hour }

// Columns returns, for each table, the columns of its model and those it has in
// the database.
func Columns(t *testing.T, s *Store) (models, tables map[string][]string) {
	t.Helper()
	models, tables = map[string][]string{}, map[string][]string{}
	for _, model := range []any{&agentRow{}, &versionRow{}, &skillRow{}, &skillVersionRow{}, &fileRow{}, &Session{}, &Turn{}, &eventRow{}, &Checkpoint{}} {
		parsed, err := schema.Parse(model, &sync.Map{}, schema.NamingStrategy{})
		if err != nil {
			t.Fatal(err)
		}
		models[parsed.Table] = slices.Sorted(slices.Values(parsed.DBNames))
		types, err := s.write.Migrator().ColumnTypes(model)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range types {
			names = append(names, c.Name())
		}
		slices.Sort(names)
		tables[parsed.Table] = names
	}
	return models, tables
}
