package terminal

import (
	"context"
	"io"
)

// Client is one of those who look at a terminal and type into it. Next is for one goroutine at a time; the other methods are
// safe for concurrent use. A client that does not call Next costs nobody anything.
type Client struct {
	t    *Terminal
	wake chan struct{} // a token: something has changed for Next
	left bool          // guarded by sizes.mu: its size counts no more

	// guarded by output.mu
	queue  [][]byte
	queued int // bytes of queue
	stale  bool
	closed bool
}

// Attach adds a client, which begins with a picture of the screen. The zero size is of one that leaves the size to others.
func (t *Terminal) Attach(size Size) *Client {
	c := &Client{t: t, wake: make(chan struct{}, 1), stale: true}
	resized := false
	if size != (Size{}) {
		resized = t.size.set(t, c, size.clamp())
	}
	t.out.mu.Lock()
	t.out.clients[c] = struct{}{}
	t.out.mu.Unlock()
	if !resized {
		t.size.request()
	}
	return c
}

// Size is the size of the terminal.
func (t *Terminal) Size() Size { return t.size.get() }

// Next returns the next output, at most 32 KiB unless it is a picture of the screen or holds a long sequence; it waits for some. It
// returns io.EOF when the program has ended and all was returned, ErrClosed after Close.
func (c *Client) Next(ctx context.Context) ([]byte, error) {
	for {
		b, err := c.next()
		if len(b) > 0 || err != nil {
			return b, err
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Client) next() ([]byte, error) {
	o := &c.t.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.stale && !c.closed {
		o.mu.Unlock() // the model is locked before the output
		b := c.t.paint(c)
		o.mu.Lock()
		return b, nil
	}
	switch {
	case c.closed:
		return nil, ErrClosed
	case len(c.queue) > 0:
		return c.dequeue(), nil
	case o.over:
		return nil, io.EOF
	}
	return nil, nil
}

// dequeue is called with output.mu held.
func (c *Client) dequeue() []byte {
	b := c.queue[0]
	n := 1
	for size := len(b); n < len(c.queue) && size+len(c.queue[n]) <= batchMost; n++ {
		size += len(c.queue[n])
	}
	if n > 1 {
		b = make([]byte, 0, batchMost)
		for _, q := range c.queue[:n] {
			b = append(b, q...)
		}
	}
	c.queued -= len(b)
	clear(c.queue[:n])
	if c.queue = c.queue[n:]; len(c.queue) == 0 {
		c.queue = nil
	}
	signal(c.t.out.room)
	return b
}

// add is called with output.mu held.
func (c *Client) add(b []byte) {
	switch {
	case c.stale || len(b) == 0:
		return
	case c.queued+len(b) > clientMost:
		c.queue, c.queued, c.stale = nil, 0, true
	default:
		c.queue = append(c.queue, b)
		c.queued += len(b)
	}
	signal(c.wake)
}

// paint returns a picture of the screen and queues the output that the model has not seen.
func (t *Terminal) paint(c *Client) []byte {
	t.view.mu.Lock()
	defer t.view.mu.Unlock()
	b := t.view.screen.repaint()
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	if c.stale = c.closed; c.closed {
		return nil
	}
	for _, n := range t.out.backlog {
		if len(n.shown) > 0 {
			c.queue = append(c.queue, n.shown)
			c.queued += len(n.shown)
		}
	}
	return append(b, withoutQueries(t.out.state)...)
}

// Type types bytes, which it keeps. It may wait for the program to read.
func (c *Client) Type(ctx context.Context, p []byte) error { return c.t.send(ctx, input{b: p}) }

// Resize says how large the client's own screen is. After Close it does nothing.
func (c *Client) Resize(s Size) { c.t.size.set(c.t, c, s.clamp()) }

// Close detaches the client. The program goes on. Idempotent.
func (c *Client) Close() {
	o := &c.t.out
	o.mu.Lock()
	c.closed, c.queue, c.queued = true, nil, 0
	delete(o.clients, c)
	o.mu.Unlock()
	signal(c.wake)
	signal(o.room)
	c.t.size.leave(c.t, c)
}
