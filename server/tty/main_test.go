package tty_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/sandbox/local"
	"github.com/litellm-agent-platform/lap/sandbox/terminal"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

const (
	masterKey = "test-master-key-0123456789"
	patience  = 2 * time.Minute
)

// The test binary is also the sandboxd that the local runtime starts.
func asSandboxd() bool { return len(os.Args) > 1 && os.Args[1] == "sandboxd" }

func init() {
	if asSandboxd() {
		runtime.LockOSThread() // see agent.Main
	}
}

func TestMain(m *testing.M) {
	if asSandboxd() {
		os.Exit(agent.Main(os.Args[2:], map[string]harness.Harness{"codex": shell{}}))
	}
	goleak.VerifyTestMain(storetest.Runner(m))
}

// shell is a harness with a terminal in which a shell runs. The agent's prompt may be a script instead.
type shell struct{}

func (shell) Start(ctx context.Context, c harness.Config) (harness.Running, error) {
	args := []string{"-i"}
	if c.Prompt != "" {
		args = []string{"-c", c.Prompt}
	}
	t, err := terminal.Start(terminal.Config{Path: "/bin/sh", Args: args, Dir: c.Dir, Env: append(c.Env, "PS1=> ", "HISTFILE=")})
	if err != nil {
		return nil, err
	}
	if c.Typed != "" && c.Resume == "" {
		if err := t.Paste(ctx, c.Typed); err != nil {
			return nil, err
		}
	}
	return running{t}, nil
}

type running struct{ t *terminal.Terminal }

func (r running) SessionID() string     { return "native-1" }
func (r running) Done() <-chan struct{} { return r.t.Done() }
func (r running) ExitReason() string {
	return fmt.Sprintf("the shell exited with code %d", r.t.ExitCode())
}
func (r running) Close()                       { r.t.Close() }
func (r running) Abort(context.Context) error  { return nil }
func (r running) Terminal() *terminal.Terminal { return r.t }

func (r running) Turn(context.Context, sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	return "", sandboxd.TurnResult{}, errors.New("no turns")
}

// program is an installer of nothing.
type program struct{}

func (program) Harnesses() []string { return []string{"codex"} }

func (program) Install(context.Context, string, func(string)) (string, error) { return "/bin/sh", nil }

// stack is a server with everything below it, over one database and data directory that outlive it.
type stack struct {
	t      testing.TB
	dir    string
	store  *store.Store
	logs   logs
	url    string
	client *client.ClientWithResponses
	stop   func() // as a shutdown does, sandboxes go on; once
}

