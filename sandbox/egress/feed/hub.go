package feed

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
)

const (
	maxStreams  = 64
	maxReplicas = 1024 // that are remembered
	lookEvery   = time.Second
	checkEvery  = 30 * time.Second // for ended attempts, and replicas that are gone
	checkWithin = 8 * time.Second
)

// HubOptions say what a Hub is for. All are required.
type HubOptions struct {
	Secret  string            // that replicas present
	Key     ed25519.PublicKey // of whoever signs credentials
	Leading func() bool       // this server is the one that opens attempts and makes events of decisions
	// Over returns which of some attempts are over. It is asked about those that a replica lets through and nobody here has opened.
	Over   func(ctx context.Context, keys []egress.Key) ([]egress.Key, error)
	Report func(egress.Record) // gets each decision that an event may be made of, while this server leads; must not block
	Logger *slog.Logger
}

// Hub tells all replicas what to let through and keeps what they decided. It has a goroutine that looks after what replicas hold,
// and three for each stream; Stop waits for all. It is safe for concurrent use.
type Hub struct {
	o      HubOptions
	secret [sha256.Size]byte
	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup
	lost   atomic.Int64

	mu       sync.Mutex // guards what follows
	open     map[string]attempt
	streams  map[*stream]struct{}
	rings    rings
	replicas map[string]progress
	stopped  bool
}

// attempt is what is open of a session.
type attempt struct {
	key egress.Key
	egress.Session
}

// progress is up to where decisions of a replica are here.
type progress struct {
	have, reported uint64
	away           bool // it had no stream when that was last looked at
}

// NewHub returns a hub without streams. ServeHTTP takes them; Stop must be called.
func NewHub(o HubOptions) *Hub {
	h := &Hub{
		o: o, secret: sha256.Sum256([]byte(o.Secret)), open: map[string]attempt{}, streams: map[*stream]struct{}{},
		rings: rings{of: map[egress.Key][]kept{}}, replicas: map[string]progress{},
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.wg.Go(h.look)
	return h
}

// Open lets an attempt through, and no other of its session, as long as this server leads. It may be repeated.
func (h *Hub) Open(key egress.Key, s egress.Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turnLocked() {
		h.open[key.Session] = attempt{key, s}
		h.markLocked(key)
	}
}

// Close ends an attempt, and those before it.
func (h *Hub) Close(key egress.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endLocked(key)
}

// End ends whatever replicas let through of a session, opened here or by another server.
func (h *Hub) End(session string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endLocked(egress.Key{Session: session, Attempt: math.MaxInt32})
}

func (h *Hub) endLocked(last egress.Key) {
	if h.open[last.Session].key.Attempt <= last.Attempt {
		delete(h.open, last.Session)
	}
	h.rings.closed(func(key egress.Key, _ string) bool { return key.Session == last.Session && key.Attempt <= last.Attempt })
	h.markLocked(last)
}

// Installed says that the requirements of an attempt are installed.
func (h *Hub) Installed(key egress.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a, ok := h.open[key.Session]; ok && a.key == key && a.Installing {
		a.Installing = false
		h.open[key.Session] = a
		h.markLocked(key)
	}
}

// Recent returns the last decisions on an attempt, oldest first, at most 256.
func (h *Hub) Recent(key egress.Key) []egress.Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rings.get(key)
}

// Replicas returns how many are connected.
func (h *Hub) Replicas() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.streams)
}

// Lost returns how many decisions replicas no longer had when they could have told of them.
func (h *Hub) Lost() int64 { return h.lost.Load() }

// markLocked has all streams say how a session stands now; if nothing is open of it, that attempts up to the key's are over.
func (h *Hub) markLocked(key egress.Key) {
	for s := range h.streams {
		s.markLocked(key)
	}
}

// ServeHTTP takes a stream. Without the secret nothing of a request is read.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got := sha256.Sum256([]byte(secret))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], h.secret[:]) != 1 {
		h.o.Logger.Warn("a replica of the egress proxy has another secret", "remote", r.RemoteAddr)
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	if !h.enter() {
		http.Error(w, "stopped", http.StatusServiceUnavailable)
		return
	}
	defer h.wg.Done()
	err := h.serve(w, r)
	h.o.Logger.Info("stream of an egress replica ended", "remote", r.RemoteAddr, "err", err)
}

