package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const (
	oldEncryption = "old-encryption-key-0123456789"
	newEncryption = "new-encryption-key-0123456789"
)

// rekeying is a database with one secret under the old key.
type rekeying struct {
	t     *testing.T
	o     store.Options
	env   []string
	agent string
}

func newRekeying(t *testing.T, kind string) *rekeying {
	t.Helper()
	dir := t.TempDir()
	r := &rekeying{t: t, o: store.Options{Path: filepath.Join(dir, "lap.db")}, env: []string{"DATA_DIR=" + dir}}
	if kind == storetest.KindPostgres {
		url := storetest.Postgres(t)
		r.o = store.Options{DatabaseURL: url}
		r.env = append(r.env, "DATABASE_URL="+url, "MASTER_KEY="+masterKey)
	}
	s := r.open(oldEncryption)
	defer r.close(s)
	a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{Model: "m", EnvVars: map[string]string{"K": "secret-4711"}}}
	if err := s.CreateAgent(t.Context(), &a); err != nil {
		t.Fatal(err)
	}
	r.agent = a.ID
	return r
}

func (r *rekeying) open(keys string) *store.Store {
	r.t.Helper()
	var err error
	if r.o.Keyring, err = store.NewKeyring(keys); err != nil {
		r.t.Fatal(err)
	}
	s, err := store.Open(r.t.Context(), r.o)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rekeying) close(s *store.Store) {
	r.t.Helper()
	if err := s.Close(); err != nil {
		r.t.Error(err)
	}
}

// run runs lap rekey and returns what it printed.
func (r *rekeying) run(keys string) (out string, ok bool) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), lap, "rekey")
	cmd.Env = append([]string{"ENCRYPTION_KEY=" + keys}, r.env...)
	b, err := cmd.CombinedOutput()
	for _, secret := range []string{"4711", oldEncryption, newEncryption} {
		if strings.Contains(string(b), secret) {
			r.t.Errorf("a secret is printed: %s", b)
		}
	}
	return string(b), err == nil
}

func TestRekeyMakesTheOldKeyUnnecessary(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		r := newRekeying(t, kind)
		s := r.open(newEncryption + "," + oldEncryption)
		old := r.o.Keyring.IDs()[1]
		out, ok := r.run(newEncryption + "," + oldEncryption)
		if kind == storetest.KindSQLite {
			if ok || !strings.Contains(out, "in use by another process; stop the server first") {
				t.Errorf("beside a server: %s", out)
			}
			r.close(s)
			out, ok = r.run(newEncryption + "," + oldEncryption)
		} else {
			defer r.close(s)
		}
		if !ok || !strings.Contains(out, "1 agent versions and checkpoints were sealed again") || !strings.Contains(out, "first key: "+old+" (key 2 of ENCRYPTION_KEY).") {
			t.Fatalf("rekey: %s", out)
		}
		only := r.open(newEncryption)
		defer r.close(only)
		a, err := only.GetAgent(t.Context(), r.agent)
		if err != nil || a.EnvVars["K"] != "secret-4711" {
			t.Errorf("with the new key only: %v", err)
		}
		if kind == storetest.KindSQLite {
			if files, err := filepath.Glob(filepath.Join(filepath.Dir(r.o.Path), "*.key")); err != nil || len(files) > 0 {
				t.Errorf("keys were generated: %v %v", files, err)
			}
		}
	})
}

func TestRekeySaysWhatStillNeedsAnOldKey(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		r := newRekeying(t, kind)
		s := r.open(oldEncryption)
		id := r.o.Keyring.IDs()[0]
		sess := store.Session{AgentID: r.agent, KeyID: id, SandboxID: "box"}
		digest := r.o.Keyring.Digest("message", []byte("x"))
		err := s.CreateSession(t.Context(), &sess, func(tx *store.SessionTx) error { return tx.AddTurn(&store.Turn{BodyDigest: digest}) })
		if err != nil {
			t.Fatal(err)
		}
		r.close(s)
		out, ok := r.run(newEncryption + "," + oldEncryption)
		for _, want := range []string{id + " (key 2 of ENCRYPTION_KEY) is still needed for 1 sandboxes (", "), 1 requests with an Idempotency-Key", "No key may be removed"} {
			if !ok || !strings.Contains(out, want) {
				t.Errorf("no %q in: %s", want, out)
			}
		}
	})
}

func TestRekeyRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		r := newRekeying(t, kind)
		if out, ok := r.run(newEncryption); ok || !strings.Contains(out, "1 versions of agents are sealed with key ") {
			t.Errorf("without the old key: %s", out)
		}
		s := r.open(oldEncryption)
		defer r.close(s)
		if a, err := s.GetAgent(t.Context(), r.agent); err != nil || a.EnvVars["K"] != "secret-4711" {
			t.Errorf("changed: %v", err)
		}
	})
	r := &rekeying{t: t, env: []string{"DATA_DIR=" + filepath.Join(t.TempDir(), "none")}}
	if out, ok := r.run(newEncryption); ok || !strings.Contains(out, "there is no database at ") {
		t.Errorf("without a database: %s", out)
	}
	if _, err := os.Stat(strings.TrimPrefix(r.env[0], "DATA_DIR=")); err == nil {
		t.Error("made a directory")
	}
}
