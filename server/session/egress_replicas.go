package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/feed"
	"github.com/litellm-agent-platform/lap/store"
)

// EgressReplicas are proxies outside of this process, which connect to it.
type EgressReplicas struct {
	Secret      string // that they present
	CheckSource bool   // connections of a sandbox come from its address

	leading atomic.Pointer[func() bool]
}

func (e *Egress) newHub() *feed.Hub {
	r := e.o.Replicas
	return feed.NewHub(feed.HubOptions{
		Secret: r.Secret, Key: publicKey(e.key), Over: e.over, Report: e.events.report, Logger: e.o.Logger,
		Leading: func() bool {
			leading := r.leading.Load()
			return leading != nil && (*leading)()
		},
	})
}

// Replicas serves streams of replicas of the proxy, and tells how many there are. It is nil for a proxy of this process.
func (e *Egress) Replicas() (streams http.Handler, connected func() int) {
	if e.hub == nil {
		return nil, nil
	}
	return e.hub, e.hub.Replicas
}

// ledBy says who makes events of what replicas tell all servers.
func (e *Egress) ledBy(leading func() bool) {
	if e != nil && e.o.Replicas != nil {
		e.o.Replicas.leading.Store(&leading)
	}
}

// over returns those of some attempts whose sandboxes are to have no way out any more.
func (e *Egress) over(ctx context.Context, keys []egress.Key) (over []egress.Key, err error) {
	for _, key := range keys {
		s, err := e.o.Store.GetSession(ctx, key.Session)
		if errors.Is(err, store.ErrNotFound) || err == nil && (int(s.Attempt) != key.Attempt || !live(s.Status) || s.SandboxID == "") {
			over = append(over, key)
		} else if err != nil {
			return nil, err
		}
	}
	return over, nil
}

// where returns the address at which the sandbox of a session reaches the proxy, and the one that it comes from. The name of the
// proxy is resolved here: sandboxes resolve none.
func (e *Egress) where(ctx context.Context, o *Options, s store.Session) (address string, source netip.Addr, err error) {
	if e.hub == nil {
		return e.o.Address, source, nil
	}
	host, port, err := net.SplitHostPort(e.o.Address)
	if err != nil {
		return "", source, fmt.Errorf("find the egress proxy: %w", err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", source, fmt.Errorf("find the egress proxy: %w", err)
	}
	proxy := addrs[0].Unmap()
	address = net.JoinHostPort(proxy.String(), port)
	boxes, ok := o.Runtime.(sandbox.Addresser)
	if !ok || !e.o.Replicas.CheckSource {
		return address, source, nil
	}
	own, err := boxes.Addresses(ctx, sandbox.ID(s.SandboxID))
	if err != nil {
		return "", source, fmt.Errorf("find the address of the sandbox: %w", err)
	}
	for _, a := range own {
		if a.Is4() == proxy.Is4() {
			return address, a, nil
		}
	}
	return "", source, errors.New("find the address of the sandbox: it has none of the kind that the egress proxy has")
}
