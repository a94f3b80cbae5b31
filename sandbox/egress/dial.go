package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const dialTimeout = 10 * time.Second // for one address

// Dialer connects to exactly one address.
type Dialer func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// DialPinned is the Dialer of the machine. The address is compared once more when the socket is about to connect.
func DialPinned(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		if got, err := netip.ParseAddrPort(address); err != nil || got != to {
			return errors.New("egress: not the address that was checked")
		}
		return nil
	}}
	return d.DialContext(ctx, "tcp", to.String())
}

// dialAny tries checked addresses in their order.
func dialAny(ctx context.Context, dial Dialer, addrs []netip.Addr, port uint16) (net.Conn, netip.Addr, error) {
	err := errors.New("no address")
	for _, a := range addrs {
		var c net.Conn
		if c, err = dial(ctx, netip.AddrPortFrom(a, port)); err == nil {
			return c, a, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, netip.Addr{}, fmt.Errorf("connect: %w", err)
}
