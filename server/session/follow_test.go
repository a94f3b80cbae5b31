package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(storetest.Runner(m))
}

var errEnough = errors.New("enough")

// follow collects frames until one of typ has come n times.
func follow(ctx context.Context, s *session.Service, id string, after int64, typ string, n int, each func()) ([]session.Frame, error) {
	var got []session.Frame
	err := s.Follow(ctx, id, after, func(frames []session.Frame) error {
		if each != nil {
			each()
		}
		got = append(got, frames...)
		for _, f := range frames {
			if f.Type == typ {
				n--
			}
		}
		if n <= 0 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return got, err
}

func TestEverySubscriberSeesWhatTheReplayShows(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const turns, deltas = 5, 200
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
			b.emit("turn.started", turn.ID, `{}`)
			for i := range deltas {
				b.emit("message.delta", turn.ID, fmt.Sprintf(`{"part_id":"p","offset":%d,"text":"x"}`, i))
			}
			b.emit("turn.completed", turn.ID, `{"parts":[],"tokens":{"input":0,"output":0,"cache_read":0,"cache_write":0},"cost":0}`)
		}
		id := r.open(session.CreateParams{})
		var wg sync.WaitGroup
		got := make([][]session.Frame, 8)
		for i := range got {
			wg.Go(func() {
				// Odd ones break off after every batch and resume from their cursor.
				var after int64
				for {
					var part []session.Frame
					err := r.service.Follow(t.Context(), id, after, func(frames []session.Frame) error {
						part = append(part, frames...)
						for _, f := range frames {
							after = f.Seq
						}
						if i%2 == 1 || countType(append(got[i], part...), "turn.completed") == turns {
							return errEnough
						}
						return nil
					})
					got[i] = append(got[i], part...)
					if !errors.Is(err, errEnough) {
						t.Error(err)
						return
					}
					if countType(got[i], "turn.completed") == turns {
						return
					}
				}
			})
		}
		for i := range turns {
			r.send(id, fmt.Sprint(i))
		}
		wg.Wait()
		replay, err := follow(t.Context(), r.service, id, 0, "turn.completed", turns, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := countType(replay, "message.delta"); n != turns*deltas {
			t.Errorf("%d deltas", n)
		}
		for i := range got {
			if !slices.EqualFunc(got[i], replay, func(a, b session.Frame) bool { return a.Seq == b.Seq && string(a.Event) == string(b.Event) }) {
				t.Errorf("subscriber %d saw %d frames, the replay has %d, or others", i, len(got[i]), len(replay))
			}
		}
		for i := 1; i < len(replay); i++ {
			if replay[i].Seq <= replay[i-1].Seq {
				t.Fatalf("seq %d after %d", replay[i].Seq, replay[i-1].Seq)
			}
		}
	})
}

func countType(frames []session.Frame, typ string) int {
	n := 0
	for _, f := range frames {
		if f.Type == typ {
			n++
		}
	}
	return n
}

func TestASlowSubscriberMissesNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		const n = 300 // more batches than a subscriber's backlog
		joined, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		done := make(chan []session.Frame)
		go func() {
			got, err := follow(t.Context(), r.service, id, 0, "probe", n, func() {
				once.Do(func() { close(joined); <-release })
			})
			if err != nil {
				t.Error(err)
			}
			done <- got
		}()
		<-joined
		for range n {
			err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
				tx.Append(store.NewEvent{Type: "probe"})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		close(release)
		if got := countType(<-done, "probe"); got != n {
			t.Errorf("saw %d of %d", got, n)
		}
	})
}

func TestJoiningWhileEventsArriveShowsEachOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		const n = 400
		var wg sync.WaitGroup
		wg.Go(func() {
			for range n {
				err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
					tx.Append(store.NewEvent{Type: "probe"})
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		for seen := 0; seen < n && !t.Failed(); {
			got, err := follow(t.Context(), r.service, id, 0, "probe", min(seen+20, n), nil)
			if err != nil {
				t.Fatal(err)
			}
			seen = countType(got, "probe")
			for i := 1; i < len(got); i++ {
				if got[i].Seq <= got[i-1].Seq {
					t.Fatalf("seq %d after %d", got[i].Seq, got[i-1].Seq)
				}
			}
		}
		wg.Wait()
	})
}

func TestFollowEndsWithItsContextItsReaderAndTheService(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		ctx, cancel := context.WithCancel(t.Context())
		err := r.service.Follow(ctx, id, 0, func([]session.Frame) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("context: %v", err)
		}
		if err := r.service.Follow(t.Context(), "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a", 0, nil); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("unknown session: %v", err)
		}
		other := session.NewService(r.o)
		ended := make(chan error)
		began := make(chan struct{})
		var once sync.Once
		go func() {
			ended <- other.Follow(t.Context(), id, 0, func([]session.Frame) error { once.Do(func() { close(began) }); return nil })
		}()
		<-began
		other.Close()
		if err := <-ended; err != nil {
			t.Errorf("close: %v", err)
		}
	})
}
