package main_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
	"github.com/litellm-agent-platform/lap/server/servertest"
)

func TestAReplicaThatIsToldToEndTakesNoConnectionsAndLetsThoseThatThereAreEnd(t *testing.T) {
	t.Parallel()
	key := ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))
	hub := feed.NewHub(feed.HubOptions{
		Secret: "secret-of-replicas", Key: key.Public().(ed25519.PublicKey), Leading: func() bool { return true }, Report: func(egress.Record) {},
		Over: func(context.Context, []egress.Key) ([]egress.Key, error) { return nil, nil }, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(hub.Stop)
	server := httptest.NewServer(hub)
	t.Cleanup(server.Close)
	p, err := policy.New(policy.Spec{AllowCIDRs: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	k, now := egress.Key{Session: "s1", Attempt: 1}, time.Now()
	hub.Open(k, egress.Session{Policy: p})

	addr, probes := servertest.FreeAddr(t), servertest.FreeAddr(t)
	cmd := exec.Command(servertest.Build(t), "egress")
	cmd.Env = []string{
		"EGRESS_LISTEN_ADDR=" + addr, "METRICS_ADDR=" + probes, "EGRESS_SECRET=secret-of-replicas", "SHUTDOWN_TIMEOUT=5m",
		"EGRESS_SERVERS=" + strings.TrimPrefix(server.URL, "http://"),
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	ready := func() int {
		res, err := http.Get("http://" + probes + "/readyz")
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	poll(t, "the replica is ready", func() bool { return ready() == http.StatusOK })

	target := echoes(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(now.Add(5 * time.Minute))
	credential := egress.SignCredential(key, egress.Claims{Key: k, Policy: p.Hash(), IssuedAt: now, Expires: now.Add(time.Hour)})
	fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\nProxy-Authorization: Bearer %[2]s\r\n\r\n", target, credential)
	b := bufio.NewReader(c)
	if res, err := http.ReadResponse(b, &http.Request{Method: http.MethodConnect}); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("a tunnel: %v, %v", res, err)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	poll(t, "it takes no connections", func() bool {
		n, err := net.Dial("tcp", addr)
		if err == nil {
			n.Close()
		}
		return err != nil && ready() == http.StatusServiceUnavailable
	})
	fmt.Fprint(c, "ping\n")
	if line, err := b.ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("the tunnel was cut: %q, %v", line, err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended before its connections: %v", err)
	default:
	}
	hub.Close(k) // a session that ends meanwhile is no exception
	if _, err := b.ReadByte(); err != io.EOF {
		t.Errorf("after the end of the session: %v", err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not end")
	}
}

func TestAReplicaThatIsNotConfiguredSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(servertest.Build(t), "egress")
	cmd.Env = []string{"EGRESS_SECRET=short-canary", "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "EGRESS_SERVERS must be set") || !strings.Contains(string(out), "EGRESS_SECRET must") || strings.Contains(string(out), "canary") {
		t.Errorf("%v: %s", err, out)
	}
}

// echoes is a listener that sends back what it gets.
func echoes(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
