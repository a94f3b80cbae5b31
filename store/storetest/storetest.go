// Package storetest gives tests a real store: a disposable Postgres server with
// a fresh database for each test, and SQLite files. It owns the server's
// processes and directory; both end with the test binary, even when that is
// killed. It must not be imported by anything but tests.
//
// A package that uses Postgres, Open or Each calls Main from its TestMain. All
// functions may be called from parallel tests; a Server belongs to one test.
package storetest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
)

// The kinds of database every behaviour is tested on.
const (
	KindPostgres = "postgres"
	KindSQLite   = "sqlite"
)

// Main runs the tests of a package, ends the shared server and exits. It is the
// body of TestMain.
func Main(m *testing.M) {
	os.Exit(Runner(m).Run())
}

// Runner is Main for a caller that has more to check before it exits, such as
// goleak.VerifyTestMain.
func Runner(m *testing.M) interface{ Run() int } { return runner{m} }

type runner struct{ m *testing.M }

func (r runner) Run() int {
	defer stopShared()
	return r.m.Run()
}

// Keyring returns the keyring of the stores made here.
func Keyring(t testing.TB) *store.Keyring {
	t.Helper()
	k, err := store.NewKeyring("storetest-key-0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Options returns the options for a fresh, empty database of this kind. It can
// be opened any number of times on Postgres and once at a time on SQLite.
func Options(t testing.TB, kind string) store.Options {
	t.Helper()
	o := store.Options{Keyring: Keyring(t), MaxConns: 8}
	if kind == KindPostgres {
		o.DatabaseURL = Postgres(t)
	} else {
		o.Path = filepath.Join(t.TempDir(), "lap.db")
	}
	return o
}

// Open returns a store on a fresh database of this kind, closed at the end of
// the test.
func Open(t testing.TB, kind string) *store.Store {
	t.Helper()
	return OpenWith(t, Options(t, kind))
}

// OpenWith opens a store and closes it at the end of the test.
func OpenWith(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}

// Each runs fn as one parallel subtest per kind, each on a fresh database.
func Each(t *testing.T, fn func(t *testing.T, s *store.Store)) {
	t.Helper()
	EachKind(t, func(t *testing.T, kind string) { fn(t, Open(t, kind)) })
}

// EachKind runs fn as one parallel subtest per kind.
func EachKind(t *testing.T, fn func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{KindSQLite, KindPostgres} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			fn(t, kind)
		})
	}
}