func start(t testing.TB) *stack {
	s := &stack{t: t, dir: t.TempDir(), store: storetest.Open(t, storetest.KindSQLite)}
	s.start()
	t.Cleanup(func() {
		s.stop()
		r, err := local.New(local.Options{DataDir: s.dir, Installer: program{}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.StopAll(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// start starts the server, anew if it was stopped.
func (s *stack) start() {
	s.t.Helper()
	log := slog.New(slog.NewJSONHandler(&s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r, err := local.New(local.Options{DataDir: s.dir, Installer: program{}, Logger: log})
	if err != nil {
		s.t.Fatal(err)
	}
	o := session.Options{
		Store: s.store, Runtime: r, Settings: r.Settings(), Keyring: storetest.Keyring(s.t), Harnesses: r.Harnesses(),
		Gateway: sandboxd.Gateway{BaseURL: "http://127.0.0.1:1", APIKey: "sk-canary-gateway"}, StartTimeout: patience, Logger: log,
	}
	service, controller := session.NewService(o), session.NewController(o)
	a, err := api.New(api.Options{Store: s.store, Sessions: service, MasterKey: masterKey, Logger: log})
	if err != nil {
		s.t.Fatal(err)
	}
	hs := httptest.NewUnstartedServer(nil)
	hs.Config = api.NewServer(a.Handler())
	hs.Start()
	ctx, cancel := context.WithCancel(context.Background())
	led := make(chan struct{})
	go func() { defer close(led); controller.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		service.Close()
		cancel()
		<-led
		hs.Close()
		r.Close()
	})
	s.url, s.client = hs.URL, apitest.Client(s.t, hs.URL, masterKey)
}

// logs collects what the server logs.
type logs struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// open opens a session and waits until it is ready.
func (s *stack) open(agent client.AgentCreate, create client.SessionCreate) client.Session {
	s.t.Helper()
	agent.Model = "m"
	agent.HarnessID.Set("codex")
	a, err := s.client.CreateAgentWithResponse(s.t.Context(), nil, agent)
	if err != nil || a.JSON200 == nil {
		s.t.Fatalf("create agent: %v %s", err, a.Body)
	}
	created, err := s.client.CreateSessionWithResponse(s.t.Context(), a.JSON200.ID, nil, create)
	if err != nil || created.JSON200 == nil {
		s.t.Fatalf("create session: %v %s", err, created.Body)
	}
	return s.await(created.JSON200.ID, client.SessionStatusReady)
}

func (s *stack) session(id string) client.Session {
	s.t.Helper()
	resp, err := s.client.GetSessionWithResponse(s.t.Context(), id)
	if err != nil || resp.JSON200 == nil {
		s.t.Fatalf("get session: %v %s", err, resp.Body)
	}
	return *resp.JSON200
}

func (s *stack) await(id string, status client.SessionStatus) client.Session {
	s.t.Helper()
	var got client.Session
	s.eventually("the session is "+string(status), func() bool {
		got = s.session(id)
		if got.Status != status && got.Status == client.SessionStatusFailed {
			s.t.Fatalf("the session failed: %v", got.FailureReason)
		}
		return got.Status == status
	})
	return got
}

func (s *stack) eventually(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("never: %s", what)
		}
	}
}

// viewer is a client of a terminal.
type viewer struct {
	t     testing.TB
	ws    *websocket.Conn
	raw   strings.Builder
	texts []string
}

// attach attaches with the token of the session; proto may be empty.
func (s *stack) attach(id, query, proto string) *viewer {
	s.t.Helper()
	token, err := s.session(id).TtyToken.Get()
	if err != nil {
		s.t.Fatalf("the session has no token: %v", err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	o := &websocket.DialOptions{HTTPClient: apitest.HTTPClient(s.t, ""), HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}}
	if proto != "" {
		o.Subprotocols = []string{proto}
	}
	ws, resp, err := websocket.Dial(ctx, s.url+"/api/v1/managed_agents/sessions/"+id+"/tty"+query, o)
	if err != nil {
		var text []byte
		if resp != nil {
			text, _ = io.ReadAll(resp.Body)
		}
		s.t.Fatalf("attach: %v %s", err, text)
	}
	ws.SetReadLimit(-1)
	s.t.Cleanup(func() { _ = ws.CloseNow() })
	return &viewer{t: s.t, ws: ws}
}

// read takes one message.
func (v *viewer) read() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	typ, b, err := v.ws.Read(ctx)
	switch {
	case err != nil:
	case typ == websocket.MessageText:
		v.texts = append(v.texts, string(b))
	default:
		v.raw.Write(b)
	}
	return err
}

func (v *viewer) until(what string, ok func() bool) {
	v.t.Helper()
	for !ok() {
		if err := v.read(); err != nil {
			v.t.Fatalf("waited in vain: %s: %v; got %q %v", what, err, v.raw.String(), v.texts)
		}
	}
}

func (v *viewer) sees(text string) {
	v.t.Helper()
	v.until("it sees "+text, func() bool {
		last := v.raw.String()
		last = last[max(0, len(last)-64<<10):]
		return strings.Contains(last, text) || strings.Contains(shown(last), text)
	})
}

// A picture of the screen leaves blanks out: it moves the cursor.
var (
	moves = regexp.MustCompile(`\x1b\[[0-9]+;[0-9]+H`)
	modes = regexp.MustCompile(`\x1b\[[?0-9;]*[a-zA-Z]`)
)

// shown is roughly the text of what was painted.
func shown(raw string) string { return modes.ReplaceAllString(moves.ReplaceAllString(raw, " "), "") }

func (v *viewer) types(text string) {
	v.t.Helper()
	if err := v.ws.Write(context.Background(), websocket.MessageBinary, []byte(text)); err != nil {
		v.t.Fatal(err)
	}
}

func (v *viewer) says(text string) {
	v.t.Helper()
	if err := v.ws.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
		v.t.Fatal(err)
	}
}

// end reads to the end of the connection and returns how it was closed.
func (v *viewer) end() websocket.CloseError {
	v.t.Helper()
	for {
		if err := v.read(); err != nil {
			var ce websocket.CloseError
			if !errors.As(err, &ce) {
				v.t.Fatalf("the connection did not close: %v", err)
			}
			return ce
		}
	}
}

// processes are the living processes that a directory stands in or is an argument of, with their command lines.
func processes(dir string) map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		cwd, err := os.Readlink(filepath.Join(d, "cwd"))
		if err == nil && (strings.HasPrefix(cwd, dir) || strings.Contains(string(line), dir)) {
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// commands are the command lines of the living processes of a directory.
func commands(dir string) []string { return slices.Collect(maps.Values(processes(dir))) }
