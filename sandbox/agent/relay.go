package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	relayConns   = 1024     // served at once; further ones wait
	relayHead    = 64 << 10 // bytes of a request's head, as the proxy has it
	relayPause   = 50 * time.Millisecond
	relayPatient = 20 * time.Second // for a proxy that starts again together with the platform
	headWithin   = 30 * time.Second // for a tool to say what it wants
	answerWithin = 30 * time.Second // for the proxy to take a head
)

// relay is the proxy that tools in the sandbox use. It decides nothing: it adds the credential, which no tool has, to each request
// and passes it on to the platform's proxy, which does. One goroutine for each listener accepts, one for each connection carries
// it, with one more while bytes go both ways; close ends them all.
type relay struct {
	proxy      atomic.Pointer[string] // host:port, or unix: and a path
	credential atomic.Pointer[string]
	addr       string
	direct     []string // hosts that tools reach without it
	patience   time.Duration

	route, routeSocket string // as in Config

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	slots  chan struct{} // one per connection
	wg     sync.WaitGroup
	ends   []net.Listener
}

// openRelay listens on loopback. Mirrors are served only where the sandbox has a loopback of its own.
func openRelay(e sandboxd.Egress, c Config) (*relay, error) {
	r := &relay{direct: e.Direct, route: c.Route, routeSocket: c.RouteSocket, patience: relayPatient, slots: make(chan struct{}, relayConns)}
	r.proxy.Store(&e.Proxy)
	r.credential.Store(&e.Credential)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	l, err := r.listen("127.0.0.1:0", r.pass)
	if err != nil {
		r.close()
		return nil, fmt.Errorf("open the proxy of the sandbox: %w", err)
	}
	r.addr = l.Addr().String()
	if !c.OwnNetwork {
		return r, nil
	}
	for _, target := range e.Mirrors {
		if err := r.mirror(target); err != nil {
			r.close()
			return nil, fmt.Errorf("listen in the place of %s: %w", target, err)
		}
	}
	return r, nil
}

// mirror listens where a host of the platform's loopback is, on every address that its name has here.
func (r *relay) mirror(target string) error {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return err
	}
	addrs := []string{host}
	if net.ParseIP(host) == nil {
		addrs = []string{"127.0.0.1", "::1"}
	}
	var listened bool
	var failed error
	for _, a := range addrs {
		_, err := r.listen(net.JoinHostPort(a, port), func(c net.Conn) { r.tunnel(c, target) })
		listened = listened || err == nil
		failed = errors.Join(failed, err)
	}
	if listened {
		return nil // a machine may have one of the two only
	}
	return failed
}

func (r *relay) listen(addr string, serve func(net.Conn)) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(r.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	r.ends = append(r.ends, l)
	r.wg.Go(func() { r.accept(l, serve) })
	return l, nil
}

