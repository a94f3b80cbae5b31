package agent

import (
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

const (
	deltaInterval = 50 * time.Millisecond  // at most 20 records a second for one part
	deltaMost     = 64 << 10               // bytes of pending text that do not wait
	fullRetry     = 100 * time.Millisecond // between two tries to write what the disk has no room for
	slowerAfter   = 1000                   // deltas of a turn after which the interval grows by itself once more
	maxDeltas     = 7_000                  // of one turn; parts and tools still get through after that
	maxRecords    = 10_000                 // of one turn, its start and end not counted
)

// delta is what a harness emits as message.delta, and with the offset what the log has. Offset counts the Unicode code points
// of the part's text before it.
type delta struct {
	PartID string `json:"part_id"`
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
}

// recorder writes what the harness emits to the event log, in order, one goroutine for all: deltas of one part are merged, and
// a turn that says too much is cut short with a marker. Safe for concurrent use.
type recorder struct {
	events *eventLog
	log    *slog.Logger
	phase  func(phase, detail string) // where phase events go
	giveUp <-chan struct{}            // closed when what the disk has no room for may be lost
	in     chan recorderInput
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}

	turn turnRecord // owned by the goroutine
}

// recorderInput is one thing to do, in order: an event, or a turn that begins (id set) or ends (id empty).
type recorderInput struct {
	event *harness.Event
	turn  string
	did   chan<- struct{} // closed when a turn's begin or end was taken note of
}

// turnRecord is what is known of the deltas and records of one turn.
type turnRecord struct {
	id      string
	parts   map[string]*partText
	order   []*partText // with pending text
	deltas  int
	records int
}

type partText struct {
	id      string
	offset  int64
	pending []byte
	due     time.Time // when the next delta may go
}

func newRecorder(events *eventLog, log *slog.Logger, phase func(phase, detail string), giveUp <-chan struct{}) *recorder {
	r := &recorder{
		events: events, log: log, phase: phase, giveUp: giveUp,
		in: make(chan recorderInput, 64), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go r.run()
	return r
}

// emit is the Emit of a harness.Config. It waits if the disk is slower than the harness.
func (r *recorder) emit(e harness.Event) { r.put(recorderInput{event: &e}) }

// begin makes id the turn whose events are recorded.
func (r *recorder) begin(id string) { r.mark(id) }

// end returns when everything emitted so far is on the log; further events of the turn are dropped.
func (r *recorder) end() { r.mark("") }

func (r *recorder) mark(id string) {
	did := make(chan struct{})
	r.put(recorderInput{turn: id, did: did})
	select {
	case <-did:
	case <-r.done:
	}
}

func (r *recorder) put(i recorderInput) {
	select {
	case r.in <- i:
	case <-r.stop:
	}
}

// close records what was emitted before it and ends the goroutine. Idempotent.
func (r *recorder) close() {
	r.once.Do(func() { close(r.stop) })
	<-r.done
}

func (r *recorder) run() {
	defer close(r.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if due, waiting := r.turn.nextDue(); waiting {
			timer.Reset(time.Until(due))
		} else {
			timer.Stop()
		}
		select {
		case i := <-r.in:
			r.take(i)
		case <-timer.C:
			r.flush(time.Now())
		case <-r.stop:
			r.drain()
			return
		}
	}
}

func (r *recorder) drain() {
	for {
		select {
		case i := <-r.in:
			r.take(i)
		default:
			r.flush(time.Time{})
			return
		}
	}
}

func (r *recorder) take(i recorderInput) {
	if i.event != nil {
		r.record(*i.event)
		return
	}
	r.flush(time.Time{})
	r.turn = turnRecord{id: i.turn, parts: map[string]*partText{}}
	close(i.did)
}

func (r *recorder) record(e harness.Event) {
	if e.Type == typePhase {
		r.recordPhase(e.Data)
		return
	}
	if e.TurnID != "" && e.TurnID != r.turn.id {
		return // of a turn that has ended
	}
	if e.Type == typeDelta && e.TurnID != "" {
		r.recordDelta(e.Data)
		return
	}
	r.flush(time.Time{})
	data, err := bounded(e.Type, e.Data)
	if err != nil {
		r.log.Warn("harness event is not JSON", "type", e.Type, "err", err)
		return
	}
	r.append(e.Type, e.TurnID, data)
}

func (r *recorder) recordPhase(data any) {
	var p struct{ Phase, Detail string }
	if b, err := json.Marshal(data); err == nil && json.Unmarshal(b, &p) == nil {
		r.phase(p.Phase, p.Detail)
	}
}

func (r *recorder) recordDelta(data any) {
	var d delta
	if b, err := json.Marshal(data); err != nil || json.Unmarshal(b, &d) != nil || d.Text == "" {
		return
	}
	p := r.turn.parts[d.PartID]
	if p == nil {
		p = &partText{id: d.PartID}
		r.turn.parts[d.PartID] = p
	}
	if len(p.pending) == 0 {
		r.turn.order = append(r.turn.order, p)
	}
	p.pending = append(p.pending, d.Text...)
	if len(p.pending) >= deltaMost {
		p.due = time.Time{}
	}
	r.flush(time.Now())
}

// flush writes the pending text of all parts that are due at now; the zero time means of all.
func (r *recorder) flush(now time.Time) {
	waiting := r.turn.order[:0]
	for _, p := range r.turn.order {
		if !now.IsZero() && now.Before(p.due) {
			waiting = append(waiting, p)
			continue
		}
		r.append(typeDelta, r.turn.id, delta{PartID: p.id, Offset: p.offset, Text: string(p.pending)})
		p.offset += int64(utf8.RuneCount(p.pending))
		p.pending = nil
		p.due = time.Now().Add(deltaInterval * time.Duration(1+r.turn.deltas/slowerAfter))
	}
	r.turn.order = waiting
}

// append writes a record if the turn may still say something. It waits for room on the disk, and the harness with it: the log
// must not tell less than the turn's end.
func (r *recorder) append(typ, turnID string, data any) {
	if turnID != "" && !r.turn.admit(typ) {
		return
	}
	if turnID != "" && r.turn.records == maxRecords {
		typ, data = typeHarnessEvent, map[string]any{"kind": "truncated", "message": "the turn has too many events; only its end follows"}
	}
	for {
		err := r.events.append(typ, turnID, data)
		if err == nil {
			return
		}
		if errors.Is(err, errLogClosed) || !r.waitForRoom() {
			r.log.Error("record was lost", "type", typ, "err", err)
			return
		}
	}
}

func (r *recorder) waitForRoom() bool {
	timer := time.NewTimer(fullRetry)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.giveUp:
	case <-r.stop:
	}
	return false
}

// admit counts a record and reports whether it is written.
func (t *turnRecord) admit(typ string) bool {
	if typ == typeDelta {
		if t.deltas >= maxDeltas {
			return false
		}
		t.deltas++
	}
	t.records++
	return t.records <= maxRecords
}

func (t *turnRecord) nextDue() (time.Time, bool) {
	var due time.Time
	for i, p := range t.order {
		if i == 0 || p.due.Before(due) {
			due = p.due
		}
	}
	return due, len(t.order) > 0
}
