package egress

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tunnel carries bytes between a client and a host in both directions until both have ended or one failed.
func (p *Proxy) tunnel(c, up net.Conn, h *head, x *exchange) {
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		if carry(c, up, &x.received, x) != nil || closeWrite(c) != nil {
			c.Close()
			up.Close()
		}
	})
	if p.out(c, up, h, x) != nil || closeWrite(up) != nil {
		c.Close()
		up.Close()
	}
	back.Wait()
}

// out carries what the client sends, once its beginning was found to be for the host.
func (p *Proxy) out(c, up net.Conn, h *head, x *exchange) error {
	first, err := p.begin(c, h)
	if errors.Is(err, errServerName) {
		p.stats.denied.Add(1)
		x.update(func(r *Record) { r.Failure = FailureServerName })
		_ = c.SetWriteDeadline(time.Now().Add(refuseTimeout))
		_, _ = c.Write(alertUnrecognizedName) // the reason is in the record in any case
		return err
	}
	if err != nil {
		return err
	}
	if len(first) > 0 {
		n, err := up.Write(first)
		x.sent.Add(int64(n))
		x.touch()
		if err != nil {
			return err
		}
	}
	return carry(up, c, &x.sent, x)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// carry copies until src ends. It holds a buffer only while there is something to copy, so that silent tunnels are cheap.
func carry(dst, src net.Conn, count *atomic.Int64, x *exchange) error {
	wait, err := readWaiter(src)
	if err != nil {
		return err
	}
	for {
		b, n, err := wait()
		if n > 0 {
			x.touch()
			var w int
			w, err = dst.Write((*b)[:n])
			count.Add(int64(w))
			x.touch()
		}
		if b != nil {
			buffers.Put(b)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readWaiter returns a function that waits for bytes and returns them in a buffer of the pool.
func readWaiter(src net.Conn) (func() (*[]byte, int, error), error) {
	sc, ok := src.(syscall.Conn)
	if !ok {
		return func() (*[]byte, int, error) {
			b := buffers.Get().(*[]byte)
			n, err := src.Read(*b)
			return b, n, err
		}, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return func() (b *[]byte, n int, err error) {
		rawErr := raw.Read(func(fd uintptr) bool {
			b = buffers.Get().(*[]byte)
			for {
				if n, err = unix.Read(int(fd), *b); err != unix.EINTR {
					break
				}
			}
			if err == unix.EAGAIN {
				buffers.Put(b)
				b = nil
				return false
			}
			return true
		})
		switch {
		case rawErr != nil:
			return b, 0, rawErr
		case err != nil:
			return b, 0, err
		case n == 0:
			return b, 0, io.EOF
		}
		return b, n, nil
	}, nil
}
