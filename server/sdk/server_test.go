package sdk_test

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/server/servertest"
)

const (
	masterKey = "sdk-master-key-canary-0123456789"
	patience  = 5 * time.Minute // until a program has ended; harnesses may have to be installed
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// liveServer is the real server with its demo gateway, real OpenCode and nothing else of this process.
type liveServer struct{ url string }

// startLive starts a server that ends with the test, with all its sandboxes.
func startLive(t *testing.T) liveServer {
	t.Helper()
	dir, addr := t.TempDir(), servertest.FreeAddr(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(servertest.Build(t), "serve", "--demo", "--stop-sandboxes")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "DATA_DIR=" + dir, "HARNESS_DIR=" + servertest.HarnessDir(t),
		"LISTEN_ADDR=" + addr, "METRICS_ADDR=off", "MASTER_KEY=" + masterKey, "ENCRYPTION_KEY=sdk-encryption-key-0123456789",
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
		_ = log.Close()
		said, err := os.ReadFile(log.Name())
		if err != nil || strings.Contains(string(said), masterKey) {
			t.Errorf("the server's log has the key: %v", err)
		}
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", said[max(0, len(said)-8<<10):])
		}
	})
	s := liveServer{url: "http://" + addr}
	until(t, "the server is ready", func() bool {
		res, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return s
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// fenced is the first block of a language in a Markdown file, as it stands there.
func fenced(t *testing.T, path, language string) string {
	t.Helper()
	_, rest, ok := strings.Cut(readFile(t, path), "\n```"+language+"\n")
	block, _, closed := strings.Cut(rest, "\n```\n")
	if !ok || !closed {
		t.Fatalf("%s has no block of %s", path, language)
	}
	return block + "\n"
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run runs a program to its end and returns what it wrote. Without an environment it has that of the tests.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// settings is the environment of a program that uses a server.
func settings(url string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LAP_URL=" + url, "LAP_KEY=" + masterKey}
}

// badLine is a proxy in front of a server that breaks connections at the worst moments.
type badLine struct {
	url    string
	target string
	http   *http.Client

	mu     sync.Mutex     // guards what follows
	lose   map[string]int // answers that are lost after the server has done its work, by method and end of the path
	every  int            // events after which the first stream is cut, each later one after one more; 0: never
	cuts   int            // of streams
	passed map[string]int // requests by method and path, those whose answer was lost too
}

func newBadLine(t *testing.T, target string) *badLine {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	p := &badLine{target: target, http: &http.Client{Transport: base}, lose: map[string]int{}, passed: map[string]int{}}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	p.url = s.URL
	return p
}

func (p *badLine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, p.target+r.URL.RequestURI(), r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req.Header = r.Header.Clone()
	res, err := p.http.Do(req)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer res.Body.Close()
	maps.Copy(w.Header(), res.Header)
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		p.stream(w, res.Body)
		return
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || p.loses(r.Method+" "+r.URL.Path) {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(body)
}

func (p *badLine) loses(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed[what]++
	for end, n := range p.lose {
		if n > 0 && strings.HasSuffix(what, end) {
			p.lose[end]--
			return true
		}
	}
	return false
}

// stream passes events on, and breaks off in the middle of one after a few. The events of a turn begin anew when its stream is opened
// again, so that a line which always broke at the same place would never get on.
func (p *badLine) stream(w http.ResponseWriter, events io.Reader) {
	flush := http.NewResponseController(w).Flush
	lines, n := bufio.NewReader(events), 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if strings.HasPrefix(line, "data: ") {
			p.mu.Lock()
			cut := p.every > 0 && n == p.every+p.cuts
			if cut {
				p.cuts++
			}
			p.mu.Unlock()
			if n++; cut {
				_, _ = io.WriteString(w, line[:len(line)/2])
				_ = flush()
				panic(http.ErrAbortHandler)
			}
		}
		_, _ = io.WriteString(w, line)
		_ = flush()
	}
}

func (p *badLine) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed[what]
}

func (p *badLine) cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

func (p *badLine) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}
