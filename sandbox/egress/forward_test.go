package egress_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// upstream serves HTTP for every address.
func upstream(t testing.TB, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestARequestArrivesAsItWasMeantAndWithoutTheCredential(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	r := start(t, &world{upstream: upstream(t, func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true)
		got <- string(dump)
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})}, egress.Options{}, policy.Spec{})
	_, b := r.send(t, "PUT http://example.com/a%2Fb?q=1;2&%7e HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+
		"Authorization: Bearer upstream\r\nCookie: a=b\r\nProxy-Connection: keep-alive\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 10.0.0.1\r\nContent-Length: 4\r\n\r\nbody")
	resp, err := http.ReadResponse(b, nil)
	if err != nil || resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Answer") != "yes" {
		t.Fatalf("%v, %v", resp, err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "short and stout" {
		t.Errorf("got %q, %v", body, err)
	}
	dump := <-got
	for _, want := range []string{"PUT /a%2Fb?q=1;2&%7e HTTP/1.1\r\n", "Host: example.com\r\n", "Authorization: Bearer upstream\r\n", "Cookie: a=b\r\n", "\r\n\r\nbody"} {
		if !strings.Contains(dump, want) {
			t.Errorf("%q is missing in %s", want, dump)
		}
	}
	for _, leak := range []string{"Proxy-", "X-Hop", "X-Forwarded", "Via", "Accept-Encoding"} {
		if strings.Contains(dump, leak) {
			t.Errorf("%s arrived: %s", leak, dump)
		}
	}
	if rec := r.record(t); rec.Method != "PUT" || rec.Sent == 0 || rec.Received == 0 || rec.Failure != "" {
		t.Errorf("recorded %+v", rec)
	}
}

func TestAConnectionCarriesOneRequestOnly(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: noContent(t)}, egress.Options{}, policy.Spec{DenyOut: []string{"denied.example"}})
	one := "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n" + r.auth() + "\r\n"
	_, b := r.send(t, one+strings.ReplaceAll(one, "example.com", "denied.example")+one)
	resp, err := http.ReadResponse(b, nil)
	if err != nil || resp.StatusCode != http.StatusNoContent || !resp.Close {
		t.Fatalf("%v, %v", resp, err)
	}
	if rest, _ := io.ReadAll(b); len(rest) > 0 {
		t.Errorf("more than one answer: %q", rest)
	}
	if _, dialed := r.world.seen(); len(dialed) != 1 {
		t.Errorf("dialed %v", dialed)
	}
}

func TestBodiesStreamInBothDirections(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: upstream(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = io.WriteString(w, "data: "+lines.Text()+"\n")
			_ = c.Flush()
		}
	})}, egress.Options{}, policy.Spec{})
	// The server of the standard library reads a body's rest before it answers, unless told otherwise: so the first line is sent
	// with the head, and the second after the first was answered.
	c, b := r.send(t, "POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+"Transfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
	resp, err := http.ReadResponse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "data: one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := io.WriteString(c, "4\r\ntwo\n\r\n0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "data: two\n" {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestAClientThatWaitsForContinueGetsIt(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: upstream(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}, egress.Options{}, policy.Spec{})
	c, b := r.send(t, "POST http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	if line, err := b.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := b.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hi"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hi" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestAWebSocketGoesThroughAnUpgrade(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: upstream(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, data) != nil {
				return
			}
		}
	})}, egress.Options{}, policy.Spec{DenyOut: []string{"denied.example"}})
	client := &http.Client{Transport: credentials{r.auth(), &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(proxyURL(r.addr))}}}
	c, _, err := websocket.Dial(t.Context(), "ws://example.com/socket", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, data, err := c.Read(t.Context()); err != nil || string(data) != "hello" {
			t.Fatalf("got %q, %v", data, err)
		}
	}
	_ = c.CloseNow()
	if rec := r.record(t); rec.Sent == 0 || rec.Received == 0 {
		t.Errorf("recorded %+v", rec)
	}
	if _, resp, err := websocket.Dial(t.Context(), "ws://denied.example/", &websocket.DialOptions{HTTPClient: client}); err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a denied host: %v, %v", resp, err)
	}
}

func TestAnUpgradeThatTheHostRefusesIsNoTunnel(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	r := start(t, &world{upstream: serveConns(t, func(c net.Conn) {
		b := bufio.NewReader(c)
		if _, err := http.ReadRequest(b); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
		rest, _ := io.ReadAll(b)
		got <- string(rest)
	})}, egress.Options{}, policy.Spec{})
	_, b := r.send(t, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(b, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err)
	}
	if rest := <-got; rest != "" {
		t.Errorf("the host got %q after its refusal", rest)
	}
}

func TestAHostThatChangesItsAddressIsDialedAtTheOneThatWasChecked(t *testing.T) {
	t.Parallel()
	w := &world{upstream: noContent(t)}
	r := start(t, w, egress.Options{}, policy.Spec{})
	request := "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n" + r.auth() + "\r\n"
	for _, step := range []struct {
		addr   string
		status int
	}{{"93.184.215.14", 204}, {"127.0.0.1", 403}, {"8.8.8.8", 204}, {"169.254.169.254", 403}} {
		w.set("example.com", step.addr)
		if status, _ := r.answerTo(t, request); status != step.status {
			t.Errorf("at %s: %d", step.addr, status)
		}
	}
	asked, dialed := w.seen()
	if want := []netip.AddrPort{netip.MustParseAddrPort("93.184.215.14:80"), netip.MustParseAddrPort("8.8.8.8:80")}; len(asked) != 4 || len(dialed) != 2 || dialed[0] != want[0] || dialed[1] != want[1] {
		t.Errorf("asked %v, dialed %v: once each, and what was checked", asked, dialed)
	}
}

func TestARedirectToAnInternalAddressIsAnswered403(t *testing.T) {
	t.Parallel()
	r := start(t, &world{upstream: upstream(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
	})}, egress.Options{}, policy.Spec{})
	client := &http.Client{Transport: credentials{r.auth(), &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(proxyURL(r.addr))}}}
	resp, err := client.Get("http://example.com/")
	if err != nil || resp.StatusCode != http.StatusForbidden || resp.Request.URL.Host != "169.254.169.254" {
		t.Errorf("%v, %v", resp, err)
	}
	resp.Body.Close()
}

func TestAHostThatDoesNotAnswerIsABadGateway(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]*world{
		"refuses": {},
		"closes":  {upstream: serveConns(t, func(net.Conn) {})},
		"garbage": {upstream: serveConns(t, func(c net.Conn) { _, _ = io.WriteString(c, "\x00\x01\x02\r\n\r\n") })},
		"a head without end": {upstream: serveConns(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 200))
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, w, egress.Options{}, policy.Spec{})
			_, b := r.send(t, "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n"+r.auth()+"\r\n")
			if resp, err := http.ReadResponse(b, nil); err != nil || resp.StatusCode != http.StatusBadGateway {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
}
