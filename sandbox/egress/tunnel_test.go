package egress_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

func TestATunnelCarriesEveryByteBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{})
	c, b := r.connect(t, "example.com:443")
	data := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	data[0] = 'x' // not TLS
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(data); err != nil {
			t.Errorf("write: %v", err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	got, err := io.ReadAll(b)
	wg.Wait()
	if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
	rec := r.record(t)
	want := netip.MustParseAddr("93.184.215.14")
	if !rec.Decision.Allowed || rec.Addr != want || rec.Sent != 8<<20 || rec.Received != 8<<20 || rec.Open || rec.Host != "example.com" || rec.Port != 443 {
		t.Errorf("recorded %+v", rec)
	}
}

func TestAHostThatSpeaksFirstIsHeard(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: serveConns(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(c, c)
	})}, egress.Options{}, policy.Spec{})
	c, b := r.connect(t, "example.com:2525")
	if line, err := b.ReadString('\n'); err != nil || line != "220 ready\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := io.WriteString(c, "HELO\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := b.ReadString('\n'); err != nil || line != "HELO\r\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestBytesSentAlongWithConnectReachTheHost(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{}, policy.Spec{})
	c, b := r.send(t, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+"\r\nearly")
	resp, err := http.ReadResponse(b, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b); err != nil || string(got) != "early" {
		t.Errorf("got %q, %v", got, err)
	}
}

// secure is an HTTPS upstream for example.com, and a client that trusts it and goes through the proxy.
func secure(t *testing.T, spec policy.Spec) (*rig, *httptest.Server, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	s.EnableHTTP2, s.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return start(t, &world{upstream: s.Listener.Addr().String()}, egress.Options{}, spec), s, &tls.Config{RootCAs: roots}
}

func TestHTTP2GoesThroughATunnel(t *testing.T) {
	t.Parallel()
	r, _, config := secure(t, policy.Spec{})
	auth := http.Header{"Proxy-Authorization": {strings.TrimSpace(strings.TrimPrefix(r.auth(), "Proxy-Authorization: "))}}
	client := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: r.addr}), ProxyConnectHeader: auth, TLSClientConfig: config, ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	for range 3 {
		resp, err := client.Get("https://example.com/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "HTTP/2.0" {
			t.Errorf("got %q, %v", body, err)
		}
	}
}

func TestTLSInATunnelMustNameTheHostOfTheTunnel(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, target, sni string
		want              bool
	}{
		{"the host", "example.com:443", "example.com", true},
		{"the host in capitals", "example.com:443", "EXAMPLE.com", true},
		{"the host of a tunnel in capitals", "EXAMPLE.COM.:443", "example.com", true},
		{"another host", "example.com:443", "denied.example", false},
		{"a host below", "example.com:443", "www.example.com", false},
		{"no name for a name", "example.com:443", "", false},
		{"no name for an address", "93.184.215.14:443", "", true},
		{"a name for an address", "93.184.215.14:443", "example.com", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r, _, config := secure(t, policy.Spec{})
			config.ServerName, config.InsecureSkipVerify = tt.sni, true
			c, _ := r.connect(t, tt.target)
			s := tls.Client(c, config)
			err := s.Handshake()
			if (err == nil) != tt.want {
				t.Errorf("handshake: %v", err)
			}
			if !tt.want && (err == nil || !strings.Contains(err.Error(), "unrecognized name")) {
				t.Errorf("the client was told %v", err)
			}
			c.Close()
			if rec := r.record(t); rec.Denied() == tt.want || !tt.want && (rec.Failure != egress.FailureServerName || rec.Sent > 0) {
				t.Errorf("recorded %+v", rec)
			}
		})
	}
}

// split writes every byte on its own.
type split struct{ net.Conn }

func (s split) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// records writes the first record of TLS as records of one byte each.
type records struct {
	net.Conn
	once sync.Once
}

func (s *records) Write(b []byte) (n int, err error) {
	s.once.Do(func() {
		var out bytes.Buffer
		for _, c := range b[5:] {
			out.Write([]byte{b[0], b[1], b[2], 0, 1, c})
		}
		n = len(b)
		_, err = s.Conn.Write(out.Bytes())
	})
	if n > 0 {
		return n, err
	}
	return s.Conn.Write(b)
}

func TestAServerNameInPiecesIsReadAsOne(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"bytes":   func(c net.Conn) net.Conn { return split{c} },
		"records": func(c net.Conn) net.Conn { return &records{Conn: c} },
	} {
		for _, sni := range []string{"example.com", "denied.example"} {
			t.Run(name+" "+sni, func(t *testing.T) {
				t.Parallel()
				r, _, config := secure(t, policy.Spec{})
				config.ServerName, config.InsecureSkipVerify = sni, true
				c, _ := r.connect(t, "example.com:443")
				err := tls.Client(wrap(c), config).Handshake()
				c.Close()
				rec := r.record(t)
				if sni == "example.com" && (err != nil || rec.Denied()) || sni != "example.com" && (err == nil || !rec.Denied()) {
					t.Errorf("handshake: %v; recorded %+v", err, rec)
				}
			})
		}
	}
}

func TestWhatBeginsLikeTLSAndIsNotIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: echo(t)}, egress.Options{HeadTimeout: 200 * time.Millisecond}, policy.Spec{})
	for _, data := range []string{
		"\x16", "\x16\x03\x01\x00\x05\x01", "\x16\x03\x01\x00\x00", "\x16\x03\x01\xff\xff", "\x16\x03\x03\x00\x04\x02\x00\x00\x00", "\x16GET / HTTP/1.1\r\n\r\n", "\x16" + strings.Repeat("\x03\x01\x00\x01\x01\x16", 20000),
	} {
		c, b := r.connect(t, "example.com:443")
		_, _ = io.WriteString(c, data) // the proxy may end it before all is written
		got, _ := io.ReadAll(b)
		c.Close()
		if rec := r.record(t); rec.Failure != egress.FailureServerName || rec.Sent > 0 || len(got) > 7 {
			t.Errorf("%.10q: got %q, recorded %+v", data, got, rec)
		}
	}
}
