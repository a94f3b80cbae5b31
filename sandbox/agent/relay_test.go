package agent_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// outside is the platform's proxy, as a relay sees it: it keeps the heads that it gets, says yes and sends back what follows. The
// body of a request counts as what follows.
type outside struct {
	addr string

	mu    sync.Mutex // guards heads
	heads []string
}

func newOutside(t *testing.T, network, addr string) *outside {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	o := &outside{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { o.serve(c) })
		}
	})
	return o
}

func (o *outside) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return
		}
		if line == "\r\n" {
			break
		}
	}
	o.mu.Lock()
	o.heads = append(o.heads, head.String())
	o.mu.Unlock()
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err == nil {
		_, _ = io.Copy(c, r)
	}
}

func (o *outside) seen() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.heads)
}

func withEgress(proxy string, change ...func(*sandboxd.Egress)) func(*sandboxd.SessionConfig) {
	return func(c *sandboxd.SessionConfig) {
		c.Egress = &sandboxd.Egress{Proxy: proxy, Credential: "credential-canary-1"}
		for _, f := range change {
			f(c.Egress)
		}
	}
}

// variable is what the harness has in its environment.
func (b *box) variable(name string) string {
	b.t.Helper()
	for _, kv := range b.fake.config(1).Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// ask sends a request through the proxy that tools have.
func (b *box) ask(request string) (net.Conn, *bufio.Reader) {
	b.t.Helper()
	u, err := url.Parse(b.variable("https_proxy"))
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		b.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

const tunnelRequest = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"

// tunnel opens a tunnel and sees that it carries bytes.
func (b *box) tunnel() (net.Conn, *bufio.Reader) {
	b.t.Helper()
	c, r := b.ask(tunnelRequest)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || res.StatusCode != http.StatusOK {
		b.t.Fatalf("tunnel: %v %v", res, err)
	}
	echoes(b.t, c, r)
	return c, r
}

func echoes(t *testing.T, c net.Conn, r *bufio.Reader) {
	t.Helper()
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "ping\n" {
		t.Fatalf("got %q, %v", line, err)
	}
}

func TestToolsGetAProxyThatShowsTheCredentialForThem(t *testing.T) {
	t.Parallel()
	b, o := boot(t), newOutside(t, "tcp", "127.0.0.1:0")
	b.ready(withEgress(o.addr, func(e *sandboxd.Egress) { e.Direct = []string{"gateway.example"} }), func(c *sandboxd.SessionConfig) {
		c.Env["HTTPS_PROXY"], c.Env["no_proxy"], c.Env["JAVA_TOOL_OPTIONS"] = "http://other.example:1", "*", "-Xmx1g"
	})
	proxy := b.variable("http_proxy")
	for _, name := range []string{"HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "npm_config_proxy", "npm_config_https_proxy"} {
		if got := b.variable(name); got != proxy || !strings.HasPrefix(got, "http://127.0.0.1:") {
			t.Errorf("%s is %q", name, got)
		}
	}
	for _, name := range []string{"no_proxy", "NO_PROXY", "npm_config_noproxy"} {
		if got := b.variable(name); got != "localhost,127.0.0.1,::1,gateway.example" {
			t.Errorf("%s is %q", name, got)
		}
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(proxy, "http://"), ":")
	java := "-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=" + port + " -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=" + port +
		" -Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1]|gateway.example"
	if got := b.variable("JAVA_TOOL_OPTIONS"); got != java {
		t.Errorf("JAVA_TOOL_OPTIONS is %q, want %q", got, java)
	}
	if b.variable("NODE_USE_ENV_PROXY") != "1" {
		t.Error("Node is not told")
	}
	if strings.Contains(strings.Join(b.fake.config(1).Env, "\n"), "canary") {
		t.Error("the environment has the credential")
	}

	_, r := b.ask("POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\npRoxy-authorization: Basic own\r\nX-Y: z\r\nContent-Length: 5\r\n\r\nhello")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	body := make([]byte, 5)
	if _, err := io.ReadFull(r, body); err != nil || string(body) != "hello" {
		t.Errorf("the body came as %q, %v", body, err)
	}
	want := "POST http://a.example/x HTTP/1.1\r\nProxy-Authorization: Bearer credential-canary-1\r\nHost: a.example\r\nX-Y: z\r\nContent-Length: 5\r\n\r\n"
	if got := o.seen(); len(got) != 1 || got[0] != want {
		t.Errorf("the proxy saw %q", got)
	}
}

func TestARenewedCredentialIsShownByTheNextConnection(t *testing.T) {
	t.Parallel()
	b, o := boot(t), newOutside(t, "tcp", "127.0.0.1:0")
	b.ready(withEgress(o.addr))
	c, r := b.tunnel()
	for text, want := range map[string]int{"": 400, "two words": 400, "line\r\nbreak": 400, "credential-canary-2": 204} {
		res, err := b.client.RenewEgressWithResponse(t.Context(), sandboxd.EgressCredential{Credential: text})
		if err != nil || res.StatusCode() != want {
			t.Errorf("%q: %v %v", text, res.Status(), err)
		}
	}
	echoes(t, c, r)
	b.tunnel()
	got := o.seen()
	if len(got) != 2 || !strings.Contains(got[0], "Bearer credential-canary-1\r\n") || !strings.Contains(got[1], "Bearer credential-canary-2\r\n") {
		t.Errorf("the proxy saw %q", got)
	}
}

func TestTheProxyMayMove(t *testing.T) {
	t.Parallel()
	b, before, now := boot(t), newOutside(t, "tcp", "127.0.0.1:0"), newOutside(t, "tcp", "127.0.0.1:0")
	b.ready(withEgress(before.addr))
	c, r := b.tunnel()
	for _, move := range []struct {
		proxy string
		want  int
	}{{"no-port", 400}, {"unix:relative", 400}, {now.addr, 204}} {
		res, err := b.client.RenewEgressWithResponse(t.Context(), sandboxd.EgressCredential{Credential: "credential-canary-2", Proxy: &move.proxy})
		if err != nil || res.StatusCode() != move.want {
			t.Errorf("%q: %v %v", move.proxy, res.Status(), err)
		}
	}
	b.tunnel()
	echoes(t, c, r) // what is open goes on
	if got := now.seen(); len(before.seen()) != 1 || len(got) != 1 || !strings.Contains(got[0], "Bearer credential-canary-2\r\n") {
		t.Errorf("the new proxy saw %q", got)
	}
}

func TestACredentialIsRefusedWithoutAWayOut(t *testing.T) {
	t.Parallel()
	b := boot(t)
	for _, when := range []string{"unbound", "bound"} {
		res, err := b.client.RenewEgressWithResponse(t.Context(), sandboxd.EgressCredential{Credential: "x"})
		if err != nil || res.JSON409 == nil {
			t.Errorf("%s: %v %v", when, res.Status(), err)
		}
		b.bind()
	}
	if b.until("ready"); b.variable("HTTP_PROXY") != "" {
		t.Error("tools have a proxy")
	}
}

func TestAWayOutThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	b := boot(t)
	for name, f := range map[string]func(*sandboxd.Egress){
		"no address":                func(e *sandboxd.Egress) { e.Proxy = "proxy" },
		"a relative path":           func(e *sandboxd.Egress) { e.Proxy = "unix:sock" },
		"no credential":             func(e *sandboxd.Egress) { e.Credential = "" },
		"a credential of two lines": func(e *sandboxd.Egress) { e.Credential = "a\r\nb" },
		"a list for a host":         func(e *sandboxd.Egress) { e.Direct = []string{"a,b"} },
		"a mirror of another host":  func(e *sandboxd.Egress) { e.Mirrors = []string{"10.0.0.1:80"} },
	} {
		res, err := b.client.BindSessionWithResponse(t.Context(), b.config(withEgress("127.0.0.1:1", f)))
		if err != nil || res.JSON400 == nil {
			t.Errorf("%s: %v %v", name, res.Status(), err)
		}
	}
}

func TestAProxyThatStartsAgainIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := boot(t)
	dir := filepath.Join(b.c.Dir, strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.ready(withEgress("unix:" + filepath.Join(dir, "egress.sock")))
	c, r := b.ask(tunnelRequest)
	defer c.Close()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	newOutside(t, "unix", "/proc/self/fd/"+strconv.Itoa(int(d.Fd()))+"/egress.sock")
	if res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	echoes(t, c, r)
}

func TestAMirrorTunnelsToTheHostInItsPlace(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := free.Addr().String()
	free.Close()
	o := newOutside(t, "tcp", "127.0.0.1:0")
	b := boot(t, func(b *box) { b.c.OwnNetwork = true })
	b.ready(withEgress(o.addr, func(e *sandboxd.Egress) { e.Mirrors = []string{target} }))
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	echoes(t, c, bufio.NewReader(c))
	want := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nProxy-Authorization: Bearer credential-canary-1\r\n\r\n"
	if got := o.seen(); len(got) != 1 || got[0] != want {
		t.Errorf("the proxy saw %q", got)
	}
}

func TestTheRouteIsTakenWithoutTheProxyForItsHostAlone(t *testing.T) {
	t.Parallel()
	proxy := newOutside(t, "tcp", "127.0.0.1:0")
	var gateway *outside
	b := boot(t, func(b *box) {
		b.c.Route, b.c.RouteSocket = "gateway.example:80", filepath.Join(b.c.Dir, "gateway.sock")
		gateway = newOutside(b.t, "unix", b.c.RouteSocket)
	})
	b.ready(withEgress(proxy.addr))
	through := func(request string) {
		t.Helper()
		c, r := b.ask(request)
		defer c.Close()
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%q: %v %v", request, res, err)
		}
	}
	through("GET http://Gateway.example/v1 HTTP/1.1\r\nHost: gateway.example\r\nConnection: keep-alive\r\nProxy-Connection: x\r\n\r\n")
	through("GET http://gateway.example:81/ HTTP/1.1\r\nHost: gateway.example:81\r\n\r\n")
	through("GET http://gateway.example@other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n")
	c, r := b.ask("CONNECT gateway.example:80 HTTP/1.1\r\nHost: gateway.example:80\r\n\r\n")
	defer c.Close()
	if res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	if _, err := io.WriteString(c, "GET /inside HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("in the tunnel: %v %v", res, err)
	}
	want := []string{"GET http://Gateway.example/v1 HTTP/1.1\r\nConnection: close\r\nHost: gateway.example\r\n\r\n", "GET /inside HTTP/1.1\r\n\r\n"}
	if got := gateway.seen(); !slices.Equal(got, want) {
		t.Errorf("the gateway saw %q", got)
	}
	if got := proxy.seen(); len(got) != 2 {
		t.Errorf("the proxy saw %q", got)
	}
	if err := os.Remove(b.c.RouteSocket); err != nil {
		t.Fatal(err)
	}
	through("GET http://gateway.example/v1 HTTP/1.1\r\nHost: gateway.example\r\n\r\n")
	if got := proxy.seen(); len(got) != 3 || !strings.Contains(got[2], "Bearer credential-canary-1") {
		t.Errorf("without the route the proxy saw %q", got)
	}
}

func TestConnectionsEndWithTheSandbox(t *testing.T) {
	t.Parallel()
	b, o := boot(t), newOutside(t, "tcp", "127.0.0.1:0")
	b.ready(withEgress(o.addr))
	_, r := b.tunnel()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if _, err := r.ReadByte(); err == nil {
		t.Error("the tunnel goes on")
	}
	if _, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", strings.TrimPrefix(b.variable("HTTP_PROXY"), "http://")); err == nil {
		t.Error("the relay listens")
	}
}
