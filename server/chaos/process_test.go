package chaos_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is the server. One goroutine holds the thread that started it: with that thread, and so with this process, it ends.
type process struct {
	w    *world
	bin  string
	env  []string
	url  string
	log  *os.File
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu       sync.Mutex // guards the rest
	expected bool       // its end is wanted
	ready    bool
}

func newProcess(w *world, bin string, env []string, url string) *process {
	log, err := os.Create(filepath.Join(w.dir, "server.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = log.Close() })
	return &process{w: w, bin: bin, env: env, url: url, log: log}
}

// launch starts it and does not wait until it is ready.
func (p *process) launch() {
	p.mu.Lock()
	p.expected, p.ready = false, false
	p.mu.Unlock()
	cmd, done, started := exec.Command(p.bin, "serve"), make(chan struct{}), make(chan error)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
			p.ended(err)
		}
	}()
	if err := <-started; err != nil {
		p.w.t.Fatal(err)
	}
	p.cmd, p.done = cmd, done
	p.w.note("server started, pid %d", cmd.Process.Pid)
}

func (p *process) ended(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.w.note("server ended: %v, wanted: %v", err, p.expected)
	if p.ready && !p.expected {
		p.w.violated("", violation{"crash", "the server ended by itself: " + err.Error() + "\n" + tail(p.log.Name(), 20)})
	}
}

func (p *process) runs() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// start returns when the server is ready. One that cannot start, for its database is away, is started again.
func (p *process) start(within time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		if !p.runs() {
			p.launch()
		}
		if p.isReady(ctx) {
			p.mu.Lock()
			p.ready = true
			p.mu.Unlock()
			return true
		}
		if !pause(ctx, 50*time.Millisecond) {
			return false
		}
	}
}

func (p *process) isReady(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := p.w.http.Do(req)
	if err != nil {
		return false
	}
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

// kill ends the server with a signal and returns when it has ended.
func (p *process) kill(sig syscall.Signal) bool {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
	if !p.runs() {
		return true
	}
	p.signal(syscall.SIGCONT)
	p.signal(sig)
	select {
	case <-p.done:
		return true
	case <-time.After(time.Minute):
		p.signal(syscall.SIGKILL)
		<-p.done
		return false
	}
}

func (p *process) signal(sig syscall.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.w.t.Error(err)
	}
}

func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
