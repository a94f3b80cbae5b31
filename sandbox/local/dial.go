package local

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/litellm-agent-platform/lap/sandbox"
)

// accepts reports whether sandboxd takes connections.
func (b *box) accepts() bool {
	return listens(b.dir, sockFile)
}

func listens(dir, name string) bool {
	conn, err := dialSocket(context.Background(), dir, name)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// Dial implements sandbox.Runtime. It does not wait for a sandbox that is still starting.
func (r *Runtime) Dial(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	b, err := r.box(id)
	if err != nil {
		return nil, err
	}
	if s := b.status(); s.State == sandbox.Exited {
		return nil, fmt.Errorf("dial sandbox %s: it has ended: %s", id, s.Reason)
	}
	conn, err := dialSocket(ctx, b.dir, sockFile)
	if err != nil {
		return nil, fmt.Errorf("dial sandbox %s: %w", id, err)
	}
	return conn, nil
}

// dialSocket reaches a socket through the open directory, because the path may be longer than an address can be.
func dialSocket(ctx context.Context, dir, name string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", strings.Join([]string{"/proc/self/fd", strconv.Itoa(int(d.Fd())), name}, "/"))
}
