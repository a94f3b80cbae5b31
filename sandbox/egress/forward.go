package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
)

// A request that is not CONNECT goes through the HTTP server and the reverse proxy of the standard library once it was let pass.
// They get a connection that carries this one request, and a transport that has this one connection to the host.

type outgoingKey struct{}

// incoming is a client's connection that gives its head once more and then goes on.
type incoming struct {
	net.Conn
	r         io.Reader
	ctx       context.Context // ends with the exchange; the request is served under it
	transport http.RoundTripper
	closed    chan struct{}
	once      sync.Once
}

func (c *incoming) Read(b []byte) (int, error) { return c.r.Read(b) }

func (c *incoming) CloseWrite() error { return closeWrite(c.Conn) }

func (c *incoming) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// counted is a connection to a host. It is not read before something was written: what a host says unasked would be no answer, and
// the transport would put it into the log.
type counted struct {
	net.Conn
	x     *exchange
	asked chan struct{}
	once  sync.Once
}

func (c *counted) Read(b []byte) (int, error) {
	<-c.asked
	n, err := c.Conn.Read(b)
	c.x.received.Add(int64(n))
	c.x.touch()
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	c.once.Do(func() { close(c.asked) })
	n, err := c.Conn.Write(b)
	c.x.sent.Add(int64(n))
	c.x.touch()
	return n, err
}

func (c *counted) Close() error {
	c.once.Do(func() { close(c.asked) })
	return c.Conn.Close()
}

// forward serves the request and returns when its connection is closed.
func (p *Proxy) forward(ctx context.Context, c, up net.Conn, h *head, x *exchange) {
	in := &incoming{
		Conn: c, r: io.MultiReader(bytes.NewReader(h.raw), bytes.NewReader(h.rest), c), ctx: ctx,
		transport: transport(&counted{Conn: up, x: x, asked: make(chan struct{})}), closed: make(chan struct{}),
	}
	select {
	case p.handed <- in:
	case <-ctx.Done():
		return
	}
	select {
	case <-in.closed:
	case <-ctx.Done():
		in.Close()
	}
}

var errUsed = errors.New("egress: one connection for one request")

// transport has one connection and makes no other.
func transport(up net.Conn) http.RoundTripper {
	var used atomic.Bool
	return &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errUsed
			}
			return up, nil
		},
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHead,
	}
}

// startPlain starts the HTTP server that takes what forward hands over.
func (p *Proxy) startPlain() {
	discard := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	reverse := &httputil.ReverseProxy{
		Rewrite: rewrite, FlushInterval: -1, ErrorLog: discard, BufferPool: pool{},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return r.Context().Value(outgoingKey{}).(*incoming).transport.RoundTrip(r)
		}),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.plain = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(r.Context().Value(outgoingKey{}).(*incoming).ctx, cancel)()
			reverse.ServeHTTP(w, r.WithContext(ctx))
		}),
		MaxHeaderBytes: maxHead, ErrorLog: discard, ReadHeaderTimeout: p.o.HeadTimeout,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, outgoingKey{}, c) },
	}
	p.plain.SetKeepAlivesEnabled(false)
	p.wg.Go(func() { _ = p.plain.Serve(handover{p}) }) // ends with Stop only
}

// rewrite undoes what the reverse proxy does to queries that it finds odd, and leaves the answer to Expect to the server, which
// gives it as soon as the body is read.
func rewrite(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.Out.Header.Del("Expect")
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type pool struct{}

func (pool) Get() []byte  { return *buffers.Get().(*[]byte) }
func (pool) Put(b []byte) { buffers.Put(&b) }

// handover is the listener of connections that were let pass.
type handover struct{ p *Proxy }

func (h handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.p.handed:
		return c, nil
	case <-h.p.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (h handover) Close() error   { return nil }
func (h handover) Addr() net.Addr { return &net.TCPAddr{} }
