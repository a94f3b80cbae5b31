package egress_test

import (
	"bufio"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func connectRequest(target, auth string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n" + auth + "\r\n"
}

func TestOnlyTheCredentialOfTheOpenAttemptCounts(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{})
	other, err := policy.New(policy.Spec{DenyOut: []string{"example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	stranger := ed25519.NewKeyFromSeed([]byte("fedcba9876543210fedcba9876543210"))
	change := func(f func(*egress.Claims)) string {
		c := r.claims()
		f(&c)
		return authField(c)
	}
	for name, auth := range map[string]string{
		"none":              "",
		"another session's": change(func(c *egress.Claims) { c.Session = "s2" }),
		"another attempt's": change(func(c *egress.Claims) { c.Attempt = 1 }),
		"of another policy": change(func(c *egress.Claims) { c.Policy = other.Hash() }),
		"of no policy":      change(func(c *egress.Claims) { c.Policy = "" }),
		"expired": change(func(c *egress.Claims) {
			c.IssuedAt, c.Expires = c.IssuedAt.Add(-time.Hour), c.IssuedAt.Add(-time.Minute)
		}),
		"not valid yet":           change(func(c *egress.Claims) { c.IssuedAt = c.IssuedAt.Add(time.Minute) }),
		"signed by another":       "Proxy-Authorization: Bearer " + egress.SignCredential(stranger, r.claims()) + "\r\n",
		"with another spelling":   strings.Replace(r.auth(), "Bearer v1", "Bearer V1", 1),
		"longer than one can be":  "Proxy-Authorization: Bearer " + strings.Repeat("A", 5000) + "\r\n",
		"with something after it": strings.Replace(r.auth(), "\r\n", " x\r\n", 1),
	} {
		if status, said := r.answerTo(t, connectRequest("example.com:443", auth)); status != http.StatusProxyAuthRequired || said.Code != "egress_unauthorized" {
			t.Errorf("%s: got %d %+v", name, status, said)
		}
	}
	if status, _ := r.answerTo(t, connectRequest("example.com:443", r.auth())); status != http.StatusOK {
		t.Errorf("its own: got %d", status)
	}
	if got := r.Stats(); got.Refused != 11 || got.Allowed != 1 {
		t.Errorf("counted %+v", got)
	}
}

func TestACredentialCountsOnlyFromItsSource(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{})
	for source, want := range map[string]int{"127.0.0.1": 200, "::ffff:127.0.0.1": 200, "127.0.0.2": 407} {
		r.Open(r.key, egress.Session{Policy: r.policy, Source: netip.MustParseAddr(source)})
		if status, _ := r.answerTo(t, connectRequest("example.com:443", r.auth())); status != want {
			t.Errorf("from %s: got %d, want %d", source, status, want)
		}
	}
}

func TestAListenerOfOneAttemptNeedsNoCredential(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{DenyOut: []string{"example.org"}})
	r.addr = serve(t, r.Proxy, func(l net.Listener) error { return r.ServeSession(l, r.key) })
	if status, _ := r.answerTo(t, connectRequest("example.com:443", "")); status != http.StatusOK {
		t.Errorf("got %d", status)
	}
	if status, _ := r.answerTo(t, connectRequest("example.org:443", "")); status != http.StatusForbidden {
		t.Errorf("a denied host: got %d", status)
	}
	r.Close(r.key)
	if status, _ := r.answerTo(t, connectRequest("example.com:443", r.auth())); status != http.StatusProxyAuthRequired {
		t.Errorf("after the end: got %d", status)
	}
}

func TestTheEndOfASessionClosesItsTunnelsAndNoOthers(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{})
	c, b := r.connect(t, "example.com:443")
	mine := r.key
	r.key = egress.Key{Session: "s1", Attempt: 3}
	r.Open(r.key, egress.Session{Policy: r.policy})
	other, otherB := r.connect(t, "example.com:443")
	r.Close(mine)
	r.Close(mine)
	if n, err := b.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the tunnel goes on: %d, %v", n, err)
	}
	c.Close()
	if rec := r.record(t); rec.Key != mine || rec.Open {
		t.Errorf("recorded %+v", rec)
	}
	ping(t, other, otherB)
}

