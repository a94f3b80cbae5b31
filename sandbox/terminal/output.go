package terminal

import (
	"sync"
	"time"
)

const (
	clientMost  = 256 << 10 // bytes of output that wait for one client
	batchMost   = 32 << 10  // bytes a client gets at once
	backlogMost = 128 << 10 // bytes of output that wait for the model
	stateMost   = 16 << 10  // bytes kept of output that the model has lost
	modelStep   = 4 << 10   // bytes fed to the model at once
	roomWithin  = 50 * time.Millisecond
	calmAfter   = 50 * time.Millisecond
	calmWithin  = time.Second
)

// output is what the program has written and somebody has yet to see.
type output struct {
	mu       sync.Mutex // guards the fields below, and the queues of clients
	clients  map[*Client]struct{}
	backlog  []chunk   // for the model
	waiting  int       // bytes of backlog
	state    []byte    // what changes the state of the terminal in the output that the model has lost
	lost     bool      // the model has lost output since it was last fed
	repaired bool      // the loss was reported
	lostAt   time.Time // when it last did
	over     bool

	fed  chan struct{} // a token: there is something for the model, or will be no more
	room chan struct{} // a token: a client has taken something
}

// chunk is whole pieces of output, with and without queries.
type chunk struct{ all, shown []byte }

func (o *output) init() {
	o.clients, o.repaired = map[*Client]struct{}{}, true
	o.fed, o.room = make(chan struct{}, 1), make(chan struct{}, 1)
}

func signal(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// publish gives output to every client and to the model. A client with no room for it loses what waits for it and is painted anew
// when it reads again. Only while none that reads has room does it wait, and never long: so the fastest client sees every byte,
// and nobody waits for another one.
func (o *output) publish(all, shown []byte) {
	if len(all) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.awaitRoom(len(shown))
	for c := range o.clients {
		c.add(shown)
	}
	o.backlog = append(o.backlog, chunk{all, shown})
	o.waiting += len(all)
	for o.waiting > backlogMost && len(o.backlog) > 1 {
		o.lose()
	}
	signal(o.fed)
}

// awaitRoom is called with the lock held and gives it up while it waits.
func (o *output) awaitRoom(n int) {
	if !o.full(n) {
		return
	}
	limit := time.NewTimer(roomWithin)
	defer limit.Stop()
	for o.full(n) {
		o.mu.Unlock()
		select {
		case <-o.room:
			o.mu.Lock()
		case <-limit.C:
			o.mu.Lock()
			return
		}
	}
}

// full reports whether there are clients that read and none of them has room for n bytes.
func (o *output) full(n int) bool {
	some := false
	for c := range o.clients {
		if c.stale {
			continue
		}
		if c.queued+n <= clientMost {
			return false
		}
		some = true
	}
	return some
}

// lose drops the oldest output that waits for the model, and keeps what it says of the terminal's state.
func (o *output) lose() {
	oldest := o.backlog[0]
	o.backlog[0] = chunk{} // the array lives on
	o.backlog = o.backlog[1:]
	o.waiting -= len(oldest.all)
	o.state = skim(o.state, oldest.all)
	if over := len(o.state) - stateMost; over > 0 {
		o.state = trimPieces(o.state, over)
	}
	o.lost, o.repaired, o.lostAt = true, false, time.Now()
}

// take returns output for the model: whole pieces, at most so many bytes unless the first one is longer. lost is true if output
// before it is missing.
func (o *output) take(most int) (b []byte, lost bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lost = o.lost
	b, o.state, o.lost = o.state, nil, false
	n := 0
	for n < len(o.backlog) && (len(b) == 0 || len(b)+len(o.backlog[n].all) <= most) {
		b = append(b, o.backlog[n].all...)
		o.waiting -= len(o.backlog[n].all)
		n++
	}
	clear(o.backlog[:n])
	o.backlog = o.backlog[n:]
	if len(o.backlog) == 0 {
		o.backlog = nil
	}
	return b, lost
}

// await returns once there is output for the model, and it is not lost faster than the model could follow; false if there will be
// none any more.
func (o *output) await() bool {
	for {
		o.mu.Lock()
		some, over := len(o.backlog) > 0, o.over
		calm := calmAfter - time.Since(o.lostAt)
		o.mu.Unlock()
		switch {
		case over:
			return some
		case some && calm <= 0:
			return true
		case some:
			o.pause(calm)
			return true
		}
		<-o.fed
	}
}

// pause waits until the program writes less.
func (o *output) pause(calm time.Duration) {
	for deadline := time.Now().Add(calmWithin); calm > 0 && time.Now().Before(deadline); {
		timer := time.NewTimer(calm)
		<-timer.C
		o.mu.Lock()
		calm = calmAfter - time.Since(o.lostAt)
		if o.over {
			calm = 0
		}
		o.mu.Unlock()
	}
}

// wasLost reports, once, that output was lost that nothing has repaired, when the model is up to date.
func (o *output) wasLost() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.repaired || len(o.backlog) > 0 {
		return false
	}
	o.repaired = true
	return true
}

// end says that there is no more output.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	for c := range o.clients {
		signal(c.wake)
	}
	signal(o.fed)
}

// skim appends to state what of b changes the state of the terminal rather than its cells, and queries.
func skim(state, b []byte) []byte {
	for len(b) > 0 {
		k, n := piece(b, 0)
		if k == partial {
			break
		}
		if k != text && k != broken && (query(k, b[:n]) || stateful(k, b[:n])) {
			state = append(state, b[:n]...)
		}
		b = b[n:]
	}
	return state
}

// trimPieces drops whole pieces from the start of b, at least over bytes.
func trimPieces(b []byte, over int) []byte {
	at := 0
	for at < over && at < len(b) {
		_, n := piece(b[at:], 0)
		if n == 0 {
			return nil
		}
		at += n
	}
	return append([]byte{}, b[at:]...)
}
