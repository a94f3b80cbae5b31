package session

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	credentialLabel = "egress-credential"
	credentialTTL   = 10 * time.Minute
	openWait        = 10 * time.Second // for the controller to find the sandboxes that already run
	keptAttempts    = 256              // ended attempts whose last decisions can still be read
)

// EgressOptions say how the way out of sandboxes is kept.
type EgressOptions struct {
	Store   *store.Store
	Keyring *store.Keyring
	Logger  *slog.Logger
	Address string // where sandboxes reach the proxy, as the protocol of sandboxd has it

	AllowCIDRs, DenyCIDRs []string        // the operator's
	Indexes               []string        // package indexes, besides those that an agent's settings name
	Observe               bool            // let pass what only an agent's lists deny
	OwnNetwork            bool            // sandboxes have a network of their own, with no other way out
	CredentialTTL         time.Duration   // default 10 min
	Resolver              egress.Resolver // default: the machine's
	Dial                  egress.Dialer   // default: the machine's
	Replicas              *EgressReplicas // the proxy is not in this process, but they are
}

// way is what lets attempts through: a proxy of this process, or a hub that tells others.
type way interface {
	Open(key egress.Key, s egress.Session)
	Close(key egress.Key)
	Installed(key egress.Key)
	Recent(key egress.Key) []egress.Record
	Stop()
}

// Egress is the way out of sandboxes: the proxy, the policies of attempts, and what is told of them. Its goroutine, which ends
// with Close, stores events. Everything else is safe for concurrent use.
type Egress struct {
	o      EgressOptions
	way    way
	proxy  *egress.Proxy // nil if there is a hub
	hub    *feed.Hub     // nil if there is a proxy
	key    ed25519.PrivateKey
	events *egressLog

	mu    sync.Mutex            // guards what follows
	open  map[string]egress.Key // by session
	kept  map[egress.Key][]egress.Record
	order []egress.Key // of kept, oldest first
}

// NewEgress returns a way out that nobody has yet. Serve lets sandboxes connect; Close must be called, after the controller ended.
func NewEgress(o EgressOptions) *Egress {
	if o.CredentialTTL <= 0 {
		o.CredentialTTL = credentialTTL
	}
	_, seed := o.Keyring.Derive(credentialLabel)
	e := &Egress{
		o: o, key: ed25519.NewKeyFromSeed(seed[:]), open: map[string]egress.Key{}, kept: map[egress.Key][]egress.Record{},
		events: newEgressLog(o.Store, o.Logger),
	}
	if o.Replicas != nil {
		e.hub = e.newHub()
		e.way = e.hub
		return e
	}
	e.proxy = egress.New(egress.Options{
		Key: publicKey(e.key), Resolver: o.Resolver, Dial: o.Dial, Report: e.events.report, OpenWait: openWait,
	})
	e.way = e.proxy
	return e
}

// Serve accepts connections of sandboxes until Close, or until the listener fails. It closes the listener. It is not for a way out
// that is elsewhere.
func (e *Egress) Serve(l net.Listener) error { return e.proxy.Serve(l) }

// Stats returns what was counted in this process, and how many decisions no event was made of because too many came at once.
func (e *Egress) Stats() (s egress.Stats, unheard int64) {
	if e.hub != nil {
		return s, e.events.unheard.Load() + e.hub.Lost()
	}
	return e.proxy.Stats(), e.events.unheard.Load()
}

// Close ends all connections and waits until nothing runs any more.
func (e *Egress) Close() {
	e.way.Stop()
	e.events.close()
}

// enforcement says in a word how much policies count for.
func (e *Egress) enforcement() string {
	switch {
	case e == nil:
		return EgressOff
	case e.o.Observe:
		return EgressObserved
	case e.o.OwnNetwork, e.hub != nil:
		return EgressEnforced
	}
	return EgressAdvisory
}

