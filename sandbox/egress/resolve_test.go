package egress_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
)

// nameserver answers on one port of loopback, over UDP and TCP. Names that begin with "long" are answered over TCP only.
type nameserver struct {
	addr  string
	mu    sync.Mutex // guards asked
	asked []string
}

func newNameserver(t *testing.T) *nameserver {
	t.Helper()
	l := listen(t)
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n := &nameserver{addr: l.Addr().String()}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close(); u.Close() })
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			size, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(n.answer(b[:size], false), from)
		}
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.stream(c)
		}
	})
	return n
}

func (n *nameserver) stream(c net.Conn) {
	defer c.Close()
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		out := n.answer(b, true)
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
	}
}

func (n *nameserver) answer(query []byte, stream bool) []byte {
	var q dnsmessage.Message
	if err := q.Unpack(query); err != nil {
		return nil
	}
	name := q.Questions[0].Name
	n.mu.Lock()
	n.asked = append(n.asked, name.String())
	n.mu.Unlock()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RecursionAvailable: true}, Questions: q.Questions}
	add := func(of, to string) string {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(of), Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)},
		})
		return to
	}
	last := name.String()
	switch {
	case strings.HasPrefix(last, "long") && !stream:
		m.Truncated = true
	case strings.HasPrefix(last, "missing"):
		m.RCode = dnsmessage.RCodeNameError
	case strings.HasPrefix(last, "alias"), strings.HasPrefix(last, "long"):
		last = add(add(last, "Edge.Denied.example."), "lb.cdn.net.")
	}
	if q.Questions[0].Type == dnsmessage.TypeA && m.RCode == 0 && !m.Truncated {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(last), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{8, 8, 8, 8}},
		})
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

func TestTheSystemResolverTellsEveryAliasOnTheWay(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"alias.example", "long.example"} {
		n := newNameserver(t)
		a, err := egress.NewSystemResolver(n.addr).Resolve(t.Context(), name, false)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(a.Names)
		if names := slices.Compact(a.Names); !slices.Equal(names, []string{"edge.denied.example", "lb.cdn.net"}) {
			t.Errorf("%s: aliases %v", name, names)
		}
		if !slices.Equal(a.Addrs, []netip.Addr{netip.MustParseAddr("8.8.8.8")}) || !a.Addrs[0].Is4() {
			t.Errorf("%s: addresses %v", name, a.Addrs)
		}
	}
}

func TestTheSystemResolverAsksForTheNameItselfAndForNoOther(t *testing.T) {
	t.Parallel()
	n := newNameserver(t)
	if a, err := egress.NewSystemResolver(n.addr).Resolve(t.Context(), "missing.example", false); err == nil {
		t.Errorf("got %+v", a)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.asked)
	if asked := slices.Compact(n.asked); !slices.Equal(asked, []string{"missing.example."}) {
		t.Errorf("asked for %v", asked)
	}
}

func TestAPinnedDialReachesTheAddressAndNoOtherFormOfIt(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddrPort(echo(t))
	c, err := egress.DialPinned(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	mapped := netip.AddrPortFrom(netip.MustParseAddr("::ffff:"+addr.Addr().String()), addr.Port())
	if c, err := egress.DialPinned(t.Context(), mapped); err == nil {
		c.Close()
		t.Errorf("%v was dialed for %v", c.RemoteAddr(), mapped)
	}
}
