package storetest

import (
	"database/sql"
	"errors"
	"net/url"
	"testing"

	"github.com/libtnb/sqlite"

	"github.com/litellm-agent-platform/lap/store"
)

// Text returns the first column of the first row of a query as text, past the store that has the database open; empty if there is none.
func Text(t testing.TB, o store.Options, query string, args ...any) string {
	t.Helper()
	driver, dsn := "pgx", o.DatabaseURL
	if dsn == "" {
		u := url.URL{Scheme: "file", Path: o.Path, OmitHost: true, RawQuery: "mode=ro&_pragma=busy_timeout(10000)"}
		driver, dsn = sqlite.DriverName, u.String()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var text string
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&text); err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatalf("%s: %v", query, err)
	}
	return text
}
