package store_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestSecondUserOfASQLiteFileIsRefused(t *testing.T) {
	t.Parallel()
	o := storetest.Options(t, storetest.KindSQLite)
	s, err := store.Open(t.Context(), o)
	check(t, err)
	if _, err := store.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("second open: %v", err)
	}
	check(t, s.Close())
	check(t, storetest.OpenWith(t, o).Ping(t.Context()))
}

// asOtherProcess is set in a copy of the test binary that holds a database open
// until it is killed.
const asOtherProcess = "LAP_STORETEST_HOLD"

func TestOtherProcessHoldsASQLiteFileUntilItIsKilled(t *testing.T) {
	t.Parallel()
	if path := os.Getenv(asOtherProcess); path != "" {
		holdDatabase(t, path)
	}
	o := storetest.Options(t, storetest.KindSQLite)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), asOtherProcess+"="+o.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { in.Close() })
	ready := make(chan string, 1)
	go func() {
		buf := make([]byte, 64)
		n, _ := out.Read(buf)
		ready <- string(buf[:n])
	}()
	id := receive(t, ready)
	_, refused := store.Open(t.Context(), o)
	check(t, cmd.Process.Kill())
	cmd.Wait()
	if refused == nil || !strings.Contains(refused.Error(), "in use by another process") {
		t.Fatalf("opened beside another process: %v", refused)
	}
	if _, err := storetest.OpenWith(t, o).GetAgent(t.Context(), id); err != nil {
		t.Fatalf("what was committed before the kill: %v", err)
	}
}

func holdDatabase(t *testing.T, path string) {
	s, err := store.Open(t.Context(), store.Options{Path: path, Keyring: storetest.Keyring(t)})
	if err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(newAgent(t, s).ID)
	os.Stdin.Read(make([]byte, 1)) // until the parent kills this process or ends
	os.Exit(0)
}

func TestSQLiteFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	o := store.Options{Path: filepath.Join(t.TempDir(), "new dir?#%41", "la p?mode=memory&x#.db"), Keyring: storetest.Keyring(t)}
	s := storetest.OpenWith(t, o)
	newAgent(t, s)
	files, err := os.ReadDir(filepath.Dir(o.Path))
	check(t, err)
	if len(files) != 4 { // the database, its write-ahead log and index, and the lock
		t.Fatalf("files: %v", files)
	}
	for _, f := range files {
		info, err := f.Info()
		check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", f.Name(), info.Mode().Perm())
		}
	}
}

func TestSQLiteReadersCannotWrite(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.KindSQLite)
	if err := store.ExecRead(t, s, "DELETE FROM agents"); err == nil {
		t.Fatal("a reader wrote")
	}
}

func TestOpenRefusesIncompleteOptions(t *testing.T) {
	t.Parallel()
	if _, err := store.Open(t.Context(), store.Options{Path: "x"}); err == nil {
		t.Fatal("opened without a keyring")
	}
	if _, err := store.Open(t.Context(), store.Options{Keyring: storetest.Keyring(t)}); err == nil {
		t.Fatal("opened without a database")
	}
	_, err := store.Open(t.Context(), store.Options{Keyring: storetest.Keyring(t), DatabaseURL: "postgres://u:hunter2@h:not-a-port/d"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("bad URL: %v", err)
	}
	_, err = store.Open(t.Context(), store.Options{Keyring: storetest.Keyring(t), DatabaseURL: "postgres://u:hunter2@127.0.0.1:1/d"})
	if !errors.Is(err, store.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("nobody listens: %v", err)
	}
}
