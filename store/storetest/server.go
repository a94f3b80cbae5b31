package storetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// readyAfter bounds every wait for the server.
const readyAfter = 30 * time.Second

// Server is a private Postgres server, to be stopped, paused or killed by its
// test. It listens on a unix socket only and is gone at the end of the test.
type Server struct {
	t    testing.TB
	inst *instance
}

// NewServer starts an empty server. Settings such as fsync=on override those that make tests fast.
func NewServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	inst, err := newInstance()
	if err != nil {
		t.Fatal(err)
	}
	inst.settings = settings
	t.Cleanup(inst.remove)
	s := &Server{t: t, inst: inst}
	s.Start()
	return s
}

// DSN names the server's only database. It stays the same over restarts.
func (s *Server) DSN() string { return s.inst.dsn("postgres") }

// PID returns the process that is the parent of all others of a running server.
func (s *Server) PID() int { return s.inst.pid }

// Start starts a stopped or killed server and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.inst.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Stop ends the server in an orderly way, disconnecting everybody.
func (s *Server) Stop() { s.inst.stop(syscall.SIGINT) }

// Kill ends all its processes with SIGKILL.
func (s *Server) Kill() { s.inst.stop(syscall.SIGKILL) }

// Pause stops all its processes with SIGSTOP: connections stay open and nothing
// answers, nor is a new one accepted.
func (s *Server) Pause() { s.inst.signal(syscall.SIGSTOP) }

// Resume continues after Pause.
func (s *Server) Resume() { s.inst.signal(syscall.SIGCONT) }

// instance is one data directory and, while started, its postmaster. One
// goroutine holds the thread that started the postmaster: the kernel interrupts
// the postmaster when that thread, and so this process, ends.
type instance struct {
	dir      string
	bin      string
	settings []string
	lock     *os.File
	cred     *syscall.Credential
	pid      int           // 0 while stopped
	done     chan struct{} // closed when the postmaster has been waited for
}

func newInstance() (*instance, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	sweep()
	dir, err := os.MkdirTemp("/tmp", dirPrefix)
	if err != nil {
		return nil, err
	}
	i := &instance{dir: dir, bin: bin}
	if err := i.init(); err != nil {
		i.remove()
		return nil, err
	}
	return i, nil
}

func (i *instance) init() (err error) {
	if i.lock, err = lockDir(i.dir); err != nil {
		return err
	}
	if os.Getuid() == 0 { // postgres refuses to run as root
		if i.cred, err = unprivileged(); err != nil {
			return err
		}
		if err := os.Chown(i.dir, int(i.cred.Uid), int(i.cred.Gid)); err != nil {
			return err
		}
	}
	cmd := i.command("initdb", "-D", i.dir+"/data", "-U", "lap", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// command runs a program of Postgres as its user, in a directory that user can
// read and with nothing of this process's environment.
func (i *instance) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(i.bin, name), args...)
	cmd.Dir = i.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.cred, Setpgid: true}
	return cmd
}

func (i *instance) start() error {
	// After a kill the old processes may hold the shared memory for a moment.
	deadline := time.Now().Add(readyAfter)
	for {
		if err := i.launch(); err != nil {
			return err
		}
		if i.ready(deadline) {
			return nil
		}
		i.stop(syscall.SIGKILL)
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(i.dir + "/log")
			return fmt.Errorf("postgres did not start: %s", log)
		}
	}
}

func (i *instance) launch() error {
	log, err := os.OpenFile(i.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// Without fsync a commit survives the death of the server, not of the machine.
	args := []string{"-D", i.dir + "/data", "-k", i.dir, "-h", "", "-c", "fsync=off", "-c", "full_page_writes=off",
		"-c", "shared_buffers=64MB", "-c", "max_connections=400"}
	for _, s := range i.settings {
		args = append(args, "-c", s)
	}
	cmd := i.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
	started := make(chan error)
	i.done = make(chan struct{})
	go func(done chan struct{}) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}(i.done)
	if err := <-started; err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	i.pid = cmd.Process.Pid
	return nil
}

// ready polls until the server answers; false when it ended or deadline passed.
func (i *instance) ready(deadline time.Time) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		select {
		case <-i.done:
			return false
		case <-tick.C:
		}
		if i.exec(context.Background(), "SELECT 1") == nil {
			return true
		}
	}
	return false
}

// exec runs one statement on the maintenance database.
func (i *instance) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, readyAfter)
	defer cancel()
	conn, err := pgx.Connect(ctx, i.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func (i *instance) dsn(database string) string {
	return "postgres://lap@/" + database + "?host=" + strings.ReplaceAll(i.dir, "/", "%2F") + "&sslmode=disable"
}

// stop ends the postmaster with sig and waits for it and its children.
func (i *instance) stop(sig syscall.Signal) {
	if i.pid == 0 {
		return
	}
	i.signal(syscall.SIGCONT)
	if sig == syscall.SIGKILL {
		i.signal(sig)
	} else {
		syscall.Kill(i.pid, sig)
	}
	select {
	case <-i.done:
	case <-time.After(readyAfter):
		i.signal(syscall.SIGKILL)
		<-i.done
	}
	i.pid = 0
}

// signal reaches the postmaster and its children, which lead sessions of their
// own.
func (i *instance) signal(sig syscall.Signal) {
	if i.pid == 0 {
		return
	}
	select {
	case <-i.done:
		return // the pid may belong to somebody else by now
	default:
	}
	children := childrenOf(i.pid)
	syscall.Kill(i.pid, sig)
	for _, pid := range children {
		syscall.Kill(pid, sig)
	}
}

func (i *instance) remove() {
	i.stop(syscall.SIGINT)
	if i.lock != nil {
		i.lock.Close()
	}
	os.RemoveAll(i.dir)
}