func TestAnAttemptThatIsOpenStaysAsItIsUnderAnEqualPolicy(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{DenyOut: []string{"Example.org."}})
	c, b := r.connect(t, "example.com:443")
	same, err := policy.New(policy.Spec{DenyOut: []string{"example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Open(r.key, egress.Session{Policy: same})
	ping(t, c, b)
	other, err := policy.New(policy.Spec{DenyOut: []string{"example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Open(r.key, egress.Session{Policy: other})
	if n, err := b.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the tunnel goes on under another policy: %d, %v", n, err)
	}
}

func TestACredentialIsHeldUntilItsAttemptIsOpen(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{OpenWait: patience}, policy.Spec{})
	auth := r.auth()
	r.Close(r.key)
	_, b := r.send(t, connectRequest("example.com:443", auth))
	r.Open(egress.Key{Session: "another", Attempt: 1}, egress.Session{Policy: r.policy})
	r.Open(r.key, egress.Session{Policy: r.policy})
	resp, err := http.ReadResponse(b, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("got %v, %v", resp, err)
	}
	if status, _ := r.answerTo(t, connectRequest("example.com:443", "")); status != http.StatusProxyAuthRequired {
		t.Errorf("without a credential: got %d", status)
	}
}

func ping(t *testing.T, c net.Conn, b *bufio.Reader) {
	t.Helper()
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := b.ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestTheEndOfASessionEndsARequestThatIsStillAnswered(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: serveConns(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		_, _ = io.Copy(io.Discard, c)
	})}, egress.Options{}, policy.Spec{})
	_, b := r.send(t, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+"\r\n")
	resp, err := http.ReadResponse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
		t.Fatalf("nothing is streamed: %v", err)
	}
	r.Close(r.key)
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the body ended well")
	}
	if rec := r.record(t); rec.Open || rec.Method != http.MethodGet {
		t.Errorf("recorded %+v", rec)
	}
}

func TestAnAttemptHasSoManyConnectionsAndNoMore(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{MaxTunnels: 3}, policy.Spec{})
	var open []net.Conn
	for range 3 {
		c, b := r.connect(t, "example.com:443")
		ping(t, c, b)
		open = append(open, c)
	}
	for range 50 {
		if status, said := r.answerTo(t, connectRequest("example.com:443", r.auth())); status != http.StatusTooManyRequests || said.Code != "egress_busy" {
			t.Fatalf("got %d %+v", status, said)
		}
	}
	if got := r.Stats(); got.Open != 3 {
		t.Errorf("counted %+v", got)
	}
	open[0].Close()
	r.record(t)
	for { // its place is free a moment after it was recorded
		if status, _ := r.answerTo(t, connectRequest("example.com:443", r.auth())); status == http.StatusOK {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("its place stays taken")
		}
	}
}

func TestSilenceEndsATunnelAndAnEndlessBody(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: serveConns(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })}, egress.Options{IdleTimeout: 300 * time.Millisecond}, policy.Spec{})
	_, b := r.connect(t, "example.com:443")
	if _, err := b.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the tunnel goes on: %v", err)
	}
	r.record(t)
	_, b = r.send(t, "POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
	if _, err := io.ReadAll(b); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the request goes on: %v", err)
	}
	if rec := r.record(t); rec.Open {
		t.Errorf("recorded %+v", rec)
	}
}

func TestATunnelThatIsUsedOutlivesTheIdleTime(t *testing.T) {
	t.Parallel()
	const idle = time.Second
	r := start(t, &world{upstream: echo(t)}, egress.Options{IdleTimeout: idle}, policy.Spec{})
	c, b := r.connect(t, "example.com:443")
	tick := time.NewTicker(idle / 20)
	defer tick.Stop()
	for range 30 {
		ping(t, c, b)
		<-tick.C
	}
}

