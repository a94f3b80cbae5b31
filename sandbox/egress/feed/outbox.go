package feed

import (
	"sync"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
)

var outboxLen uint64 = 4096 // decisions that are kept for servers that do not have them

// outbox holds the last decisions of a replica, numbered from 1.
type outbox struct {
	mu    sync.Mutex // guards what follows
	ring  []egress.Record
	last  uint64        // number of the newest
	told  uint64        // events were made up to here
	added chan struct{} // closed and replaced by each add
}

func newOutbox() *outbox {
	return &outbox{ring: make([]egress.Record, outboxLen), added: make(chan struct{})}
}

// add never blocks.
func (o *outbox) add(r egress.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	o.ring[o.last%outboxLen] = r
	close(o.added)
	o.added = make(chan struct{})
}

// after returns what comes after a number, at most as much as a message holds, how many of them are lost, and what is closed when
// there is more.
func (o *outbox) after(number uint64) (list []record, lost uint64, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.last > outboxLen && number < o.last-outboxLen {
		lost = o.last - outboxLen - number
		number += lost
	}
	for number < o.last && len(list) < maxRecords {
		number++
		list = append(list, toWire(number, o.ring[number%outboxLen]))
	}
	return list, lost, o.added
}

func (o *outbox) setTold(number uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = max(o.told, min(number, o.last))
}

func (o *outbox) getTold() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.told
}
