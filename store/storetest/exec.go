package storetest

import (
	"database/sql"
	"net/url"
	"testing"

	"github.com/libtnb/sqlite"

	"github.com/litellm-agent-platform/lap/store"
)

// Exec runs one statement past the store that has the database open, for what no store does: making rows old or damaged.
func Exec(t testing.TB, o store.Options, statement string, args ...any) {
	t.Helper()
	driver, dsn := "pgx", o.DatabaseURL
	if dsn == "" {
		u := url.URL{Scheme: "file", Path: o.Path, OmitHost: true, RawQuery: "_pragma=busy_timeout(10000)"}
		driver, dsn = sqlite.DriverName, u.String()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
