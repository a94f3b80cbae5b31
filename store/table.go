package store

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
)

// table reads and writes rows as the gorm tags of T say, on gorm's connections. It is for what every message needs: gorm builds its
// statements anew each time, which took longer than they did.
type table[T any] struct {
	name     string
	fields   []*schema.Field
	columns  string // all, each with the table's name before it
	selected string // begins a query of all columns
	inserted string // begins an insertion
	places   string // of the values of a row
}

func newTable[T any](name string, without ...string) table[T] {
	parsed, err := schema.Parse(new(T), &sync.Map{}, schema.NamingStrategy{})
	if err != nil {
		panic(err) // the struct's tags are wrong
	}
	t := table[T]{name: name}
	var names []string
	for _, f := range parsed.Fields {
		if !slices.Contains(without, f.DBName) { // zero in what is read
			t.fields, names = append(t.fields, f), append(names, f.DBName)
		}
	}
	t.columns = name + "." + strings.Join(names, ", "+name+".")
	t.selected = "SELECT " + t.columns + " FROM " + name + " "
	t.inserted = "INSERT INTO " + name + " (" + strings.Join(names, ", ") + ") VALUES "
	t.places = "(" + strings.Repeat("?, ", len(names)-1) + "?)"
	return t
}

// each reads the rows of a query until fn says no. Its columns are those of t followed by as many as also takes.
func (t table[T]) each(db *gorm.DB, query string, args []any, fn func(T) bool, also ...any) error {
	found, err := db.Statement.ConnPool.QueryContext(db.Statement.Context, numbered(db, query), args...)
	if err != nil {
		return inGorm(db, err)
	}
	defer func() { _ = found.Close() }()
	for found.Next() {
		var row T
		if err := found.Scan(append(t.targets(&row), also...)...); err != nil {
			return err
		}
		if !fn(row) {
			return nil
		}
	}
	return inGorm(db, found.Err())
}

// run runs a statement and returns how many rows it has changed.
func (st statement) run(db *gorm.DB) (int64, error) {
	res, err := db.Statement.ConnPool.ExecContext(db.Statement.Context, numbered(db, st.sql), st.args...)
	if err != nil {
		return 0, inGorm(db, err)
	}
	return res.RowsAffected()
}

// numberedTexts are statements with the parameters of Postgres, by what they were made of: short ones, of which there are not many.
var numberedTexts sync.Map

const shortText = 4096

// numbered writes the parameters of a statement, in which nothing else is a question mark, as its database wants them.
func numbered(db *gorm.DB, query string) string {
	if db.Name() != "postgres" {
		return query
	}
	if text, ok := numberedTexts.Load(query); ok {
		return text.(string)
	}
	var b strings.Builder
	for i, part := range strings.Split(query, "?") {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	if len(query) <= shortText {
		numberedTexts.Store(query, b.String())
	}
	return b.String()
}

// inGorm is an error as gorm would say it.
func inGorm(db *gorm.DB, err error) error {
	if t, ok := db.Dialector.(gorm.ErrorTranslator); ok && err != nil {
		return t.Translate(err)
	}
	return err
}

// list returns the rows of a query.
func (t table[T]) list(db *gorm.DB, query string, args []any) ([]T, error) {
	all := []T{}
	err := t.each(db, query, args, func(row T) bool { all = append(all, row); return true })
	return all, err
}

// take returns the row of a query; ErrNotFound if there is none.
func (t table[T]) take(db *gorm.DB, query string, args []any, also ...any) (row T, err error) {
	found := false
	err = t.each(db, query, args, func(one T) bool { row, found = one, true; return false }, also...)
	if err == nil && !found {
		err = ErrNotFound
	}
	return row, err
}

// insertion adds rows; conflict is what follows it.
func (t table[T]) insertion(all []T, conflict string) (statement, error) {
	args := make([]any, 0, len(all)*len(t.fields))
	for i := range all {
		for _, f := range t.fields {
			var err error
			if args, err = appendValue(args, f, reflect.ValueOf(&all[i]).Elem()); err != nil {
				return statement{}, err
			}
		}
	}
	return statement{t.inserted + strings.Repeat(t.places+", ", len(all)-1) + t.places + conflict, args}, nil
}

// change writes some columns of a row to those that where selects.
func (t table[T]) change(row *T, columns []string, where string, of ...any) (statement, error) {
	var set []string
	var args []any
	for _, f := range t.fields {
		if !slices.Contains(columns, f.DBName) {
			continue
		}
		set = append(set, f.DBName+" = ?")
		var err error
		if args, err = appendValue(args, f, reflect.ValueOf(row).Elem()); err != nil {
			return statement{}, err
		}
	}
	return statement{"UPDATE " + t.name + " SET " + strings.Join(set, ", ") + " WHERE " + where, append(args, of...)}, nil
}

func (t table[T]) targets(row *T) []any {
	v := reflect.ValueOf(row).Elem()
	out := make([]any, len(t.fields))
	for i, f := range t.fields {
		if f.Serializer != nil {
			out[i] = serialized{f, v}
		} else {
			out[i] = f.ReflectValueOf(context.Background(), v).Addr().Interface()
		}
	}
	return out
}

func appendValue(args []any, f *schema.Field, row reflect.Value) ([]any, error) {
	value := f.ReflectValueOf(context.Background(), row).Interface()
	if f.Serializer != nil {
		var err error
		if value, err = f.Serializer.Value(context.Background(), f, row, value); err != nil {
			return nil, fmt.Errorf("column %s: %w", f.DBName, err)
		}
	}
	return append(args, value), nil
}

// serialized is a field of a row that has a serializer.
type serialized struct {
	field *schema.Field
	row   reflect.Value
}

var _ sql.Scanner = serialized{}

// Scan sets the field to what its column holds.
func (s serialized) Scan(value any) error {
	return s.field.Serializer.Scan(context.Background(), s.field, s.row, value)
}
