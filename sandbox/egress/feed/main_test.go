package feed_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = time.Minute
	secret   = "secret-of-the-feed-canary"
)

var signingKey = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))

// away is all that proxies of tests can reach: every name has one public address, and an upstream that sends back what it gets
// stands for it. No test can leave the machine.
type away struct{ upstream string }

func (away) Resolve(context.Context, string, bool) (egress.Answer, error) {
	return egress.Answer{Addrs: []netip.Addr{netip.MustParseAddr("93.184.215.14")}}, nil
}

func (a away) dial(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", a.upstream)
}

func echo(t *testing.T) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
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
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.Copy(c, c)
			})
		}
	})
	return l.Addr().String()
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// server is a hub on an address.
type server struct {
	*feed.Hub
	addr string
	http *http.Server

	leads atomic.Bool

	mu       sync.Mutex // guards the rest
	reported []egress.Record
	over     map[egress.Key]bool
}

// startServer starts one on an address that may have been another's before.
func startServer(t *testing.T, addr string, leads bool, over ...egress.Key) *server {
	t.Helper()
	s := &server{over: map[egress.Key]bool{}}
	s.leads.Store(leads)
	for _, key := range over {
		s.over[key] = true
	}
	s.Hub = feed.NewHub(feed.HubOptions{
		Secret: secret, Key: signingKey.Public().(ed25519.PublicKey), Leading: s.leads.Load, Logger: logger(t),
		Report: func(r egress.Record) { s.mu.Lock(); defer s.mu.Unlock(); s.reported = append(s.reported, r) },
		Over: func(_ context.Context, keys []egress.Key) (list []egress.Key, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, k := range keys {
				if s.over[k] {
					list = append(list, k)
				}
			}
			return list, nil
		},
	})
	l := listen(t, addr)
	s.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle("GET "+feed.Path, s.Hub)
	s.http = &http.Server{Handler: mux}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.http.Serve(l) }()
	t.Cleanup(func() { s.stop(); <-served })
	return s
}

// stop is what a crash looks like to replicas.
func (s *server) stop() {
	_ = s.http.Close()
	s.Stop()
}

// hosts are those that events would be made of.
func (s *server) hosts() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reported {
		list = append(list, r.Host)
	}
	return list
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// replica is one with its proxy on an address.
type replica struct {
	*feed.Replica
	addr string
	stop func()
}

func startReplica(t *testing.T, upstream, secret string, servers ...string) *replica {
	t.Helper()
	a := away{upstream}
	r := &replica{Replica: feed.NewReplica(feed.ReplicaOptions{
		Servers: servers, Secret: secret, Logger: logger(t),
		Proxy: egress.Options{Resolver: a, Dial: a.dial, OpenWait: 20 * time.Millisecond},
	})}
	l := listen(t, "127.0.0.1:0")
	r.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	wg.Go(func() {
		if err := r.Proxy().Serve(l); !errors.Is(err, egress.ErrStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); r.Stop(); wg.Wait() })
	t.Cleanup(r.stop)
	return r
}

func key(session string, attempt int) egress.Key {
	return egress.Key{Session: session, Attempt: attempt}
}

func compile(t *testing.T, s policy.Spec) *policy.Policy {
	t.Helper()
	p, err := policy.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func credential(k egress.Key, p *policy.Policy, ttl time.Duration) string {
	now := time.Now()
	return egress.SignCredential(signingKey, egress.Claims{Key: k, Policy: p.Hash(), IssuedAt: now.Add(-time.Hour), Expires: now.Add(ttl)})
}

// request sends a request to a replica and returns the status.
func (r *replica) request(t *testing.T, method, target, credential string) (net.Conn, *bufio.Reader, int) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	host := strings.TrimSuffix(strings.TrimPrefix(target, "http://"), "/")
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Bearer %s\r\n\r\n", method, target, host, credential); err != nil {
		t.Fatal(err)
	}
	b := bufio.NewReader(c)
	res, err := http.ReadResponse(b, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return c, b, res.StatusCode
}

// tunnel opens one, when the replica lets it.
func (r *replica) tunnel(t *testing.T, host, credential string) (net.Conn, *bufio.Reader) {
	t.Helper()
	var c net.Conn
	var b *bufio.Reader
	eventually(t, "a tunnel to "+host, func() bool {
		var status int
		if c, b, status = r.request(t, http.MethodConnect, host+":443", credential); status != http.StatusOK {
			c.Close()
		}
		return status == http.StatusOK
	})
	return c, b
}

func (r *replica) status(t *testing.T, host, credential string) int {
	t.Helper()
	c, _, status := r.request(t, http.MethodConnect, host+":443", credential)
	c.Close()
	return status
}

// answers tells whether a tunnel carries bytes both ways.
func answers(c net.Conn, b *bufio.Reader) bool {
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return false
	}
	line, err := b.ReadString('\n')
	return err == nil && line == "ping\n"
}

func ends(t *testing.T, what string, b *bufio.Reader) {
	t.Helper()
	if _, err := b.ReadByte(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s goes on: %v", what, err)
	} else if n := net.Error(nil); errors.As(err, &n) && n.Timeout() {
		t.Errorf("%s goes on", what)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func count(list []string, s string) (n int) {
	for _, one := range list {
		if one == s {
			n++
		}
	}
	return n
}

func hostsOf(list []egress.Record) (hosts []string) {
	for _, r := range list {
		hosts = append(hosts, r.Host)
	}
	slices.Sort(hosts)
	return hosts
}
