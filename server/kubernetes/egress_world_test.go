package kubernetes_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/server/servertest"
)

// proxied is a world whose pods have lap egress as their way out.
type proxied struct {
	*world
	feed     string
	service  *service
	replicas []*replica
}

// replica is one process of lap egress.
type replica struct {
	addr, probes string
	cmd          *exec.Cmd
	log          string
}

func newProxied(t *testing.T, env ...string) *proxied {
	t.Helper()
	p := &proxied{service: startService(t), feed: servertest.FreeAddr(t)}
	p.world = newWorld(t, "", append([]string{
		"EGRESS_PROXY_ADDR=" + p.service.addr, "K8S_EGRESS_PODS=lap/app.kubernetes.io/name=lap-egress", "EGRESS_FEED_ADDR=" + p.feed,
		"EGRESS_SECRET=egress-secret-canary", "EGRESS_CHECK_SOURCE=false", // the stand-in for nodes hides the addresses of its pods
	}, env...)...)
	for i, e := range p.env { // by a name that only the proxy resolves
		p.env[i] = strings.Replace(e, "LITELLM_API_BASE=http://127.0.0.1", "LITELLM_API_BASE=http://gateway.example", 1)
	}
	for range 2 {
		p.replicas = append(p.replicas, p.startReplica(p.feed, "egress-secret-canary"))
	}
	p.service.set(p.replicas)
	return p
}

func (w *world) startReplica(feed, secret string) *replica {
	w.t.Helper()
	r := &replica{addr: servertest.FreeAddr(w.t), probes: servertest.FreeAddr(w.t)}
	log, err := os.Create(filepath.Join(w.t.TempDir(), "egress.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	r.log = log.Name()
	r.cmd = exec.Command(w.lap, "egress")
	r.cmd.Env = []string{
		"EGRESS_LISTEN_ADDR=" + r.addr, "EGRESS_SERVERS=" + feed, "EGRESS_SECRET=" + secret, "METRICS_ADDR=" + r.probes, "LOG_LEVEL=debug",
	}
	r.cmd.Stdout, r.cmd.Stderr = log, log
	if err := r.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		r.kill()
		text, err := os.ReadFile(r.log)
		if err != nil {
			w.t.Error(err)
		}
		for _, canary := range append(canaries, secret) {
			if strings.Contains(string(text), canary) {
				w.t.Errorf("%s is in the log of a replica", canary)
			}
		}
		if w.t.Failed() {
			w.t.Logf("the end of a replica's log:\n%s", text[max(0, len(text)-4000):])
		}
	})
	w.eventually("the replica lives", func() bool { return r.probe("healthz") == http.StatusOK })
	return r
}

// probe returns the status of a probe, 0 if there is no answer.
func (r *replica) probe(path string) int {
	res, err := http.Get("http://" + r.probes + "/" + path)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	return res.StatusCode
}

// metric is a figure that the replica shows, 0 if it does not.
func (r *replica) metric(t *testing.T, series string) string {
	t.Helper()
	res, err := http.Get("http://" + r.probes + "/metrics")
	if err != nil {
		return "0"
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return "0"
}

func (r *replica) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(unix.SIGKILL)
		_ = r.cmd.Wait()
		r.cmd = nil
	}
	http.DefaultClient.CloseIdleConnections()
}

// service is what a Service of Kubernetes is to a replica that is ready: its connections in turn.
type service struct {
	addr string
	n    atomic.Uint64

	mu       sync.Mutex // guards replicas
	replicas []*replica
}

func startService(t *testing.T) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.carry(c) })
		}
	})
	return s
}

func (s *service) set(list []*replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = list
}

func (s *service) carry(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	list := s.replicas
	s.mu.Unlock()
	for range list {
		r := list[s.n.Add(1)%uint64(len(list))]
		if r.probe("readyz") != http.StatusOK {
			continue
		}
		up, err := net.Dial("tcp", r.addr)
		if err != nil {
			continue
		}
		defer up.Close()
		var back sync.WaitGroup
		back.Go(func() { _, _ = io.Copy(c, up); c.Close() })
		_, _ = io.Copy(up, c)
		up.Close()
		back.Wait()
		return
	}
}

// serveInternet is every public host: a page at port 80, and an echo at port 7000.
func serveInternet(t *testing.T) {
	t.Helper()
	web, err := net.Listen("tcp", servertest.PublicAddr+":80")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: web, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })}}
	s.Start()
	t.Cleanup(s.Close)
	echo, err := net.Listen("tcp", servertest.PublicAddr+":7000")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { echo.Close() })
	wg.Go(func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
}

// tunnel is one to the echo, as a tool in the pod has it: through sandboxd, which adds the credential.
type tunnel struct {
	net.Conn
	b *bufio.Reader
}

func open(t *testing.T, relay, host string) (*tunnel, int) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(relay, "http://"))
	if err != nil {
		return nil, 0
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
	fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host)
	b := bufio.NewReader(c)
	res, err := http.ReadResponse(b, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, 0
	}
	return &tunnel{c, b}, res.StatusCode
}

// answers tells whether a tunnel carries bytes both ways.
func (c *tunnel) answers() bool {
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return false
	}
	line, err := c.b.ReadString('\n')
	return err == nil && line == "ping\n"
}

func (c *tunnel) ended() error {
	_, err := c.b.ReadByte()
	if n := net.Error(nil); err == nil || errors.As(err, &n) && n.Timeout() {
		return errors.New("it goes on")
	}
	return nil
}