func TestAHeadThatDoesNotEndIsCutOff(t *testing.T) {
	t.Parallel()
	r := start(t, &world{}, egress.Options{HeadTimeout: 200 * time.Millisecond}, policy.Spec{})
	_, b := r.send(t, "CONNECT example.com:443 HTTP/1.1\r\nHost: exam")
	if got, err := io.ReadAll(b); err != nil && !strings.Contains(err.Error(), "reset") || len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}
	for _, size := range []int{64 << 10, 1 << 20} {
		c, b := r.send(t, "GET http://example.com/ HTTP/1.1\r\n")
		_, _ = io.WriteString(c, "X: "+strings.Repeat("a", size)+"\r\n\r\n") // the proxy may end it before all is written
		resp, err := http.ReadResponse(b, nil)
		if err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%d bytes: %v, %v", size, resp, err)
		}
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{MaxConns: 1}, policy.Spec{})
	c, b := r.connect(t, "example.com:443")
	ping(t, c, b)
	_, waiting := r.send(t, connectRequest("example.com:443", r.auth()))
	ping(t, c, b)
	if waiting.Buffered() > 0 {
		t.Error("a second connection is served")
	}
	c.Close()
	if resp, err := http.ReadResponse(waiting, &http.Request{Method: http.MethodConnect}); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestDecisionsAreKeptAndReported(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{DenyOut: []string{"*.example.org"}})
	r.answerTo(t, connectRequest("www.example.org:443", r.auth()))
	r.answerTo(t, connectRequest("unknown.example:443", r.auth()))
	c, b := r.connect(t, "example.com:443")
	ping(t, c, b)
	list := r.Recent(r.key)
	if len(list) != 3 {
		t.Fatalf("%d are kept", len(list))
	}
	denied, unresolved, open := list[0], list[1], list[2]
	if !denied.Denied() || denied.Decision.Rule != policy.RuleDenyOut || denied.Decision.Entry != "*.example.org" || denied.Method != "CONNECT" || denied.Open {
		t.Errorf("denied: %+v", denied)
	}
	if unresolved.Failure != egress.FailureUnresolved || unresolved.Denied() {
		t.Errorf("unresolved: %+v", unresolved)
	}
	if !open.Open || open.Sent != 5 || open.Received != 5 || open.Denied() || time.Since(open.Time) > patience {
		t.Errorf("open: %+v", open)
	}
	if first := r.record(t); first.Host != "www.example.org" {
		t.Errorf("reported %+v", first)
	}
	for i := range 300 {
		r.answerTo(t, connectRequest(fmt.Sprintf("h%d.example.org:443", i), r.auth()))
	}
	list = r.Recent(r.key)
	if len(list) != 256 || list[0].Host != "h44.example.org" || list[255].Host != "h299.example.org" {
		t.Errorf("%d are kept, %s to %s", len(list), list[0].Host, list[len(list)-1].Host)
	}
	if got := r.Stats(); got.Denied != 301 || got.Failed != 1 || got.Allowed != 1 {
		t.Errorf("counted %+v", got)
	}
	if r.Recent(egress.Key{Session: "s2"}) != nil {
		t.Error("a session that is not open has decisions")
	}
}

func TestIndexesCloseWhenRequirementsAreInstalled(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{AllowOut: []string{"example.net"}, Indexes: []string{"example.com"}})
	r.Open(r.key, egress.Session{Policy: r.policy, Installing: true})
	if status, _ := r.answerTo(t, connectRequest("example.com:443", r.auth())); status != http.StatusOK {
		t.Errorf("while installing: %d", status)
	}
	r.Installed(r.key)
	r.Installed(egress.Key{})
	if status, _ := r.answerTo(t, connectRequest("example.com:443", r.auth())); status != http.StatusForbidden {
		t.Errorf("afterwards: %d", status)
	}
}

func TestStopEndsWhatRunsAndNothingIsServedAfterwards(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{})
	c, b := r.connect(t, "example.com:443")
	ping(t, c, b)
	r.send(t, "CONNECT")
	r.Stop()
	r.Stop()
	if _, err := b.ReadByte(); err == nil {
		t.Error("the tunnel goes on")
	}
	if err := r.Serve(listen(t)); !errors.Is(err, egress.ErrStopped) {
		t.Errorf("serve: %v", err)
	}
}