// gap is what keeps policies from being enforced, and what to do about it.
func (e *Egress) gap() (gap, remedy string) {
	if e == nil {
		return "no proxy is between sandboxes and the hosts they reach", "run lap egress and set EGRESS_PROXY_ADDR, or restrict the cluster's network"
	}
	return "a tool that leaves out the proxy is not held to them", "restrict the machine's network instead"
}

// admit opens the way out of an attempt and returns what its sandbox is to be told. It may be repeated.
func (e *Egress) admit(ctx context.Context, o *Options, s store.Session, a store.Agent, env map[string]string) (*sandboxd.Egress, error) {
	spec, mirrors := e.spec(o, a, env)
	p, err := policy.New(spec)
	if err != nil {
		return nil, &gone{"what the agent may reach cannot be enforced: " + err.Error()}
	}
	address, source, err := e.where(ctx, o, s)
	if err != nil {
		return nil, err
	}
	key := egress.Key{Session: s.ID, Attempt: int(s.Attempt)}
	e.mu.Lock()
	if old, ok := e.open[s.ID]; ok && old != key {
		e.closeLocked(old)
	}
	e.open[s.ID] = key
	e.mu.Unlock()
	e.way.Open(key, egress.Session{Policy: p, Source: source, Installing: a.Requirements != nil && mayInstall(s)})
	now := time.Now()
	out := &sandboxd.Egress{Proxy: address, Credential: egress.SignCredential(e.key, egress.Claims{
		Key: key, Policy: p.Hash(), IssuedAt: now, Expires: now.Add(e.o.CredentialTTL),
	})}
	if e.o.OwnNetwork {
		out.Mirrors = mirrors
	} else if e.hub != nil {
		return out, nil // their network lets them reach nothing else
	} else if host, _, ok := endpoint(o.Gateway.BaseURL, nil); ok {
		// Nothing keeps a tool from leaving out the proxy here, and a model that answers need not be cut off when the server ends.
		out.Direct = []string{host}
	}
	return out, nil
}

// end closes the way out of a session's attempt.
func (e *Egress) end(sessionID string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if key, ok := e.open[sessionID]; ok {
		e.closeLocked(key)
		delete(e.open, sessionID)
	}
	if e.hub != nil {
		e.hub.End(sessionID) // another server may have opened it
	}
}

func (e *Egress) closeLocked(key egress.Key) {
	if e.hub != nil {
		e.hub.Close(key)
		e.events.forget(key)
		return
	}
	last := e.proxy.Recent(key)
	for i := range last {
		last[i].Open = false // in a moment
	}
	e.kept[key] = last
	e.order = append(e.order, key)
	if len(e.order) > keptAttempts {
		delete(e.kept, e.order[0])
		e.order = e.order[1:]
	}
	e.proxy.Close(key)
	e.events.forget(key)
}

// installed closes package indexes to an attempt.
func (e *Egress) installed(s string, attempt int32) {
	if e != nil {
		e.way.Installed(egress.Key{Session: s, Attempt: int(attempt)})
	}
}

// recent returns the last decisions on an attempt, oldest first.
func (e *Egress) recent(key egress.Key) []egress.Record {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hub != nil || e.open[key.Session] == key {
		return e.way.Recent(key)
	}
	return e.kept[key]
}

// EgressReport is what a session's sandbox wanted to reach, oldest first.
type EgressReport struct {
	Attempt     int32
	Enforcement string
	Decisions   []EgressDecision
}

// Egress returns the last decisions on the current or last attempt of a session. store.ErrNotFound if it never existed.
func (s *Service) Egress(ctx context.Context, sessionID string) (r EgressReport, err error) {
	sess, err := s.o.Store.GetSession(ctx, sessionID)
	if err != nil {
		return r, err
	}
	r = EgressReport{Attempt: sess.Attempt, Enforcement: s.o.Egress.enforcement()}
	if s.o.Egress == nil {
		return r, nil
	}
	for _, rec := range s.o.Egress.recent(egress.Key{Session: sess.ID, Attempt: int(sess.Attempt)}) {
		r.Decisions = append(r.Decisions, decision(rec))
	}
	return r, nil
}

