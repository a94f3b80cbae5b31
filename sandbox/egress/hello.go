package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
)

const (
	recordHandshake = 0x16     // first byte of TLS
	maxHello        = 64 << 10 // bytes of the first message of TLS, and what came with it
)

var (
	errServerName = errors.New("egress: TLS for another host")

	// alertUnrecognizedName is what a TLS server says to a client that asks for a name it does not have.
	alertUnrecognizedName = []byte{0x15, 3, 3, 0, 2, 2, 112}
)

// begin reads the first bytes that a client sends into its tunnel. If they begin TLS, the whole first message is read, and its
// server name must be the host that the tunnel was opened for: an address serves many names, and the policy let pass one. For a
// host that is an address there must be no name.
func (p *Proxy) begin(c net.Conn, h *head) ([]byte, error) {
	first := h.rest
	if len(first) == 0 {
		wait, err := readWaiter(c)
		if err != nil {
			return nil, err
		}
		b, n, err := wait()
		if n > 0 {
			first = bytes.Clone((*b)[:n])
		}
		if b != nil {
			buffers.Put(b)
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if first[0] != recordHandshake {
		return first, nil
	}
	if err := c.SetReadDeadline(time.Now().Add(p.o.HeadTimeout)); err != nil {
		return nil, err
	}
	name, seen, err := serverName(io.MultiReader(bytes.NewReader(first), c))
	if err != nil {
		return nil, errServerName
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if !isFor(name, h.host) {
		return nil, errServerName
	}
	return seen, nil
}

func isFor(name string, h policy.Host) bool {
	if name == "" {
		_, literal := h.Addr()
		return literal
	}
	got, err := policy.ParseHost(name)
	return err == nil && got == h && h.Name() != ""
}

// serverName reads a ClientHello with the TLS of the standard library, which gives up as soon as it has it. It returns all that
// was read.
func serverName(r io.Reader) (string, []byte, error) {
	c := &helloConn{r: r}
	name, found := "", false
	stop := errors.New("seen")
	err := tls.Server(c, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, found = hello.ServerName, true
		return nil, stop
	}}).HandshakeContext(context.Background())
	if !found {
		return "", nil, err
	}
	return name, c.seen, nil
}

// helloConn records what is read and drops what is written.
type helloConn struct {
	net.Conn // nil: nothing else is called
	r        io.Reader
	seen     []byte
}

func (c *helloConn) Read(b []byte) (int, error) {
	if len(c.seen) >= maxHello {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.r.Read(b)
	c.seen = append(c.seen, b[:n]...)
	return n, err
}

func (c *helloConn) Write(b []byte) (int, error) { return len(b), nil }
