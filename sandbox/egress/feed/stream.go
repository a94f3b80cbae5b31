package feed

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
)

// stream is that of one replica to this server. Its goroutines are one that reads, one that writes and one that pings.
type stream struct {
	replica string
	told    uint64 // what the replica knew of at its hello
	cancel  context.CancelFunc
	wake    chan struct{} // capacity 1: there is something to say

	// Guarded by the hub's mutex.
	marked map[string]int // sessions to say the state of, and up to which attempt they are over if nothing is open
	holds  map[string]int // attempts that the replica lets through, by session
	turned bool           // this server leads
	again  bool           // the replica is to be told so
	leads  bool           // the replica has begun again
	ack    uint64         // to be said
	acked  uint64

	// Of the writing goroutine.
	hashes map[string]string // policies of what the replica lets through, by session
	refs   map[string]int    // how many sessions have a policy
}

func (s *stream) markLocked(key egress.Key) {
	s.marked[key.Session] = max(s.marked[key.Session], key.Attempt)
	s.wakeLocked()
}

// turnLocked tells whether leadership is new to the stream.
func (s *stream) turnLocked(leading bool) bool {
	if s.turned == leading {
		return false
	}
	s.turned, s.again, s.leads = leading, leading, false
	s.wakeLocked()
	return true
}

func (s *stream) wakeLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) error {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(maxMessage)
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	hello, err := readHello(ctx, c)
	if err != nil {
		return err
	}
	if hello.Protocol != protocol || !isName(hello.Replica) {
		_ = c.Close(websocket.StatusPolicyViolation, "the server speaks another protocol")
		return errMessage
	}
	s := &stream{
		replica: hello.Replica, told: hello.Told, cancel: cancel, wake: make(chan struct{}, 1),
		marked: map[string]int{}, holds: map[string]int{}, hashes: map[string]string{}, refs: map[string]int{},
	}
	have := h.join(s)
	defer h.leave(s)
	if err := write(ctx, c, message{Type: typeHello, Protocol: protocol, Key: h.o.Key, Have: have}); err != nil {
		return err
	}
	h.o.Logger.Info("stream of an egress replica opened", "remote", r.RemoteAddr, "replica", s.replica)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.listen(ctx, c, s) })
	g.Go(func() error { return h.speak(ctx, c, s) })
	g.Go(func() error { return keepAlive(ctx, c) })
	return g.Wait()
}

func readHello(ctx context.Context, c *websocket.Conn) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	m, err := read(ctx, c)
	if err == nil && m.Type != typeHello {
		err = errMessage
	}
	return m, err
}

// listen reads what the replica says.
func (h *Hub) listen(ctx context.Context, c *websocket.Conn, s *stream) error {
	for {
		m, err := read(ctx, c)
		if err != nil {
			return err
		}
		switch m.Type {
		case typeHolds:
			h.check(h.hold(s, m.Holds))
		case typeDecisions:
			told := h.take(s, m)
			h.mu.Lock()
			s.ack = max(s.ack, told)
			s.wakeLocked()
			h.mu.Unlock()
		case typeProgress:
			h.progress(s, m.Records)
		default:
			return errMessage
		}
	}
}

// progress notes the bytes of connections that are open.
func (h *Hub) progress(s *stream, list []record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range list {
		h.rings.progress(s.replica, list[i].fromWire())
	}
}

// hold notes what a replica lets through, and returns what is not open here.
func (h *Hub) hold(s *stream, list []hold) (unknown []egress.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range list {
		s.holds[one.Session] = one.Attempt
		if key := (egress.Key{Session: one.Session, Attempt: one.Attempt}); h.open[one.Session].key != key {
			unknown = append(unknown, key)
		}
	}
	return unknown
}

// speak says what is marked, how it stands at that moment.
func (h *Hub) speak(ctx context.Context, c *websocket.Conn, s *stream) error {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, m := range h.next(s) {
			if err := write(ctx, c, m); err != nil {
				return err
			}
		}
	}
}

// next returns what is to be said.
func (h *Hub) next(s *stream) (list []message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.again {
		s.again = false
		list = append(list, message{Type: typeLead})
	}
	for session, last := range s.marked {
		a, ok := h.open[session]
		if !ok {
			s.drop(session)
			delete(s.holds, session)
			list = append(list, message{Type: typeEnd, Session: session, Attempt: last})
			continue
		}
		hash := a.Policy.Hash()
		if s.refs[hash] == 0 {
			spec := a.Policy.Spec()
			list = append(list, message{Type: typePolicy, Hash: hash, Spec: &spec})
		}
		s.refs[hash]++
		s.drop(session)
		s.hashes[session], s.holds[session] = hash, a.key.Attempt
		m := message{Type: typeOpen, Session: session, Attempt: a.key.Attempt, Hash: hash, Installing: a.Installing}
		if a.Source.IsValid() {
			m.Source = &a.Source
		}
		list = append(list, m)
	}
	clear(s.marked)
	if s.ack > s.acked {
		s.acked = s.ack
		list = append(list, message{Type: typeTold, Told: s.acked})
	}
	return list
}

// drop forgets the policy of a session on this stream, as the replica does.
func (s *stream) drop(session string) {
	if hash, ok := s.hashes[session]; ok {
		if s.refs[hash]--; s.refs[hash] == 0 {
			delete(s.refs, hash)
		}
		delete(s.hashes, session)
	}
}