// mayInstall tells whether the requirements of an attempt may not be installed yet.
func mayInstall(s store.Session) bool {
	return starting(&s) && (s.Phase == nil || !afterInstallation(*s.Phase))
}

func afterInstallation(phase string) bool {
	return slices.Index(phases, phase) > slices.Index(phases, "installing_deps")
}

// spec is what an attempt may reach. mirrors are the endpoints on the loopback of this machine that it needs.
func (e *Egress) spec(o *Options, a store.Agent, env map[string]string) (s policy.Spec, mirrors []string) {
	s = policy.Spec{
		AllowCIDRs: e.o.AllowCIDRs, DenyCIDRs: e.o.DenyCIDRs, AllowOut: a.AllowOut, DenyOut: a.DenyOut,
		Indexes: slices.Clone(e.o.Indexes), Observe: e.o.Observe,
	}
	add := func(list *[]string, url string) {
		host, port, ok := endpoint(url, env)
		if !ok {
			return // whoever uses it says what is wrong with it
		}
		at := net.JoinHostPort(host, port)
		if _, _, err := policy.ParseAuthority(at, 0); err != nil {
			return
		}
		if list != nil && !slices.Contains(*list, at) {
			*list = append(*list, at)
		}
		if isLoopback(host) && !slices.Contains(mirrors, at) {
			mirrors = append(mirrors, at)
		}
	}
	add(&s.Routes, o.Gateway.BaseURL)
	if a.RepoURL != nil {
		add(&s.AgentHosts, *a.RepoURL)
	}
	for _, server := range a.MCPServers {
		add(&s.AgentHosts, mcpURL(server))
	}
	if a.Requirements == nil {
		return s, mirrors
	}
	for _, url := range indexURLs(*a.Requirements, env) {
		add(nil, url)
		if host, _, ok := endpoint(url, env); ok {
			if _, err := policy.ParseEntry(host); err == nil && !slices.Contains(s.Indexes, host) {
				s.Indexes = append(s.Indexes, host)
			}
		}
	}
	return s, mirrors
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// EgressDecision is one connection that something in a sandbox wanted, and what became of it.
type EgressDecision struct {
	Time           time.Time
	Method, Host   string
	Port           uint16
	Address        string // connected to; empty if none was
	Verdict        string // allowed, denied or failed
	Rule, Entry    string
	Reason         string
	Observed       bool // allowed only because policies are observed
	Sent, Received int64
	Open           bool
}

// Verdicts of an EgressDecision.
const (
	VerdictAllowed = "allowed"
	VerdictDenied  = "denied"
	VerdictFailed  = "failed" // let pass, but not resolved or not connected
)

// How much what agents may reach counts for.
const (
	EgressEnforced = "enforced" // there is no other way out
	EgressAdvisory = "advisory" // tools that leave out the proxy are not held to it
	EgressObserved = "observed" // what an agent's lists deny is told and let pass
	EgressOff      = "off"
)

func decision(r egress.Record) EgressDecision {
	d := EgressDecision{
		Time: r.Time, Method: r.Method, Host: r.Host, Port: r.Port, Verdict: VerdictAllowed, Rule: string(r.Decision.Rule),
		Entry: r.Decision.Entry, Reason: r.Decision.Reason, Observed: r.Decision.Observe, Sent: r.Sent, Received: r.Received, Open: r.Open,
	}
	if r.Addr.IsValid() {
		d.Address = r.Addr.String()
	}
	switch r.Failure {
	case egress.FailureServerName:
		d.Verdict, d.Rule, d.Entry, d.Reason = VerdictDenied, egress.FailureServerName, "", "TLS in the tunnel is for another host, or names none"
	case egress.FailureUnresolved:
		d.Verdict, d.Reason = VerdictFailed, "the name could not be resolved"
	case egress.FailureUnreachable:
		d.Verdict, d.Reason = VerdictFailed, "the host could not be connected to"
	default:
		if r.Denied() {
			d.Verdict = VerdictDenied
		}
	}
	return d
}
