package store_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestTablesHaveTheColumnsOfTheirModels(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		models, tables := store.Columns(t, s)
		if len(models) < 8 || !reflect.DeepEqual(models, tables) {
			t.Fatalf("models %v\ntables %v", models, tables)
		}
	})
}

func TestSecretsAreNotReadableInTheDatabase(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		const secret, plain = "canary-3f9b1c-secret", "canary-visible-name"
		o := storetest.Options(t, kind)
		s := storetest.OpenWith(t, o)
		a := store.Agent{AgentConfig: store.AgentConfig{Name: ptr(plain), EnvVars: map[string]string{"CANARY_KEY_NAME": secret}}}
		check(t, s.CreateAgent(t.Context(), &a))
		raw := rawDatabase(t, o)
		if !strings.Contains(raw, plain) {
			t.Fatal("the search sees nothing of the database")
		}
		for _, plain := range []string{secret, "CANARY_KEY_NAME", hex.EncodeToString([]byte(secret))} {
			if strings.Contains(raw, plain) {
				t.Errorf("%q is readable", plain)
			}
		}
		other := o
		if other.Keyring = keyring(t, newKey); kind == storetest.KindPostgres {
			if _, err := storetest.OpenWith(t, other).GetAgent(t.Context(), a.ID); err == nil || strings.Contains(err.Error(), secret) {
				t.Fatalf("without the key: %v", err)
			}
		}
	})
}

// rawDatabase returns everything the database holds, as text.
func rawDatabase(t *testing.T, o store.Options) string {
	t.Helper()
	var raw strings.Builder
	if o.DatabaseURL == "" {
		files, err := filepath.Glob(o.Path + "*")
		check(t, err)
		for _, path := range files {
			text, err := os.ReadFile(path)
			check(t, err)
			raw.Write(text)
		}
		return raw.String()
	}
	conn, err := pgx.Connect(t.Context(), o.DatabaseURL)
	check(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `SELECT query_to_xml(format('SELECT * FROM %I', tablename), true, false, '')::text
		FROM pg_tables WHERE schemaname = 'public'`)
	check(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(t, err)
	return strings.Join(tables, "\n")
}
