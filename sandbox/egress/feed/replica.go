package feed

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

const (
	resolveEvery  = 5 * time.Second
	resolveWithin = 4 * time.Second
	connectWithin = 10 * time.Second
	firstPause    = 100 * time.Millisecond // before a server is tried again; then twice as long each time
	lastPause     = 3 * time.Second
	openWait      = 10 * time.Second // for the word that lets an attempt through, which its sandbox may be faster than
)

// ReplicaOptions say which servers a replica is for. Servers and Secret are required.
type ReplicaOptions struct {
	Servers []string // host:port of internal listeners; a host may have any number of addresses, each of a server
	Secret  string
	Logger  *slog.Logger
	Proxy   egress.Options // of the proxy that it runs; keys and reports are the replica's own business
}

// Replica is a proxy that servers tell what to let through. Run keeps its streams: a goroutine for each server, and four more
// while it is connected.
type Replica struct {
	o     ReplicaOptions
	id    string
	proxy *egress.Proxy
	out   *outbox

	mu        sync.Mutex // guards what follows
	held      map[string]egress.Key
	keys      map[string]ed25519.PublicKey // by server
	connected map[string]bool
	ready     bool
}

// NewReplica returns a replica that lets nothing through yet. Run connects it; Stop must be called, after Run ended.
func NewReplica(o ReplicaOptions) *Replica {
	r := &Replica{
		o: o, id: strings.ToLower(rand.Text()), out: newOutbox(), held: map[string]egress.Key{}, keys: map[string]ed25519.PublicKey{},
		connected: map[string]bool{},
	}
	o.Proxy.Keys, o.Proxy.Report, o.Proxy.Opened = r.signers, r.out.add, r.out.add
	if o.Proxy.OpenWait == 0 {
		o.Proxy.OpenWait = openWait
	}
	r.proxy = egress.New(o.Proxy)
	return r
}

// Proxy is what sandboxes connect to.
func (r *Replica) Proxy() *egress.Proxy { return r.proxy }

// Stop ends the proxy with all its connections.
func (r *Replica) Stop() { r.proxy.Stop() }

// IsReady tells whether a server has ever said what to let through. It stays so when servers are away.
func (r *Replica) IsReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// Counts returns how many streams and attempts there are.
func (r *Replica) Counts() (streams, attempts int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.connected), len(r.held)
}

func (r *Replica) signers() []ed25519.PublicKey {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.keys))
}

// Run keeps a stream to each server until ctx ends.
func (r *Replica) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[string]context.CancelFunc{}
	tick := time.NewTicker(resolveEvery)
	defer tick.Stop()
	for {
		found, whole := r.resolve(ctx)
		for _, addr := range found {
			if running[addr] == nil {
				stream, cancel := context.WithCancel(ctx)
				running[addr] = cancel
				wg.Go(func() { r.keep(stream, addr) })
			}
		}
		for addr, cancel := range running {
			if whole && !slices.Contains(found, addr) && !r.isConnected(addr) {
				cancel()
				delete(running, addr)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return
		}
	}
}

// resolve returns the addresses of all servers that can be found, and whether every name was found.
func (r *Replica) resolve(ctx context.Context) (found []string, whole bool) {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	whole = true
	for _, server := range r.o.Servers {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			continue
		}
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			whole = false
			r.o.Logger.Debug("server was not found", "server", server, "err", err)
		}
		for _, a := range addrs {
			found = append(found, net.JoinHostPort(a, port))
		}
	}
	return found, whole
}

func (r *Replica) isConnected(addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected[addr]
}

