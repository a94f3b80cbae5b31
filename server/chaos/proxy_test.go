package chaos_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// proxy is a TCP port in front of a database's socket, whose connections can be cut, or held up without an answer. Its
// goroutines are one that accepts and two for each connection; close waits for them.
type proxy struct {
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the rest
	open  sync.Cond  // held changed
	held  bool
	conns map[net.Conn]struct{}
	down  bool
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, l: l, conns: map[net.Conn]struct{}{}}
	p.open.L = &p.mu
	p.wg.Go(p.accept)
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wait()
		out, err := net.Dial("unix", p.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		if !p.add(in, out) {
			return
		}
		p.wg.Go(func() { p.copy(in, out) })
		p.wg.Go(func() { p.copy(out, in) })
	}
}

func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = struct{}{}
		if p.down {
			_ = c.Close()
		}
	}
	return !p.down
}

func (p *proxy) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.wait()
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = errors.Join(err, werr, io.EOF)
			}
		}
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, from)
			_ = errors.Join(from.Close(), to.Close()) // either may be closed
			return
		}
	}
}

// wait returns when traffic is not held up.
func (p *proxy) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.held {
		p.open.Wait()
	}
}

// hold stops all traffic, new connections included, or lets it go on.
func (p *proxy) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	p.open.Broadcast()
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) close() {
	p.mu.Lock()
	p.down, p.held = true, false
	p.open.Broadcast()
	p.mu.Unlock()
	_ = p.l.Close()
	p.cut()
	p.wg.Wait()
}
