// Package egress is the way out of a sandbox: a forward proxy that lets pass what a policy allows and says why it refuses the rest.
// It owns credentials, name resolution, pinned connections and the record of decisions. What is allowed is decided by package
// policy; which sessions there are, the server says.
//
// A connection carries one request: CONNECT, an http:// URL, or one that is upgraded to a WebSocket. Its head is read here, in the
// one way that every implementation reads it or not at all; then the credential, the policy and the addresses are checked, and the
// one address that was checked is dialed. Each connection has a goroutine, which its tunnel doubles; Stop waits for all of them.
package egress

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

// Options of a Proxy. The zero value of each is usable; without Key only listeners of one session serve anybody.
type Options struct {
	Key      ed25519.PublicKey          // of whoever signs credentials
	Keys     func() []ed25519.PublicKey // of all who do, if there are several or they change; default: Key
	Resolver Resolver                   // default: SystemResolver
	Dial     Dialer                     // default: DialPinned
	// Report gets every decision once, when the connection has ended or was refused. It must not block.
	Report      func(Record)
	Opened      func(Record) // gets those that led to a connection, as soon as it is made; nor must it
	Now         func() time.Time
	HeadTimeout time.Duration // for a request's head, and for the first message of TLS; default 10 s
	IdleTimeout time.Duration // without a byte in either direction; default 15 min, as a model may think that long
	MaxConns    int           // on all listeners; further ones wait; default 16384
	MaxTunnels  int           // of one attempt at once; further ones are refused; default 1024
	OpenWait    time.Duration // a signed credential of an attempt that is not open yet is held for so long; default 0
}

// Proxy serves any number of sessions.
type Proxy struct {
	o      Options
	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	slots  chan struct{} // one per connection
	plain  *http.Server  // takes requests that are not CONNECT, after they were let pass
	handed chan net.Conn // to plain
	wg     sync.WaitGroup
	stats  counters

	mu        sync.Mutex // guards what follows
	sessions  map[Key]*session
	opened    chan struct{} // closed and replaced by each Open
	listeners map[net.Listener]struct{}
	stopped   bool
}

const drainPause = 50 * time.Millisecond

// ErrStopped is returned by Serve after Stop.
var ErrStopped = errors.New("egress: stopped")

// New returns a proxy without sessions. Stop must be called.
func New(o Options) *Proxy {
	orDefault(&o.HeadTimeout, 10*time.Second)
	orDefault(&o.IdleTimeout, 15*time.Minute)
	orDefault(&o.MaxConns, 16384)
	orDefault(&o.MaxTunnels, 1024)
	if o.Resolver == nil {
		o.Resolver = SystemResolver{}
	}
	if o.Dial == nil {
		o.Dial = DialPinned
	}
	if o.Report == nil {
		o.Report = func(Record) {}
	}
	if o.Opened == nil {
		o.Opened = func(Record) {}
	}
	if o.Keys == nil {
		o.Keys = func() []ed25519.PublicKey { return []ed25519.PublicKey{o.Key} }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Proxy{
		o: o, slots: make(chan struct{}, o.MaxConns), handed: make(chan net.Conn),
		sessions: map[Key]*session{}, opened: make(chan struct{}), listeners: map[net.Listener]struct{}{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.startPlain()
	return p
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Session is what an attempt may do.
type Session struct {
	Policy     *policy.Policy
	Source     netip.Addr // where its connections come from; the zero value: anywhere
	Installing bool       // requirements are being installed
}

// Open lets an attempt through. What is open under the key with an equal policy and source stays open with its connections;
// anything else is replaced, and its connections are closed.
func (p *Proxy) Open(key Key, s Session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.sessions[key]; old != nil {
		if old.policy.Hash() == s.Policy.Hash() && old.source == s.Source.Unmap() {
			old.installing.Store(s.Installing)
			return
		}
		old.cancel()
	}
	p.sessions[key] = newSession(p.ctx, key, s, p.o.MaxTunnels)
	close(p.opened)
	p.opened = make(chan struct{})
}

// Close ends an attempt: its connections are closed, and further ones refused. It is idempotent.
func (p *Proxy) Close(key Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sessions[key]; s != nil {
		s.cancel()
		delete(p.sessions, key)
	}
}

// Installed says that the requirements of an attempt are installed: package indexes are closed.
func (p *Proxy) Installed(key Key) {
	if s := p.session(key); s != nil {
		s.installing.Store(false)
	}
}

// Recent returns the last decisions on an open attempt, oldest first, at most 256.
func (p *Proxy) Recent(key Key) []Record {
	if s := p.session(key); s != nil {
		return s.recent()
	}
	return nil
}

func (p *Proxy) session(key Key) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[key]
}

// await returns the session of a key under a policy, and waits for it as long as it may be about to be opened: a platform that has
// just started opens one attempt after the other, and their sandboxes do not wait for it.
func (p *Proxy) await(key Key, hash string) *session {
	var late <-chan time.Time
	for {
		p.mu.Lock()
		s, opened := p.sessions[key], p.opened
		p.mu.Unlock()
		if s != nil && s.policy.Hash() == hash {
			return s
		}
		if p.o.OpenWait <= 0 {
			return nil
		}
		if late == nil {
			t := time.NewTimer(p.o.OpenWait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-opened:
		case <-late:
			return nil
		case <-p.ctx.Done():
			return nil
		}
	}
}

// Serve accepts connections, which show a credential, until Stop or until the listener fails. It closes the listener.
func (p *Proxy) Serve(l net.Listener) error { return p.serve(l, nil) }

// ServeSession is Serve for a listener that only one attempt can reach: being able to connect is the credential.
func (p *Proxy) ServeSession(l net.Listener, key Key) error { return p.serve(l, &key) }

func (p *Proxy) serve(l net.Listener, bound *Key) error {
	defer l.Close()
	if !p.track(l) {
		return ErrStopped
	}
	defer p.wg.Done()
	defer p.untrack(l)
	for {
		select {
		case p.slots <- struct{}{}:
		case <-p.ctx.Done():
			return ErrStopped
		}
		c, err := l.Accept()
		if err != nil {
			<-p.slots
			if p.ctx.Err() != nil {
				return ErrStopped
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			p.pause()
			continue
		}
		p.wg.Go(func() {
			defer func() { <-p.slots }()
			p.handle(c, bound)
		})
	}
}

// pause waits until a shortage that Accept reports may have passed.
func (p *Proxy) pause() {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.ctx.Done():
	}
}

func (p *Proxy) track(l net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	p.listeners[l] = struct{}{}
	p.wg.Add(1)
	return true
}

func (p *Proxy) untrack(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

// Drain closes listeners and waits until no connection is left, or ctx ends. Sessions still close theirs meanwhile.
func (p *Proxy) Drain(ctx context.Context) {
	p.mu.Lock()
	for l := range p.listeners {
		l.Close()
	}
	p.mu.Unlock()
	tick := time.NewTicker(drainPause)
	defer tick.Stop()
	for len(p.slots) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Stop closes listeners and connections and waits until nothing runs any more. It is idempotent.
func (p *Proxy) Stop() {
	p.cancel()
	p.mu.Lock()
	p.stopped = true
	for l := range p.listeners {
		l.Close()
	}
	p.mu.Unlock()
	p.plain.Close()
	p.wg.Wait()
}
