package bench_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// server is the real binary over one database.
type server struct {
	t        testing.TB
	kind     string
	binary   string
	dir      string
	dsn      string // what LoadAgents takes
	env      []string
	addr     string
	postgres *storetest.Server // nil on SQLite
	cmd      *exec.Cmd
	log      *os.File
}

func newServer(t testing.TB, binary, kind string) *server {
	s := &server{t: t, kind: kind, binary: binary, dir: t.TempDir()}
	s.dsn = filepath.Join(s.dir, "lap.db")
	if kind == storetest.KindPostgres {
		s.postgres = storetest.NewServer(t, "fsync=on", "full_page_writes=on", "shared_buffers=512MB", "max_wal_size=4GB")
		s.dsn = s.postgres.DSN()
	}
	s.addr = servertest.FreeAddr(t)
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop()
		_ = s.log.Close()
	})
	return s
}

// start starts the server and returns how long its first answer took.
func (s *server) start() time.Duration {
	s.t.Helper()
	s.cmd = exec.Command(s.binary, "serve", "--stop-sandboxes")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "DATA_DIR=" + s.dir, "LISTEN_ADDR=" + s.addr, "METRICS_ADDR=off",
		"MASTER_KEY=" + masterKey, "ENCRYPTION_KEY=bench-encryption-key-0123456789"}
	if s.postgres != nil {
		s.cmd.Env = append(s.cmd.Env, "DATABASE_URL="+s.dsn)
	}
	s.cmd.Env = append(s.cmd.Env, s.env...)
	begun := time.Now()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ready := request("GET", "/readyz", "")
	for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
		if w, err := dial(s.addr); err == nil {
			status, err := w.do(ready)
			_ = w.Close()
			if err == nil && status == 200 {
				tick.Stop()
				return time.Since(begun)
			}
		}
		if time.Since(begun) > time.Minute {
			log, _ := os.ReadFile(s.log.Name())
			s.t.Fatalf("the server did not start: %s", log)
		}
	}
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(unix.SIGTERM)
	_ = s.cmd.Wait() // an end by SIGTERM
	s.cmd = nil
}

// memory returns what is resident and its maximum since the last forget, in MB.
func (s *server) memory() (now, high int) {
	s.t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(s.cmd.Process.Pid) + "/status")
	if err != nil {
		s.t.Fatal(err)
	}
	field := func(name string) int {
		_, rest, _ := bytes.Cut(text, []byte(name+":"))
		kb, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
		if err != nil {
			s.t.Fatal(err)
		}
		return kb >> 10
	}
	return field("VmRSS"), field("VmHWM")
}

func (s *server) forget() {
	s.t.Helper()
	if err := os.WriteFile("/proc/"+strconv.Itoa(s.cmd.Process.Pid)+"/clear_refs", []byte("5"), 0); err != nil {
		s.t.Fatal(err)
	}
}

// cpu returns the processor time that the server and its database have used.
func (s *server) cpu() (server, database time.Duration) {
	server = ticks(strconv.Itoa(s.cmd.Process.Pid), 11, 12)
	if s.postgres == nil {
		return server, 0
	}
	parent := strconv.Itoa(s.postgres.PID())
	database = ticks(parent, 11, 12, 13, 14) // those of children that have ended, too
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		if fields := stat(path); len(fields) > 1 && fields[1] == parent {
			database += ticks(filepath.Base(filepath.Dir(path)), 11, 12)
		}
	}
	return server, database
}

// stat returns the fields of a process behind its name.
func stat(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}

// ticks adds up fields that count hundredths of a second.
func ticks(pid string, at ...int) (sum time.Duration) {
	fields := stat("/proc/" + pid + "/stat")
	for _, i := range at {
		if i < len(fields) {
			n, _ := strconv.Atoi(fields[i])
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}
