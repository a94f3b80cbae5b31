package main_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

var (
	lap        string   // the binary under test
	buildFlags []string // -race if these tests run with it
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(builtRunner{storetest.Runner(m)})
}

type builtRunner struct{ next interface{ Run() int } }

func (b builtRunner) Run() int {
	dir, err := os.MkdirTemp("", "lap-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	lap = filepath.Join(dir, "lap")
	args := append([]string{"build", "-o", lap}, buildFlags...)
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return b.next.Run()
}

const masterKey = "e2e-master-key-0123456789"

// server is the real binary, with a gateway that survives it.
type server struct {
	t       *testing.T
	env     []string
	url     string
	dir     string
	gateway *demo.Gateway

	gatewayURL string
	api        *client.ClientWithResponses
	cmd        *exec.Cmd
	log        *os.File
}

func newServer(t *testing.T, kind string, env ...string) *server {
	var database []string
	if kind == storetest.KindPostgres {
		database = []string{"DATABASE_URL=" + storetest.Postgres(t)}
	}
	dir, err := os.MkdirTemp("", "lap-e2e-") // removed below, when the sandboxes in it have ended
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir, gateway: demo.New("sk-gateway-canary")}
	for _, kv := range env {
		if master, ok := strings.CutPrefix(kv, "LITELLM_MASTER_KEY="); ok {
			s.gateway = demo.NewManaged(master)
		}
	}
	gw := httptest.NewServer(s.gateway)
	s.gatewayURL = gw.URL
	s.url = "http://" + servertest.FreeAddr(t)
	s.env = append(database,
		"PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "DATA_DIR="+dir, "HARNESS_DIR="+servertest.HarnessDir(t),
		"LISTEN_ADDR="+strings.TrimPrefix(s.url, "http://"), "METRICS_ADDR=off", "MASTER_KEY="+masterKey,
		"ENCRYPTION_KEY=e2e-encryption-key-0123456789", "LITELLM_API_BASE="+gw.URL, "LITELLM_API_KEY=sk-gateway-canary", "LOG_LEVEL=debug",
		"CONTAINER_ENV_FROM_OPERATOR=operator-canary")
	s.env = append(s.env, env...)
	if s.log, err = os.Create(filepath.Join(dir, "server.log")); err != nil {
		t.Fatal(err)
	}
	s.api = apitest.Client(t, s.url, masterKey)
	t.Cleanup(func() {
		s.kill()
		rt, err := local.New(local.Options{DataDir: dir, HarnessDir: servertest.HarnessDir(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer rt.Close()
		if err := rt.StopAll(context.Background()); err != nil {
			t.Error(err)
		}
		gw.Close()
		if log, err := os.ReadFile(filepath.Join(dir, "server.log")); err != nil || strings.Contains(string(log), "DATA RACE") {
			t.Errorf("the server's log tells of a race: %v", err)
		}
		if t.Failed() {
			t.Logf("server's log:\n%s", tail(filepath.Join(dir, "server.log"), 60))
		}
		_ = s.log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.start()
	return s
}

// tail returns the last lines of a log, without those of the tests' own looking.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(b), "\n"), func(line string) bool {
		return strings.Contains(line, `"method":"GET"`) && strings.Contains(line, `"status":200`)
	})
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// start starts the server and waits until it is ready. It returns how long that took.
func (s *server) start() time.Duration {
	s.t.Helper()
	begun := time.Now()
	s.cmd = exec.Command(lap, "serve")
	s.cmd.Env, s.cmd.Stdout, s.cmd.Stderr = s.env, s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("server ready", time.Minute, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/readyz", nil)
		if err != nil {
			s.t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return time.Since(begun)
}

// kill ends the server at once, as a crash of the machine's kernel would not let it notice.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(unix.SIGKILL)
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) eventually(what string, limit time.Duration, ok func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			s.t.Fatalf("timed out waiting for %s", what)
		case <-tick.C:
		}
	}
}

func must[T any](t *testing.T, what string, v *T, res *http.Response, body []byte, err error) T {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if v == nil {
		t.Fatalf("%s: %s: %s", what, res.Status, body)
	}
	return *v
}

func (s *server) open(agent client.AgentCreate, sess client.SessionCreate) string {
	s.t.Helper()
	a, err := s.api.CreateAgentWithResponse(s.t.Context(), nil, agent)
	if err != nil {
		s.t.Fatal(err)
	}
	id := must(s.t, "create agent", a.JSON200, a.HTTPResponse, a.Body, err).ID
	o, err := s.api.CreateSessionWithResponse(s.t.Context(), id, nil, sess)
	if err != nil {
		s.t.Fatal(err)
	}
	return must(s.t, "open session", o.JSON200, o.HTTPResponse, o.Body, err).ID
}

func (s *server) session(id string) client.Session {
	s.t.Helper()
	r, err := s.api.GetSessionWithResponse(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return must(s.t, "get session", r.JSON200, r.HTTPResponse, r.Body, err)
}

func (s *server) await(id string, status client.SessionStatus) client.Session {
	s.t.Helper()
	s.eventually("session "+string(status), 5*time.Minute, func() bool {
		got := s.session(id)
		if got.Status != status && got.Status != client.SessionStatusCreating {
			reason, _ := got.FailureReason.Get()
			s.t.Fatalf("session is %s: %s", got.Status, reason)
		}
		return got.Status == status
	})
	return s.session(id)
}

// post sends a message and does not wait for its turn.
func (s *server) post(id, text string) string {
	s.t.Helper()
	prefer := "respond-async"
	r, err := s.api.SendMessageWithResponse(s.t.Context(), id, &client.SendMessageParams{Prefer: &prefer}, client.MessageCreate{Text: nullable.NewNullableWithValue(text)})
	if err != nil {
		s.t.Fatal(err)
	}
	return must(s.t, "send message", r.JSON202, r.HTTPResponse, r.Body, err).ID
}

func (s *server) say(id, text string) client.Message {
	s.t.Helper()
	r, err := s.api.SendMessageWithResponse(s.t.Context(), id, nil, client.MessageCreate{Text: nullable.NewNullableWithValue(text)})
	if err != nil {
		s.t.Fatal(err)
	}
	return must(s.t, "send message", r.JSON200, r.HTTPResponse, r.Body, err)
}

func (s *server) turn(session, id string) client.Turn {
	s.t.Helper()
	r, err := s.api.GetTurnWithResponse(s.t.Context(), session, id)
	if err != nil {
		s.t.Fatal(err)
	}
	return must(s.t, "get turn", r.JSON200, r.HTTPResponse, r.Body, err)
}

func (s *server) ended(session, id string) client.Turn {
	s.t.Helper()
	s.eventually("turn to end", 3*time.Minute, func() bool {
		st := s.turn(session, id).Status
		return st != "queued" && st != "handed"
	})
	return s.turn(session, id)
}

// kill ends the one process below dir whose command line contains a text.
func kill(t *testing.T, dir, text string) {
	t.Helper()
	var pids []int
	for _, p := range processesWith(t, dir) {
		path, cmdline, _ := strings.Cut(p, " ")
		if pid, err := strconv.Atoi(filepath.Base(path)); err == nil && strings.Contains(strings.ReplaceAll(cmdline, "\x00", " "), text) {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("%d processes are %q: %q", len(pids), text, processesWith(t, dir))
	}
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// processesWith lists processes whose command line or working directory names a directory.
func processesWith(t *testing.T, dir string) []string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range procs {
		cmdline, _ := os.ReadFile(p + "/cmdline")
		cwd, _ := os.Readlink(p + "/cwd")
		if strings.Contains(string(cmdline), dir) || strings.HasPrefix(cwd, dir) {
			found = append(found, p+" "+string(cmdline))
		}
	}
	return found
}
