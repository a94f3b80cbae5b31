package session

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/store"
)

// Heartbeat is how often Follow emits nothing, to keep a quiet stream alive.
const Heartbeat = 15 * time.Second

const (
	replayPage = 500     // events read at once,
	pageBytes  = 1 << 20 // unless they are larger than this
	subBacklog = 64      // batches a subscriber may be behind before it goes back to the store
	subBytes   = 4 << 20 // and their size, unless it is one batch
	timeLayout = "2006-01-02T15:04:05.000Z07:00"
)

// Frame is one event, encoded once for all subscribers.
type Frame struct {
	Seq    int64
	Type   string
	TurnID string // empty: of no turn
	Event  []byte // the public Event as one line of JSON
	wire   *wire
}

// wire is what subscribers send of an event.
type wire struct {
	once  sync.Once
	bytes []byte
}

// Wire returns what encode makes of the event. It is called once, and all who got the frame share what it returned.
func (f Frame) Wire(encode func(Frame) []byte) []byte {
	f.wire.once.Do(func() { f.wire.bytes = encode(f) })
	return f.wire.bytes
}

// EncodeEvent returns the public form of an event, as one line of JSON.
func EncodeEvent(e store.Event) []byte {
	b, err := json.Marshal(struct {
		Type   string          `json:"type"`
		Seq    int64           `json:"seq"`
		TurnID *string         `json:"turn_id"`
		Time   string          `json:"time"`
		Data   json.RawMessage `json:"data"`
	}{e.Type, e.Seq, e.TurnID, FormatTime(e.Time), e.Data})
	if err != nil {
		panic("event data from the store is not JSON: " + err.Error())
	}
	return b
}

// FormatTime writes a time as the public API does: RFC 3339, UTC, milliseconds.
func FormatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// hub fans committed events out. Each session with subscribers has one topic whose pump reads new events once from the store,
// encodes them once and gives them to all. A subscriber that falls behind is cut off and reads from the store again.
type hub struct {
	store   *store.Store
	closing <-chan struct{}
	wg      sync.WaitGroup // pumps

	mu     sync.Mutex // guards all below
	topics map[string]*topic
}

type topic struct {
	wake     chan struct{} // buffered 1: there may be new events
	stop     chan struct{}
	last     int64 // events up to here have been fanned out
	subs     map[*sub]struct{}
	watchers map[chan struct{}]struct{}
	pumping  bool
}

// sub is a subscriber of a topic.
type sub struct {
	frames chan []Frame // closed when the subscriber was too slow
	behind atomic.Int64 // bytes in frames
}

// offer gives the subscriber a batch if it is not too far behind.
func (s *sub) offer(frames []Frame, size int64) bool {
	if behind := s.behind.Add(size); behind > subBytes && behind > size {
		return false
	}
	select {
	case s.frames <- frames:
		return true
	default:
		return false
	}
}

func sizeOf(frames []Frame) (n int64) {
	for _, f := range frames {
		n += int64(len(f.Event))
	}
	return n
}

func newHub(s *store.Store, closing <-chan struct{}) *hub {
	return &hub{store: s, closing: closing, topics: map[string]*topic{}}
}

func (h *hub) wait() { h.wg.Wait() }

// notify is told of every commit. It never blocks.
func (h *hub) notify(c store.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.SessionID != "" {
		if t := h.topics[c.SessionID]; t != nil {
			t.poke(c)
		}
		return
	}
	for _, t := range h.topics {
		t.poke(c)
	}
}

func (t *topic) poke(c store.Change) {
	signal(t.wake)
	if c.Extent == store.OnlyProgress {
		return
	}
	for w := range t.watchers {
		signal(w)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (h *hub) topic(id string) *topic {
	t := h.topics[id]
	if t == nil {
		t = &topic{wake: make(chan struct{}, 1), subs: map[*sub]struct{}{}, watchers: map[chan struct{}]struct{}{}}
		h.topics[id] = t
	}
	return t
}

// release forgets a topic that nobody uses; h.mu is held.
func (h *hub) release(id string, t *topic) {
	if len(t.subs) == 0 && t.pumping {
		close(t.stop)
		t.pumping = false
	}
	if len(t.subs) == 0 && len(t.watchers) == 0 && h.topics[id] == t {
		delete(h.topics, id)
	}
}

// watch returns a channel that gets a value after commits of a session that are more than its progress; several may be merged.
func (h *hub) watch(id string) (<-chan struct{}, func()) {
	w := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topic(id)
	t.watchers[w] = struct{}{}
	return w, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(t.watchers, w)
		h.release(id, t)
	}
}

// join subscribes. Events after the returned seq come through the channel; those up to it are in the store.
func (h *hub) join(id string, committed int64) (*sub, int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topic(id)
	if !t.pumping {
		t.pumping, t.last, t.stop = true, committed, make(chan struct{})
		h.wg.Add(1)
		go h.pump(id, t, t.stop)
	}
	s := &sub{frames: make(chan []Frame, subBacklog)}
	t.subs[s] = struct{}{}
	signal(t.wake)
	return s, t.last
}

func (h *hub) leave(id string, s *sub) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[id]; t != nil {
		delete(t.subs, s)
		h.release(id, t)
	}
}

