package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/store"
)

// template is the migrated database that fresh ones are copied from. Nobody
// stays connected to it: a copy would be refused.
const template = "lap_template"

// shared is the server of this test binary, started on first use.
var shared struct {
	mu   sync.Mutex // guards the rest, and lets one copy run at a time
	inst *instance
	err  error
}

// Postgres returns the connection string of a fresh, migrated database on the
// shared server, dropped at the end of the test.
func Postgres(t testing.TB) string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.inst == nil && shared.err == nil {
		shared.inst, shared.err = startShared(t)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	inst := shared.inst
	name := "t_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if err := inst.exec(context.Background(), "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("copy database: %v", err)
	}
	t.Cleanup(func() {
		if err := inst.exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop database: %v", err)
		}
	})
	return inst.dsn(name)
}

func startShared(t testing.TB) (*instance, error) {
	inst, err := newInstance()
	if err != nil {
		return nil, err
	}
	if err := prepareTemplate(t, inst); err != nil {
		inst.remove()
		return nil, err
	}
	return inst, nil
}

func prepareTemplate(t testing.TB, inst *instance) error {
	if err := inst.start(); err != nil {
		return err
	}
	ctx := context.Background()
	if err := inst.exec(ctx, "CREATE DATABASE "+template); err != nil {
		return fmt.Errorf("create template: %w", err)
	}
	s, err := store.Open(ctx, store.Options{DatabaseURL: inst.dsn(template), Keyring: Keyring(t)})
	if err != nil {
		return err
	}
	return s.Close()
}

func stopShared() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.inst != nil {
		shared.inst.remove()
		shared.inst = nil
	}
}
