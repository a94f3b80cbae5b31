package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// subscriber follows the events of a session from the first on and resumes whenever its stream breaks.
type subscriber struct {
	manner string // steady, restless or slow

	mu   sync.Mutex // guards the rest
	seen []event
	end  context.CancelFunc
	done chan struct{}
}

func (b *subscriber) last() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) == 0 {
		return 0
	}
	return b.seen[len(b.seen)-1].seq
}

// subscribe starts the subscribers of a session; they go on until they are ended.
func (w *world) subscribe(s *subject, seed uint64) {
	for i, manner := range []string{"steady", "restless", "slow"} {
		ctx, cancel := context.WithCancel(context.Background())
		b := &subscriber{manner: manner, end: cancel, done: make(chan struct{})}
		s.subs = append(s.subs, b)
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		go func() {
			defer close(b.done)
			for ctx.Err() == nil {
				w.follow(ctx, s, b, random)
				w.count("resumes")
				pause(ctx, time.Duration(20+random.IntN(200))*time.Millisecond)
			}
		}()
	}
}

// follow reads one stream until it breaks or the subscriber has enough of it.
func (w *world) follow(ctx context.Context, s *subject, b *subscriber, random *rand.Rand) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if b.manner == "restless" {
		time.AfterFunc(time.Duration(random.IntN(4000))*time.Millisecond, cancel)
	}
	defer w.register(cancel)()
	url, last := w.srv.url+"/api/v1/managed_agents/sessions/"+s.id+"/events", strconv.FormatInt(b.last(), 10)
	byHeader := random.IntN(2) == 0
	if !byHeader {
		url += "?after=" + last
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	if byHeader {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		if res.StatusCode < 500 {
			w.violated(s.id, violation{"events", fmt.Sprintf("a subscriber was refused: %s", res.Status)})
		}
		return
	}
	_ = readEvents(res.Body, func(e event) { // a stream that breaks is resumed
		b.mu.Lock()
		b.seen = append(b.seen, e)
		b.mu.Unlock()
		w.count("events")
		if b.manner == "slow" && random.IntN(40) == 0 {
			pause(ctx, time.Duration(random.IntN(1500))*time.Millisecond)
		}
	})
}

func (s *subject) unsubscribe() {
	for _, b := range s.subs {
		b.end()
	}
	for _, b := range s.subs {
		<-b.done
	}
}
