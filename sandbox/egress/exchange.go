package egress

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

const connectTimeout = 30 * time.Second // to resolve a name and connect to one of its addresses

// handle serves the one request of a connection.
func (p *Proxy) handle(c net.Conn, bound *Key) {
	defer c.Close()
	defer context.AfterFunc(p.ctx, func() { c.Close() })()
	if c.SetReadDeadline(time.Now().Add(p.o.HeadTimeout)) != nil {
		return
	}
	h, err := readHead(c)
	if isRefusal(err) {
		p.stats.invalid.Add(1)
		refuse(c, answer{Status: 400, Code: "egress_invalid", Error: err.Error()})
		return
	}
	if err != nil || c.SetReadDeadline(time.Time{}) != nil {
		return
	}
	s := p.identify(c, h, bound)
	if s == nil {
		p.stats.refused.Add(1)
		refuse(c, answer{Status: 407, Code: "egress_unauthorized", Error: "no valid credential"})
		return
	}
	if !s.acquire() {
		p.stats.refused.Add(1)
		refuse(c, answer{Status: 429, Code: "egress_busy", Error: "too many connections of this session are open"})
		return
	}
	defer s.release()
	p.serveRequest(c, s, h)
}

// identify returns the session that a connection belongs to, or nil.
func (p *Proxy) identify(c net.Conn, h *head, bound *Key) *session {
	if bound != nil {
		return p.session(*bound)
	}
	claims, ok := p.open(h.credential)
	if !ok {
		return nil
	}
	s := p.await(claims.Key, claims.Policy)
	if s == nil {
		return nil
	}
	if s.source.IsValid() {
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || from.Addr().Unmap() != s.source {
			return nil
		}
	}
	return s
}

// open returns the claims of a credential that one of the keys signed.
func (p *Proxy) open(credential string) (Claims, bool) {
	for _, key := range p.o.Keys() {
		if claims, err := OpenCredential(key, credential, p.o.Now()); err == nil {
			return claims, true
		}
	}
	return Claims{}, false
}

// serveRequest decides, connects and carries bytes until either side, the session or the proxy ends.
func (p *Proxy) serveRequest(c net.Conn, s *session, h *head) {
	x := &exchange{started: time.Now()}
	x.record = Record{ID: p.stats.last.Add(1), Key: s.key, Time: p.o.Now(), Method: h.method, Host: h.host.String(), Port: h.port, Open: true}
	s.add(x)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	up, no := p.connect(ctx, s, h, x)
	if up == nil {
		p.finish(x)
		refuse(c, no)
		return
	}
	defer p.finish(x)
	defer up.Close()
	defer context.AfterFunc(ctx, func() { up.Close() })()
	defer p.watch(x, cancel)()
	p.o.Opened(x.snapshot())
	p.stats.open.Add(1)
	defer p.stats.open.Add(-1)
	if h.connect {
		p.tunnel(c, up, h, x)
		return
	}
	p.forward(ctx, c, up, h, x)
}

// connect returns a connection to an address that was checked, or nil and what the client is to be told.
func (p *Proxy) connect(ctx context.Context, s *session, h *head, x *exchange) (net.Conn, answer) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	d, addrs, err := p.decide(ctx, s, h)
	x.update(func(r *Record) { r.Decision = d })
	if err != nil {
		return nil, p.fail(h, x, FailureUnresolved, "the name could not be resolved")
	}
	if !d.Allowed {
		p.stats.denied.Add(1)
		return nil, denial(h, d)
	}
	p.stats.allowed.Add(1)
	if d.Observe {
		p.stats.observed.Add(1)
	}
	up, addr, err := dialAny(ctx, p.o.Dial, addrs, h.port)
	if err != nil {
		return nil, p.fail(h, x, FailureUnreachable, "the host could not be connected to")
	}
	x.update(func(r *Record) { r.Addr = addr })
	return up, answer{}
}

// decide asks the policy, before the name is resolved if that is enough to deny it. The addresses are those that the decision
// was about.
func (p *Proxy) decide(ctx context.Context, s *session, h *head) (policy.Decision, []netip.Addr, error) {
	a := policy.Attempt{Host: h.host, Port: h.port, Installing: s.installing.Load()}
	early, certain := s.policy.Foresee(a)
	if certain && !early.Allowed {
		return early, nil, nil
	}
	if addr, literal := h.host.Addr(); literal {
		a.Addrs = []netip.Addr{addr}
	} else {
		search := certain && early.Rule == policy.RulePlatform
		answer, err := p.o.Resolver.Resolve(ctx, h.host.Name(), search)
		if err != nil {
			return policy.Decision{}, nil, err
		}
		a.Addrs, a.Names = answer.Addrs, answer.Names
	}
	return s.policy.Decide(a), a.Addrs, nil
}

func (p *Proxy) fail(h *head, x *exchange, failure, message string) answer {
	p.stats.failed.Add(1)
	x.update(func(r *Record) { r.Failure = failure })
	return answer{Status: 502, Code: "egress_" + failure, Error: message, Host: h.host.String()}
}

// finish closes the record and reports it.
func (p *Proxy) finish(x *exchange) {
	x.update(func(r *Record) { r.Open = false })
	r := x.snapshot()
	p.stats.sent.Add(r.Sent)
	p.stats.received.Add(r.Received)
	p.o.Report(r)
}

// watch calls cancel when no byte has passed for the idle time. The function that it returns ends the watch.
func (p *Proxy) watch(x *exchange, cancel context.CancelFunc) (stop func()) {
	x.touch()
	var (
		mu sync.Mutex // guards t
		t  *time.Timer
	)
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(p.o.IdleTimeout, func() {
		mu.Lock()
		defer mu.Unlock()
		if left := p.o.IdleTimeout - x.idle(); left > 0 {
			t.Reset(left)
			return
		}
		cancel()
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		t.Stop()
	}
}
