package store

import (
	"github.com/libtnb/sqlite"
	"gorm.io/driver/postgres"
)

// quietPostgres keeps gorm from writing out each statement with its values for a log that nobody reads: reading rows with Scan
// does so whatever the logger, and values may be large and secret.
type quietPostgres struct{ *postgres.Dialector }

// Explain returns nothing.
func (quietPostgres) Explain(string, ...any) string { return "" }

// quietSQLite is quietPostgres for SQLite.
type quietSQLite struct{ *sqlite.Dialector }

// Explain returns nothing.
func (quietSQLite) Explain(string, ...any) string { return "" }
