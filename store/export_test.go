package store

import (
	"slices"
	"sync"
	"testing"

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

// Columns returns, for each table, the columns of its model and those it has in
// the database.
func Columns(t *testing.T, s *Store) (models, tables map[string][]string) {
	t.Helper()
	models, tables = map[string][]string{}, map[string][]string{}
	for _, model := range []any{&agentRow{}, &versionRow{}, &fileRow{}, &Session{}, &Turn{}, &eventRow{}} {
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
