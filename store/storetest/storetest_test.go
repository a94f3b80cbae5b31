package storetest_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(storetest.Runner(m))
}

func TestEachTestGetsItsOwnEmptyDatabase(t *testing.T) {
	t.Parallel()
	for range 2 {
		conn, err := pgx.Connect(t.Context(), storetest.Postgres(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		tag, err := conn.Exec(t.Context(), "UPDATE leadership SET epoch = 5 WHERE epoch = 0")
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatal(tag, err)
		}
	}
}

func TestServerKeepsItsDataOverAKill(t *testing.T) {
	t.Parallel()
	s := storetest.NewServer(t)
	query(t, s.DSN(), "CREATE TABLE kept (x int)")
	s.Kill()
	s.Start()
	query(t, s.DSN(), "SELECT * FROM kept")
}

func query(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// asVictim is set in a copy of the test binary that starts a server and is
// killed.
const asVictim = "LAP_STORETEST_VICTIM"

func TestServerEndsWithAKilledTestBinary(t *testing.T) {
	t.Parallel()
	if os.Getenv(asVictim) != "" {
		fmt.Printf("dsn %s\n", storetest.NewServer(t).DSN())
		os.Stdin.Read(make([]byte, 1)) // until killed, or the parent has ended
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), asVictim+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dsn := ""
	for lines := bufio.NewScanner(out); dsn == "" && lines.Scan(); {
		dsn, _ = strings.CutPrefix(lines.Text(), "dsn ")
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	dir := config.Host
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(dir + "/data/postmaster.pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.SplitN(string(text), "\n", 2)[0])
	if err != nil {
		t.Fatal(err)
	}
	if !running(pid) {
		t.Fatal("the server does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for deadline := time.Now().Add(30 * time.Second); running(pid); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("postgres %d outlives its test", pid)
		}
	}
}

// running: pid exists and is not a zombie nobody has waited for.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
