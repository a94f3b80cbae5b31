package local_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// The test binary is also a sandboxd, much reduced, and a server that is killed.
const (
	asSandboxd = "fake-sandboxd"
	asServer   = "fake-server"
	canary     = "canary-4f1c" // in the server's environment
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case asSandboxd:
			os.Exit(fakeSandboxd(os.Args[2:]))
		case asServer:
			os.Exit(fakeServer(os.Args[2:]))
		}
	}
	if err := os.Setenv("LAP_TEST_SECRET", canary); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

type fakeConfig struct {
	SandboxID  sandbox.ID `json:"sandbox_id"`
	CallerKey  []byte     `json:"caller_key"`
	Socket     string     `json:"socket"`
	Root       string     `json:"root"`
	StateDir   string     `json:"state_dir"`
	HarnessID  string     `json:"harness_id"`
	HarnessBin string     `json:"harness_bin"`
	IdleExitS  int        `json:"idle_exit_s"`
}

// fakeSandboxd takes a mode, "-config" and a path. Modes: "good"; "broken" ends at once; "mute" never listens; "stubborn" ignores
// SIGTERM; "late" writes its identity only when there is a file "go" in its directory.
func fakeSandboxd(args []string) int {
	mode, path := args[0], args[2]
	if args[1] == "-route" { // HOST:PORT -socket NAME -pid PID
		return fakeRoute(args[4], args[6])
	}
	if mode == "broken" {
		fmt.Fprintln(os.Stderr, "no such luck")
		return 3
	}
	var c fakeConfig
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil {
		err = fakeServe(mode, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeRoute accepts connections for as long as a process runs, in the place of one before. When it does there is a file "routes" in its directory.
func fakeRoute(socket, pid string) int {
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err == nil {
		defer l.Close()
		err = replace("routes", "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for exists("/proc/" + pid) {
		time.Sleep(time.Millisecond)
	}
	return 0
}

func fakeServe(mode string, c fakeConfig) error {
	lock, err := os.OpenFile("lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if mode == "late" {
		for !exists("go") {
			time.Sleep(time.Millisecond)
		}
	}
	if err := writeIdentity(); err != nil {
		return err
	}
	fmt.Printf(`{"time":%q,"msg":"serves"}`+"\n", time.Now().Format(time.RFC3339Nano))
	if mode != "mute" {
		l, err := net.Listen("unix", c.Socket)
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, fakeAPI(c)) }()
	}
	for range term {
		if mode != "stubborn" {
			break
		}
	}
	fmt.Println("ends")
	return replace("exit.json", `{"code":0,"reason":"told to end"}`)
}

func fakeAPI(c fakeConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/health", func(w http.ResponseWriter, r *http.Request) {
		if err := sandbox.VerifyToken(c.CallerKey, r.Header.Get(sandbox.TokenHeader), c.SandboxID, time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"sandbox_id": c.SandboxID, "protocol": 1})
	})
	mux.HandleFunc("POST /spawn", func(w http.ResponseWriter, _ *http.Request) {
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(os.Environ())
	})
	return mux
}

func writeIdentity() error {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	return replace("pid.json", fmt.Sprintf(`{"pid":%d,"start_time":%s,"boot_id":%q}`,
		os.Getpid(), fields[19], strings.TrimSpace(string(boot))))
}

func replace(name, text string) error {
	return errors.Join(os.WriteFile(name+".new", []byte(text), 0o600), os.Rename(name+".new", name))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// processes lists the living processes that carry the id of a sandbox.
func processes(id sandbox.ID) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !strings.Contains("\x00"+string(env), "\x00LAP_SANDBOX_ID="+string(id)+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