func (h *Hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped || len(h.streams) >= maxStreams {
		return false
	}
	h.wg.Add(1)
	return true
}

// join adds a stream and returns up to where the decisions of its replica are here. A stream that the replica has already is dead.
func (h *Hub) join(s *stream) (have uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for old := range h.streams {
		if old.replica == s.replica {
			old.cancel()
		}
	}
	if len(h.replicas) >= maxReplicas {
		maps.DeleteFunc(h.replicas, func(_ string, p progress) bool { return p.away })
	}
	p := h.replicas[s.replica]
	p.away = false
	h.replicas[s.replica] = p
	h.streams[s] = struct{}{}
	have = p.have
	if s.leads = h.o.Leading(); s.leads {
		s.turned = true
		have = min(have, s.told)
		for _, a := range h.open {
			s.markLocked(a.key)
		}
	}
	return have
}

func (h *Hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
}

// take keeps decisions, and returns up to where events are made of them: 0 if that is not for this server to do.
func (h *Hub) take(s *stream, m message) (told uint64) {
	h.lost.Add(int64(min(m.Lost, 1<<32)))
	h.mu.Lock()
	defer h.mu.Unlock()
	leading := h.o.Leading()
	if s.leads = leading && (s.leads || m.Again); s.leads != leading {
		leading = false // the replica has not begun again yet
	}
	p := h.replicas[s.replica]
	for i := range m.Records {
		number, rec := m.Records[i].Number, m.Records[i].fromWire()
		h.rings.put(s.replica, rec)
		p.have = max(p.have, number)
		if leading && number > max(p.reported, s.told) {
			p.reported = number
			if !rec.Open {
				h.o.Report(rec)
			}
		}
	}
	h.replicas[s.replica] = p
	if !leading {
		return 0
	}
	return p.reported
}

// look waits for leadership, and now and then asks which attempts are over of those that are let through.
func (h *Hub) look() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for checked := time.Now(); ; {
		select {
		case <-tick.C:
		case <-h.ctx.Done():
			return
		}
		h.mu.Lock()
		h.turnLocked()
		h.mu.Unlock()
		if time.Since(checked) >= checkEvery {
			h.settle()
			h.check(h.held())
			checked = time.Now()
		}
	}
}

// turnLocked follows leadership, and tells whether this server leads. What was open here when it is lost says nothing any more: another
// server has opened it again, or ended it.
func (h *Hub) turnLocked() bool {
	leading := h.o.Leading()
	if !leading {
		clear(h.open)
	}
	for s := range h.streams {
		if s.turnLocked(leading) && leading {
			for _, a := range h.open {
				s.markLocked(a.key)
			}
		}
	}
	return leading
}

// settle marks connections of replicas as ended that were away twice.
func (h *Hub) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	here := map[string]bool{}
	for s := range h.streams {
		here[s.replica] = true
	}
	gone := map[string]bool{}
	for id, p := range h.replicas {
		gone[id] = p.away && !here[id]
		p.away = !here[id]
		h.replicas[id] = p
	}
	h.rings.closed(func(_ egress.Key, replica string) bool { return gone[replica] })
}

// held returns the attempts that are let through by anybody.
func (h *Hub) held() []egress.Key {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[egress.Key]bool{}
	for _, a := range h.open {
		all[a.key] = true
	}
	for s := range h.streams {
		for session, n := range s.holds {
			all[egress.Key{Session: session, Attempt: n}] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// check ends attempts that are over, which nobody may have been there to say when they ended.
func (h *Hub) check(keys []egress.Key) {
	if len(keys) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, checkWithin)
	defer cancel()
	over, err := h.o.Over(ctx, keys)
	if err != nil {
		h.o.Logger.Warn("attempts that egress replicas let through could not be checked", "err", err)
		return // they are checked again
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range over {
		h.endLocked(key)
	}
}

// Stop ends all streams and waits until nothing runs any more. It is idempotent.
func (h *Hub) Stop() {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	h.cancel()
	h.wg.Wait()
}