// keep has a stream to one server whenever that can be had.
func (r *Replica) keep(ctx context.Context, addr string) {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.keys) > 1 { // the last one counts until another comes: servers may be away, credentials run out by themselves
			delete(r.keys, addr)
		}
	}()
	pause, said := firstPause, ""
	for ctx.Err() == nil {
		opened, err := r.stream(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		if opened {
			pause, said = firstPause, ""
		}
		if text := err.Error(); text != said { // a server that stays away is told of once
			said = text
			r.o.Logger.Warn("no stream to the server; what it let through goes on until credentials expire", "server", addr, "err", err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		pause = min(2*pause, lastPause)
	}
}

// link is one stream to a server.
type link struct {
	r    *Replica
	addr string
	c    *websocket.Conn

	mu   sync.Mutex    // guards from, again
	from uint64        // the server has decisions up to here
	lead bool          // the server wants them again, from what was told on
	wake chan struct{} // capacity 1

	policies map[string]*policy.Policy // of the reading goroutine, as stream has them
	hashes   map[string]string
	refs     map[string]int
}

func (r *Replica) dial(ctx context.Context, addr string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}                         // no proxy of the environment
	c, res, err := websocket.Dial(ctx, "ws://"+addr+Path, &websocket.DialOptions{ //nolint:bodyclose // its body is the library's business
		HTTPClient: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		HTTPHeader: http.Header{"Authorization": {"Bearer " + r.o.Secret}},
	})
	if res != nil && res.StatusCode == http.StatusUnauthorized {
		return nil, errors.New("the server has another secret")
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

// stream connects and serves a stream until it breaks. opened tells whether the server said hello.
func (r *Replica) stream(ctx context.Context, addr string) (opened bool, err error) {
	c, err := r.dial(ctx, addr)
	if err != nil {
		return false, err
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(maxMessage)
	if err := write(ctx, c, message{Type: typeHello, Protocol: protocol, Replica: r.id, Told: r.out.getTold()}); err != nil {
		return false, err
	}
	hello, err := readHello(ctx, c)
	if err != nil {
		return false, err
	}
	if hello.Protocol != protocol || len(hello.Key) != ed25519.PublicKeySize {
		return false, errMessage
	}
	l := &link{
		r: r, addr: addr, c: c, from: hello.Have, wake: make(chan struct{}, 1),
		policies: map[string]*policy.Policy{}, hashes: map[string]string{}, refs: map[string]int{},
	}
	holds := r.join(addr, hello.Key)
	defer r.leave(addr)
	r.o.Logger.Info("stream to the server opened", "server", addr)
	for part := range slices.Chunk(holds, maxHolds) {
		if err := write(ctx, c, message{Type: typeHolds, Holds: part}); err != nil {
			return true, err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.listen(ctx) })
	g.Go(func() error { return l.speak(ctx) })
	g.Go(func() error { return l.tell(ctx) })
	g.Go(func() error { return keepAlive(ctx, c) })
	return true, g.Wait()
}

func (r *Replica) join(addr string, key ed25519.PublicKey) (holds []hold) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[addr], r.connected[addr], r.ready = key, true, true
	for _, key := range r.held {
		holds = append(holds, hold{key.Session, key.Attempt})
	}
	return holds
}

func (r *Replica) leave(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.connected, addr)
}

// speak sends decisions as they come.
func (l *link) speak(ctx context.Context) error {
	for {
		l.mu.Lock()
		again := l.lead
		if again {
			l.lead, l.from = false, l.r.out.getTold()
		}
		from := l.from
		l.mu.Unlock()
		list, lost, more := l.r.out.after(from)
		if len(list) > 0 || again {
			if err := write(ctx, l.c, message{Type: typeDecisions, Records: list, Lost: lost, Again: again}); err != nil {
				return err
			}
			l.mu.Lock()
			if len(list) > 0 && !l.lead {
				l.from = list[len(list)-1].Number
			}
			l.mu.Unlock()
			continue
		}
		select {
		case <-more:
		case <-l.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell sends now and then how many bytes have passed through connections that are open.
func (l *link) tell(ctx context.Context) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	told := map[uint64]int64{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := map[uint64]int64{}
		var list []record
		for _, rec := range l.r.running() {
			now[rec.ID] = rec.Sent + rec.Received
			if now[rec.ID] == told[rec.ID] {
				continue
			}
			if len(list) == maxRecords {
				now[rec.ID] = told[rec.ID] // it has its turn next time
				continue
			}
			list = append(list, toWire(rec.ID, rec))
		}
		told = now
		if len(list) == 0 {
			continue
		}
		if err := write(ctx, l.c, message{Type: typeProgress, Records: list}); err != nil {
			return err
		}
	}
}

// running returns the last decisions whose connections are open.
func (r *Replica) running() (list []egress.Record) {
	r.mu.Lock()
	keys := slices.Collect(maps.Values(r.held))
	r.mu.Unlock()
	for _, key := range keys {
		list = append(list, slices.DeleteFunc(r.proxy.Recent(key), func(rec egress.Record) bool { return !rec.Open })...)
	}
	return list
}

// listen does what the server says.
func (l *link) listen(ctx context.Context) error {
	for {
		m, err := read(ctx, l.c)
		if err != nil {
			return err
		}
		switch m.Type {
		case typePolicy:
			l.learn(m)
		case typeOpen:
			l.open(m)
		case typeEnd:
			l.drop(m.Session)
			l.r.end(m.Session, m.Attempt)
		case typeTold:
			l.r.out.setTold(m.Told)
		case typeLead:
			l.mu.Lock()
			l.lead = true
			l.mu.Unlock()
			select {
			case l.wake <- struct{}{}:
			default:
			}
		default:
			return errMessage
		}
	}
}

// learn takes a policy if this program understands all of it: sessions that have another one are refused, and not served by half.
func (l *link) learn(m message) {
	if m.Spec == nil {
		return
	}
	p, err := policy.New(*m.Spec)
	if err == nil && p.Hash() != m.Hash {
		err = errors.New("it has another hash here")
	}
	if err != nil {
		l.r.o.Logger.Error("the server has a policy that this replica cannot enforce; its sessions are refused", "server", l.addr, "err", err)
		return
	}
	l.policies[m.Hash] = p
}

func (l *link) open(m message) {
	l.refs[m.Hash]++
	l.drop(m.Session)
	l.hashes[m.Session] = m.Hash
	p := l.policies[m.Hash]
	if p == nil {
		l.r.end(m.Session, m.Attempt)
		return
	}
	s := egress.Session{Policy: p, Installing: m.Installing}
	if m.Source != nil {
		s.Source = *m.Source
	}
	l.r.open(egress.Key{Session: m.Session, Attempt: m.Attempt}, s)
}

func (l *link) drop(session string) {
	hash, ok := l.hashes[session]
	if !ok {
		return
	}
	delete(l.hashes, session)
	if l.refs[hash]--; l.refs[hash] == 0 {
		delete(l.refs, hash)
		delete(l.policies, hash)
	}
}

// open lets an attempt through in the place of one before it. A server that is behind cannot bring that back.
func (r *Replica) open(key egress.Key, s egress.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.held[key.Session]
	if ok && old.Attempt > key.Attempt {
		return
	}
	if ok && old != key {
		r.proxy.Close(old)
	}
	r.held[key.Session] = key
	r.proxy.Open(key, s)
}

func (r *Replica) end(session string, last int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key, ok := r.held[session]; ok && key.Attempt <= last {
		r.proxy.Close(key)
		delete(r.held, session)
	}
}
