package egress

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// Failures of attempts that the policy did not deny, and of requests that have none.
const (
	FailureUnresolved  = "unresolved"  // the name has no address
	FailureUnreachable = "unreachable" // no address could be connected to
	FailureServerName  = "server_name" // TLS inside the tunnel is for another host, or says no name
)

// Record is one decision and what became of it.
type Record struct {
	Key
	ID       uint64 // of this proxy's decisions
	Time     time.Time
	Method   string // CONNECT or that of the request
	Host     string // canonical
	Port     uint16
	Addr     netip.Addr // connected to; the zero value if none was
	Decision policy.Decision
	Failure  string // one of the constants; empty if there is none
	Sent     int64  // bytes to the host
	Received int64  // bytes from the host
	Open     bool   // the connection is still there
}

// Denied tells whether the policy, or what a tunnel was used for, kept the attempt back.
func (r Record) Denied() bool {
	return r.Failure == FailureServerName || !r.Decision.Allowed && r.Failure == ""
}

const recentLen = 256

// session is one open attempt.
type session struct {
	key        Key
	policy     *policy.Policy
	source     netip.Addr
	installing atomic.Bool
	tunnels    chan struct{} // one per connection
	ctx        context.Context
	cancel     context.CancelFunc

	mu   sync.Mutex // guards ring, which is full once it wraps
	ring []*exchange
	next int
}

func newSession(ctx context.Context, key Key, o Session, tunnels int) *session {
	s := &session{key: key, policy: o.Policy, source: o.Source.Unmap(), tunnels: make(chan struct{}, tunnels)}
	s.installing.Store(o.Installing)
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

func (s *session) acquire() bool {
	select {
	case s.tunnels <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *session) release() { <-s.tunnels }

func (s *session) add(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ring) < recentLen {
		s.ring = append(s.ring, x)
		return
	}
	s.ring[s.next] = x
	s.next = (s.next + 1) % recentLen
}

func (s *session) recent() []Record {
	s.mu.Lock()
	list := append(append([]*exchange{}, s.ring[s.next:]...), s.ring[:s.next]...)
	s.mu.Unlock()
	out := make([]Record, len(list))
	for i, x := range list {
		out[i] = x.snapshot()
	}
	return out
}

// exchange is one request of a session and its connection to a host.
type exchange struct {
	sent, received atomic.Int64
	active         atomic.Int64 // when a byte passed last, in nanoseconds since started
	started        time.Time

	mu     sync.Mutex // guards record
	record Record
}

func (x *exchange) touch() { x.active.Store(int64(time.Since(x.started))) }

func (x *exchange) idle() time.Duration {
	return time.Since(x.started) - time.Duration(x.active.Load())
}

func (x *exchange) update(f func(r *Record)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(&x.record)
}

func (x *exchange) snapshot() Record {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := x.record
	r.Sent, r.Received = x.sent.Load(), x.received.Load()
	return r
}

// Stats counts what a proxy did since it was made.
type Stats struct {
	Allowed  int64 // attempts that were let pass
	Denied   int64 // by a policy, or by the use of a tunnel
	Observed int64 // of Allowed: those that a policy which observes would deny
	Refused  int64 // without a valid credential, or beyond a limit
	Invalid  int64 // of no acceptable form
	Failed   int64 // let pass, but not resolved or not connected
	Open     int64 // connections to hosts at this moment
	Sent     int64 // bytes to hosts, of ended connections
	Received int64 // bytes from hosts, of ended connections
}

type counters struct {
	allowed, denied, observed, refused, invalid, failed, open, sent, received atomic.Int64

	last atomic.Uint64 // ID of the last record
}

// Stats returns the counters.
func (p *Proxy) Stats() Stats {
	c := &p.stats
	return Stats{
		c.allowed.Load(), c.denied.Load(), c.observed.Load(), c.refused.Load(), c.invalid.Load(), c.failed.Load(), c.open.Load(),
		c.sent.Load(), c.received.Load(),
	}
}
