package storetest

import (
	"database/sql"
	"net/url"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/libtnb/sqlite"

	"github.com/litellm-agent-platform/lap/store"
)

// Rows counts the rows of a table, past the store that has the database open.
func Rows(t testing.TB, o store.Options, table string) int {
	t.Helper()
	driver, dsn := "pgx", o.DatabaseURL
	if dsn == "" {
		u := url.URL{Scheme: "file", Path: o.Path, OmitHost: true, RawQuery: "mode=ro"}
		driver, dsn = sqlite.DriverName, u.String()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		t.Fatalf("count %s: %v", table, err)
	}
	return n
}