func (h *hub) pump(id string, t *topic, stop chan struct{}) {
	defer h.wg.Done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-stop:
			return
		case <-h.closing:
			return
		case <-t.wake:
		}
		for h.fanOut(ctx, id, t, stop) {
		}
	}
}

// fanOut passes on one page of new events; it reports whether there may be more.
func (h *hub) fanOut(ctx context.Context, id string, t *topic, stop chan struct{}) bool {
	h.mu.Lock()
	after := t.last
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	frames, more, err := h.load(ctx, id, after)
	if err != nil {
		// The database is away; try again until it is back or nobody listens.
		select {
		case <-stop:
		case <-h.closing:
		case <-time.After(time.Second):
			signal(t.wake)
		}
		return false
	}
	if len(frames) == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.last = frames[len(frames)-1].Seq
	size := sizeOf(frames)
	for s := range t.subs {
		if !s.offer(frames, size) {
			close(s.frames)
			delete(t.subs, s)
		}
	}
	return more
}

func (h *hub) load(ctx context.Context, id string, after int64) ([]Frame, bool, error) {
	events, more, err := h.store.EventsWithin(ctx, id, after, replayPage, pageBytes)
	frames := make([]Frame, len(events))
	for i, e := range events {
		frames[i] = Frame{Seq: e.Seq, Type: e.Type, Event: EncodeEvent(e), wire: &wire{}}
		if e.TurnID != nil {
			frames[i].TurnID = *e.TurnID
		}
	}
	return frames, more, err
}

// Follow emits a session's events after a cursor, first from the store and then live, each exactly once and in order, until ctx
// ends, emit fails or the server closes (then nil). emit gets nil when nothing happened for Heartbeat. store.ErrNotFound if
// there is no such session.
func (s *Service) Follow(ctx context.Context, sessionID string, after int64, emit func([]Frame) error) error {
	f, err := s.Subscribe(ctx, sessionID, after)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Follow(ctx, emit)
}

// Feed is a subscription to the events of a session after a cursor. It is for one goroutine at a time, and has to be closed.
type Feed struct {
	s     *Service
	id    string
	sub   *sub
	after int64 // emitted up to here
	from  int64 // what comes through sub begins after it
}

// Subscribe returns a feed of a session's events after a cursor. store.ErrNotFound if there is no such session.
func (s *Service) Subscribe(ctx context.Context, sessionID string, after int64) (*Feed, error) {
	f := &Feed{s: s, id: sessionID, after: after}
	return f, f.join(ctx)
}

func (f *Feed) join(ctx context.Context) error {
	sess, err := f.s.o.Store.GetSession(ctx, f.id)
	if err == nil {
		f.sub, f.from = f.s.hub.join(f.id, sess.LastSeq)
	}
	return err
}

// Close ends the subscription.
func (f *Feed) Close() {
	if f.sub != nil {
		f.s.hub.leave(f.id, f.sub)
	}
}

// CatchUp emits what was stored before the subscription. Follow does it too; done before, Follow has no need of the store unless
// the subscriber falls behind.
func (f *Feed) CatchUp(ctx context.Context, emit func([]Frame) error) error {
	for f.after < f.from {
		frames, _, err := f.s.hub.load(ctx, f.id, f.after)
		if err != nil {
			return err
		}
		if len(frames) == 0 {
			break
		}
		if err := emit(frames); err != nil {
			return err
		}
		f.after = frames[len(frames)-1].Seq
	}
	return nil
}

// Follow is Service.Follow from where the feed is.
func (f *Feed) Follow(ctx context.Context, emit func([]Frame) error) error {
	for {
		err := f.CatchUp(ctx, emit)
		if err == nil {
			err = f.live(ctx, emit)
		}
		if !errors.Is(err, errBehind) {
			return err
		}
		f.Close()
		if err := f.join(ctx); err != nil {
			return err
		}
	}
}

var errBehind = errors.New("subscriber is behind")

func (f *Feed) live(ctx context.Context, emit func([]Frame) error) error {
	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.s.closing:
			return nil
		case <-beat.C:
			if err := emit(nil); err != nil {
				return err
			}
		case frames, ok := <-f.sub.frames:
			if !ok {
				return errBehind
			}
			f.sub.behind.Add(-sizeOf(frames))
			for len(frames) > 0 && frames[0].Seq <= f.after {
				frames = frames[1:]
			}
			if len(frames) == 0 {
				continue
			}
			if err := emit(frames); err != nil {
				return err
			}
			f.after = frames[len(frames)-1].Seq
			beat.Reset(Heartbeat)
		}
	}
}
