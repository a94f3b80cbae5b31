package egress_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(benchUser); addr != "" { // see BenchmarkEgress
		panic(serveBench(addr))
	}
	goleak.VerifyTestMain(m)
}

const patience = time.Minute

var signingKey = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))

// world is all that the proxy of a test can reach: names, and one upstream that stands for every address. No test can leave the
// machine, whatever the proxy does.
type world struct {
	upstream string // host:port

	mu     sync.Mutex // guards what follows
	dns    map[string]egress.Answer
	asked  []string
	dialed []netip.AddrPort
}

func (w *world) Resolve(_ context.Context, name string, search bool) (egress.Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprint(name, " ", search))
	a, ok := w.dns[name]
	if !ok {
		return egress.Answer{}, errors.New("no such host")
	}
	return a, nil
}

func (w *world) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, to)
	w.mu.Unlock()
	if w.upstream == "" {
		return nil, errors.New("refused")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", w.upstream)
}

func (w *world) seen() (asked []string, dialed []netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked), slices.Clone(w.dialed)
}

func (w *world) set(name string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := egress.Answer{}
	for _, s := range addrs {
		a.Addrs = append(a.Addrs, netip.MustParseAddr(s))
	}
	if w.dns == nil {
		w.dns = map[string]egress.Answer{}
	}
	w.dns[name] = a
}

// rig is a proxy with one open session.
type rig struct {
	*egress.Proxy
	world   *world
	addr    string
	key     egress.Key
	policy  *policy.Policy
	records chan egress.Record
}

// start returns a proxy that listens, with a session under the policy. example.com is a public address.
func start(t testing.TB, w *world, o egress.Options, s policy.Spec) *rig {
	t.Helper()
	w.set("example.com", "93.184.215.14")
	r := &rig{world: w, key: egress.Key{Session: "s1", Attempt: 2}, records: make(chan egress.Record, 4096)}
	o.Key, o.Resolver, o.Dial = signingKey.Public().(ed25519.PublicKey), w, w.Dial
	o.Report = func(rec egress.Record) { r.records <- rec }
	r.Proxy = egress.New(o)
	var err error
	if r.policy, err = policy.New(s); err != nil {
		t.Fatal(err)
	}
	r.Open(r.key, egress.Session{Policy: r.policy})
	r.addr = serve(t, r.Proxy, r.Serve)
	return r
}

// serve lets a proxy accept on a listener of its own until it is stopped.
func serve(t testing.TB, p *egress.Proxy, on func(net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- on(l) }()
	t.Cleanup(func() {
		p.Stop()
		if err := <-ended; !errors.Is(err, egress.ErrStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (r *rig) claims() egress.Claims {
	now := time.Now()
	return egress.Claims{Key: r.key, Policy: r.policy.Hash(), IssuedAt: now, Expires: now.Add(time.Hour)}
}

func (r *rig) auth() string { return authField(r.claims()) }

func authField(c egress.Claims) string {
	return "Proxy-Authorization: Bearer " + egress.SignCredential(signingKey, c) + "\r\n"
}

// send opens a connection to the proxy and writes to it.
func (r *rig) send(t testing.TB, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// refusal is what the proxy says to those it lets not pass.
type refusal struct{ Error, Code, Rule, Entry, Host string }

// answerTo sends a request and returns the answer's status, and its body if that is a refusal.
func (r *rig) answerTo(t testing.TB, request string) (int, refusal) {
	t.Helper()
	c, b := r.send(t, request)
	defer c.Close()
	method := http.MethodGet
	if len(request) > 7 && request[:7] == "CONNECT" {
		method = http.MethodConnect
	}
	resp, err := http.ReadResponse(b, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	var said refusal
	if resp.StatusCode >= 400 {
		if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Error == "" || said.Code == "" {
			t.Errorf("a refusal without a body that says why: %+v, %v", said, err)
		}
	}
	return resp.StatusCode, said
}

// connect opens a tunnel.
func (r *rig) connect(t testing.TB, target string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, b := r.send(t, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n"+r.auth()+"\r\n")
	resp, err := http.ReadResponse(b, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT %s: %v, %v", target, resp, err)
	}
	return c, b
}

// record waits for the next decision.
func (r *rig) record(t testing.TB) egress.Record {
	t.Helper()
	select {
	case rec := <-r.records:
		return rec
	case <-time.After(patience):
		t.Fatal("no decision was reported")
		return egress.Record{}
	}
}

// echo is an upstream that sends back what it gets.
func echo(t testing.TB) string {
	t.Helper()
	return serveConns(t, func(c net.Conn) {
		_, _ = io.Copy(c, c)
	})
}

// serveConns is an upstream that gives each connection to f and closes it then.
func serveConns(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	return serveConnsFor(t, patience, f)
}

func serveConnsFor(t testing.TB, d time.Duration, f func(net.Conn)) string {
	t.Helper()
	l := listen(t)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(d))
				f(c)
			})
		}
	})
	return l.Addr().String()
}

func readJSON(t testing.TB, path string, to any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, to); err != nil {
		t.Fatal(err)
	}
}

func proxyURL(addr string) *url.URL { return &url.URL{Scheme: "http", Host: addr} }

// credentials adds the field that the relay adds in a sandbox.
type credentials struct {
	field string
	http.RoundTripper
}

func (c credentials) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	_, value, _ := strings.Cut(strings.TrimSpace(c.field), ": ")
	r.Header.Set("Proxy-Authorization", value)
	return c.RoundTripper.RoundTrip(r)
}
