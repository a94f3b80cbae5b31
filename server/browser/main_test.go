package browser_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/server/servertest"
)

const (
	masterKey = "browser-master-key-0123456789"
	patience  = 10 * time.Minute
)

var screenshots = flag.String("screenshots", "", "`directory` for pictures of the pages; empty: none")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPages(t *testing.T) {
	t.Parallel()
	s := serve(t)
	p := open(t, s.url)
	for _, check := range []struct {
		name string
		run  func(*tab, *server)
	}{
		{"a link to an operation opens it", checkLinks},
		{"the guide is readable everywhere", checkGuide},
		{"Swagger UI executes every operation", checkOperations},
	} {
		t.Run(check.name, func(t *testing.T) {
			p.t = t
			check.run(p, s)
		})
	}
}

// server is the real binary with its demo gateway.
type server struct{ url, log string }

func serve(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "lap-browser-") // removed below, when the sandboxes in it have ended
	if err != nil {
		t.Fatal(err)
	}
	addr := servertest.FreeAddr(t)
	s := &server{url: "http://" + addr, log: filepath.Join(dir, "server.log")}
	logs, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(servertest.Build(t), "serve", "--demo", "--stop-sandboxes")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "DATA_DIR=" + dir, "HARNESS_DIR=" + servertest.HarnessDir(t),
		"LISTEN_ADDR=" + addr, "METRICS_ADDR=off", "MASTER_KEY=" + masterKey, "LOG_LEVEL=debug",
	}
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("server: %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(s.log)
			t.Logf("server's log ends:\n%s", b[max(0, len(b)-8000):])
		}
		if err := errors.Join(logs.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		if res, err := http.Get(s.url + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				http.DefaultClient.CloseIdleConnections()
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not get ready")
		}
	}
}

// tab is a page of a browser of its own, which asks no other host and has nothing to complain of.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	mu       sync.Mutex // guards what follows
	problems []string
	answers  map[network.RequestID]*answer
	order    []network.RequestID
}

// answer is one that the browser got.
type answer struct {
	method, url string
	status      int64
}

// open starts a browser for pages of a server and ends it with the test.
func open(t *testing.T, url string) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is missing: apt-get install --no-install-recommends chromium (go tool task setup does)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true), chromedp.Flag("no-pings", true), chromedp.WindowSize(1280, 900))
	p := &tab{t: t, url: url, answers: map[network.RequestID]*answer{}}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	p.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(p.look))
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(p.ctx, patience)
		defer stop()
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("end the browser: %v", err)
		}
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, problem := range p.problems {
			t.Error(problem)
		}
	})
	// The first use of the context starts the browser, which lives as long as the context of that use.
	if err := chromedp.Do(p.ctx); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	command(p, network.Enable, network.EnableParams{})
	command(p, log.Enable, cdp.Empty{})
	return p
}

// look finds what must not happen on a page, and keeps what was answered.
func (p *tab) look(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	bad := func(format string, args ...any) { p.problems = append(p.problems, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		url := e.Request.URL
		if !strings.HasPrefix(url, p.url+"/") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "blob:"+p.url) {
			bad("the page asks for %s", url)
		}
		if strings.Contains(url, masterKey) {
			bad("the key is in a URL: %s", url)
		}
		p.answers[e.RequestID] = &answer{method: e.Request.Method, url: url}
		p.order = append(p.order, e.RequestID)
	case *network.EventResponseReceived:
		if a := p.answers[e.RequestID]; a != nil {
			a.status = e.Response.Status
		}
	case *log.EventEntryAdded:
		if e.Entry.Source != log.EntrySourceNetwork && (e.Entry.Level == log.EntryLevelError || e.Entry.Source == log.EntrySourceSecurity) {
			bad("the browser reports: %s", e.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		bad("exception: %v", e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError {
			var text []string
			for _, arg := range e.Args {
				text = append(text, string(arg.Value)+arg.Description)
			}
			bad("console: %s", strings.Join(text, " "))
		}
	}
}

// last returns the latest answer to a method at a path that ends so.
func (p *tab) last(method, path string) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.order) - 1; i >= 0; i-- {
		a := *p.answers[p.order[i]]
		url, _, _ := strings.Cut(a.url, "?")
		if a.method == method && a.status != 0 && url == p.url+path {
			return a
		}
	}
	return answer{}
}

func (p *tab) do(what string, action chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	run(p, what, action)
}

func run[T any](p *tab, what string, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
	return v
}

func command[P, R any](p *tab, c cdp.Command[P, R], params P) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, c, params); err != nil {
		p.t.Fatalf("%s: %v", c.Method, err)
	}
}

func (p *tab) visit(path string) {
	p.t.Helper()
	p.do("visit "+path, chromedp.Navigate(p.url+path))
}

// eval returns the value of an expression on the page.
func eval[T any](p *tab, js string) T {
	p.t.Helper()
	return run(p, js, chromedp.Evaluate[T](js))
}

// until waits until an expression is true on the page.
func (p *tab) until(js string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !eval[bool](p, js); <-time.After(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.shoot("failed")
			p.t.Fatalf("timed out waiting for %s; the page shows\n%.4000s", js, eval[string](p, "document.body.innerText"))
		}
	}
}

// window sets the size of the page and whether it is wanted dark.
func (p *tab) window(width, height int64, scheme string) {
	p.t.Helper()
	command(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600,
	})
	command(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// shoot keeps a picture of what is to be seen, if pictures are wanted.
func (p *tab) shoot(name string) {
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = errors.Join(os.MkdirAll(*screenshots, 0o755), os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644))
	}
	if err != nil {
		p.t.Errorf("picture %s: %v", name, err)
	}
}