func (r *relay) accept(l net.Listener, serve func(net.Conn)) {
	for {
		select {
		case r.slots <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		c, err := l.Accept()
		if err != nil {
			<-r.slots
			if r.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !r.pause() {
				return
			}
			continue
		}
		r.wg.Go(func() {
			defer func() { <-r.slots }()
			defer c.Close()
			defer context.AfterFunc(r.ctx, func() { c.Close() })()
			serve(c)
		})
	}
}

func (r *relay) pause() bool {
	t := time.NewTimer(relayPause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

func (r *relay) close() {
	r.cancel()
	for _, l := range r.ends {
		_ = l.Close()
	}
	r.wg.Wait()
}

func (r *relay) url() string { return "http://" + r.addr }

// renew makes further connections show another credential, and go to another proxy if it is not nil.
func (r *relay) renew(credential string, proxy *string) {
	r.credential.Store(&credential)
	if proxy != nil {
		r.proxy.Store(proxy)
	}
}

// pass serves a tool: its head goes on with the credential in it, and everything after that as it comes.
func (r *relay) pass(c net.Conn) {
	if c.SetReadDeadline(time.Now().Add(headWithin)) != nil {
		return
	}
	head, rest, err := splitHead(c)
	if err != nil || c.SetReadDeadline(time.Time{}) != nil {
		return
	}
	if r.passRoute(c, head, rest) {
		return
	}
	up, err := r.dial()
	if err != nil {
		relayRefusal(c)
		return
	}
	defer up.Close()
	defer context.AfterFunc(r.ctx, func() { up.Close() })()
	if r.send(up, append(withCredential(head, *r.credential.Load()), rest...)) == nil {
		join(c, up)
	}
}

// tunnel serves a tool that knows of no proxy: its connection goes to the one host that it took this for.
func (r *relay) tunnel(c net.Conn, target string) {
	if up := r.dialRoute(target); up != nil {
		r.carry(c, up, nil)
		return
	}
	up, err := r.dial()
	if err != nil {
		return
	}
	defer up.Close()
	defer context.AfterFunc(r.ctx, func() { up.Close() })()
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\nProxy-Authorization: Bearer " + *r.credential.Load() + "\r\n\r\n"
	if r.send(up, []byte(request)) != nil || up.SetReadDeadline(time.Now().Add(relayPatient+answerWithin)) != nil {
		return
	}
	head, rest, err := splitHead(up)
	if err != nil || !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || up.SetReadDeadline(time.Time{}) != nil {
		return
	}
	if _, err := c.Write(rest); err == nil {
		join(c, up)
	}
}

func (r *relay) send(up net.Conn, b []byte) error {
	if err := up.SetWriteDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if _, err := up.Write(b); err != nil {
		return err
	}
	return up.SetWriteDeadline(time.Time{})
}

// dial connects to the platform's proxy, and waits a while for one that does not listen yet.
func (r *relay) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.patience)
	defer cancel()
	for {
		c, err := r.dialOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		t := time.NewTimer(relayPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
	}
}

func (r *relay) dialOnce(ctx context.Context) (net.Conn, error) {
	proxy := *r.proxy.Load()
	if path, unix := strings.CutPrefix(proxy, "unix:"); unix {
		return dialPath(ctx, path)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", proxy)
}

func dialPath(ctx context.Context, path string) (net.Conn, error) {
	// Through the open directory, because a path may be longer than an address can be.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return (&net.Dialer{}).DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(dir.Fd()))+"/"+filepath.Base(path))
}

// splitHead reads a head, up to its empty line, and what came with it.
func splitHead(c io.Reader) (head, rest []byte, err error) {
	buf := make([]byte, 0, 2<<10)
	for {
		if len(buf) == cap(buf) {
			if len(buf) >= relayHead {
				return nil, nil, errors.New("head is too long")
			}
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		from := max(0, len(buf)-3)
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if i := bytes.Index(buf[from:], []byte("\r\n\r\n")); i >= 0 {
			end := from + i + 4
			return buf[:end:end], buf[end:], nil
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// withCredential returns a head with the credential, and without any that a tool may have brought. Whatever else is odd about it is
// for the proxy to refuse.
func withCredential(head []byte, credential string) []byte {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	out := append(append(make([]byte, 0, len(head)+len(credential)+64), line...), "\r\nProxy-Authorization: Bearer "...)
	out = append(append(out, credential...), "\r\n"...)
	const own = "proxy-authorization"
	for len(fields) > 0 {
		field, more, _ := bytes.Cut(fields, []byte("\r\n"))
		if name, _, _ := bytes.Cut(field, []byte(":")); !strings.EqualFold(string(bytes.TrimSpace(name)), own) {
			out = append(append(out, field...), "\r\n"...)
		}
		fields = more
	}
	return out
}

func relayRefusal(c net.Conn) {
	body, err := json.Marshal(map[string]string{"error": "the way out of the sandbox does not answer", "code": "egress_unavailable"})
	if err != nil || c.SetWriteDeadline(time.Now().Add(answerWithin)) != nil {
		return
	}
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		http.StatusBadGateway, http.StatusText(http.StatusBadGateway), len(body), body) // its reader may be gone
}

// join carries bytes both ways until both directions have ended, or one failed.
func join(a, b net.Conn) {
	var back sync.WaitGroup
	carry := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); err != nil || !ok || half.CloseWrite() != nil {
			_ = a.Close()
			_ = b.Close()
		}
	}
	back.Go(func() { carry(a, b) })
	carry(b, a)
	back.Wait()
}
