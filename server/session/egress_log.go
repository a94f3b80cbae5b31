package session

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/egress"
	"github.com/litellm-agent-platform/lap/sandbox/egress/policy"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	egressQueue  = 4096            // decisions that wait to be stored; further ones are counted
	egressGroup  = 64              // decisions that are stored together at most
	egressRepeat = time.Minute     // between two events of the same kind of denial
	egressKinds  = 200             // of one attempt that are told
	egressTold   = 16384           // attempts of which is known what was told; then all is forgotten
	egressRetry  = time.Second     // before the database is tried again
	egressWithin = 5 * time.Second // for one unit of work
)

// egressLog makes events of decisions: one of each kind of denial at once and then one a minute, with the number of those since
// the last, and one of each kind of permission. Its one goroutine stores them.
type egressLog struct {
	store   *store.Store
	log     *slog.Logger
	in      chan egress.Record
	unheard atomic.Int64
	cancel  context.CancelFunc
	done    chan struct{}

	mu   sync.Mutex // guards told
	told map[egress.Key]map[egressKind]*telling
}

// egressKind is what decisions have in common that are told as one.
type egressKind struct {
	verdict, rule, entry, host string
	port                       uint16
}

type telling struct {
	last  time.Time
	since int64 // decisions since then
}

func newEgressLog(s *store.Store, log *slog.Logger) *egressLog {
	ctx, cancel := context.WithCancel(context.Background())
	l := &egressLog{
		store: s, log: log, in: make(chan egress.Record, egressQueue), cancel: cancel, done: make(chan struct{}),
		told: map[egress.Key]map[egressKind]*telling{},
	}
	go l.run(ctx)
	return l
}

// close ends the goroutine. What waits is not stored: its sandboxes have lost their way out with the proxy.
func (l *egressLog) close() {
	l.cancel()
	<-l.done
}

// report takes a decision. It never blocks.
func (l *egressLog) report(r egress.Record) {
	select {
	case l.in <- r:
	default:
		l.unheard.Add(1)
	}
}

func (l *egressLog) forget(key egress.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.told, key)
}

func (l *egressLog) run(ctx context.Context) {
	defer close(l.done)
	var next *egress.Record // read, and not of the group before
	for {
		if next == nil {
			select {
			case r := <-l.in:
				next = &r
			case <-ctx.Done():
				return
			}
		}
		var group []egress.Record
		group, next = l.group(*next)
		if events := l.events(group); len(events) > 0 {
			l.append(ctx, group[0].Key, events)
		}
	}
}

// group returns a decision with those of the same attempt that wait behind it, and the first that is of another.
func (l *egressLog) group(first egress.Record) (group []egress.Record, next *egress.Record) {
	group = append(group, first)
	for len(group) < egressGroup {
		select {
		case r := <-l.in:
			if r.Key != first.Key {
				return group, &r
			}
			group = append(group, r)
		default:
			return group, nil
		}
	}
	return group, nil
}

// events are what is to be told of decisions on one attempt.
func (l *egressLog) events(group []egress.Record) (list []store.NewEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range group {
		d := decision(r)
		if d.Verdict == VerdictFailed || d.Rule == string(policy.RulePlatform) {
			continue
		}
		denied := d.Verdict == VerdictDenied || d.Observed
		count := l.count(r.Key, d, denied)
		if count == 0 {
			continue
		}
		data := map[string]any{
			"method": d.Method, "host": d.Host, "port": d.Port, "address": orNull(d.Address), "rule": d.Rule, "entry": orNull(d.Entry), "reason": d.Reason,
		}
		typ := "egress.allowed"
		if denied {
			typ = "egress.denied"
			data["count"], data["observed"] = count, d.Observed
		}
		list = append(list, store.NewEvent{Type: typ, Attempt: int32(r.Attempt), Time: d.Time, Data: data})
	}
	return list
}

// count returns how many decisions an event now stands for, 0 if there is to be none.
func (l *egressLog) count(key egress.Key, d EgressDecision, denied bool) int64 {
	kinds := l.told[key]
	if kinds == nil {
		if len(l.told) >= egressTold {
			clear(l.told)
		}
		kinds = map[egressKind]*telling{}
		l.told[key] = kinds
	}
	kind := egressKind{d.Verdict, d.Rule, d.Entry, d.Host, d.Port}
	t := kinds[kind]
	if t == nil {
		if len(kinds) >= egressKinds {
			l.unheard.Add(1)
			return 0
		}
		t = &telling{}
		kinds[kind] = t
	}
	t.since++
	if !t.last.IsZero() && (!denied || d.Time.Sub(t.last) < egressRepeat) {
		return 0
	}
	n := t.since
	t.last, t.since = d.Time, 0
	return n
}

// append stores events of an attempt that goes on, and tries again while the database is away.
func (l *egressLog) append(ctx context.Context, key egress.Key, events []store.NewEvent) {
	for {
		err := l.try(ctx, key, events)
		switch {
		case err == nil, errors.Is(err, store.ErrNotFound):
			return
		case !errors.Is(err, store.ErrUnavailable):
			l.log.Error("events of the way out are lost", "session_id", key.Session, "err", err)
			return
		}
		select {
		case <-time.After(egressRetry):
		case <-ctx.Done():
			return
		}
	}
}

func (l *egressLog) try(ctx context.Context, key egress.Key, events []store.NewEvent) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), egressWithin)
	defer cancel()
	return l.store.Session(ctx, key.Session, func(tx *store.SessionTx) error {
		if tx.Session.Attempt != int32(key.Attempt) || !live(tx.Session.Status) {
			return nil
		}
		for _, e := range events {
			tx.Append(e)
		}
		return nil
	})
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
