package egress

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer is all that a resolver says of a name.
type Answer struct {
	Addrs []netip.Addr // IPv4 as such, never as IPv6
	Names []string     // canonical names on the way to them, lower-case, without trailing dot
}

// Resolver looks names up. An error means that the name could not be resolved.
type Resolver interface {
	// Resolve looks up a canonical name; with search also in the domains that the machine searches, as is due to a name that the
	// operator wrote and to no other.
	Resolve(ctx context.Context, name string, search bool) (Answer, error)
}

const (
	maxAddrs = 64
	maxNames = 64
)

// SystemResolver is the resolver of the machine: its hosts file and the servers of its resolv.conf. The zero value is ready.
type SystemResolver struct {
	server string // instead of those of resolv.conf, for tests
}

// Resolve implements Resolver.
func (s SystemResolver) Resolve(ctx context.Context, name string, search bool) (Answer, error) {
	if !search {
		name += "."
	}
	var seen aliases
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, server string) (net.Conn, error) {
		if s.server != "" {
			server = s.server
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, server)
		if err != nil {
			return nil, err
		}
		if packets, ok := c.(*net.UDPConn); ok {
			return &packetTap{packets, &seen}, nil
		}
		return &streamTap{Conn: c, seen: &seen}, nil
	}}
	list, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Names: seen.list()}
	for _, addr := range list[:min(len(list), maxAddrs)] {
		a.Addrs = append(a.Addrs, addr.Unmap().WithZone(""))
	}
	return a, nil
}

// aliases collects the CNAME records of the messages that the resolver of the standard library reads but does not pass on. What a
// stranger slips in can only deny.
type aliases struct {
	mu    sync.Mutex // guards names
	names []string
}

func (a *aliases) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.names
}

func (a *aliases) add(message []byte) {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil || p.SkipAllQuestions() != nil {
		return
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return
		}
		if h.Type != dnsmessage.TypeCNAME {
			if p.SkipAnswer() != nil {
				return
			}
			continue
		}
		r, err := p.CNAMEResource()
		if err != nil {
			return
		}
		a.mu.Lock()
		if len(a.names) < maxNames {
			a.names = append(a.names, strings.ToLower(strings.TrimSuffix(r.CNAME.String(), ".")))
		}
		a.mu.Unlock()
	}
}

// packetTap is a connection of messages; the embedded type tells the resolver so.
type packetTap struct {
	*net.UDPConn
	seen *aliases
}

func (t *packetTap) Read(b []byte) (int, error) {
	n, err := t.UDPConn.Read(b)
	t.seen.add(b[:n])
	return n, err
}

// streamTap is a connection of messages behind their lengths.
type streamTap struct {
	net.Conn
	seen *aliases
	buf  []byte
}

func (t *streamTap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.buf = append(t.buf, b[:n]...)
	for len(t.buf) >= 2 {
		end := 2 + int(binary.BigEndian.Uint16(t.buf))
		if len(t.buf) < end {
			break
		}
		t.seen.add(t.buf[2:end])
		t.buf = t.buf[end:]
	}
	return n, err
}
