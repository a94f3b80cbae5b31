package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// fold is what a client makes of events: the text of each part, and everything else as it came.
type fold struct {
	texts map[string]string // by turn and part
	whole map[string]bool
	rest  []string
	last  int64
}

func newFold() *fold { return &fold{texts: map[string]string{}, whole: map[string]bool{}} }

// add takes one event; only a gap in a part's text, or a number out of order, is an error.
func (f *fold) add(seq int64, typ, turnID string, event []byte) error {
	if seq <= f.last {
		return fmt.Errorf("seq %d after %d", seq, f.last)
	}
	f.last = seq
	var e struct {
		Data struct {
			PartID string `json:"part_id"`
			Offset int    `json:"offset"`
			Text   string `json:"text"`
			Part   sandboxd.OutputPart
		}
	}
	if err := json.Unmarshal(event, &e); err != nil {
		return err
	}
	key := turnID + " " + e.Data.PartID
	switch {
	case typ == "message.delta" && f.whole[key]:
		return fmt.Errorf("seq %d is a delta of a whole part", seq)
	case typ == "message.delta":
		if n := utf8.RuneCountInString(f.texts[key]); n != e.Data.Offset {
			return fmt.Errorf("seq %d has offset %d after %d code points", seq, e.Data.Offset, n)
		}
		f.texts[key] += e.Data.Text
		return nil
	case typ == "message.part":
		f.texts[key], f.whole[key] = *e.Data.Part.Text, true
	}
	f.rest = append(f.rest, string(event))
	return nil
}

func (f *fold) frames(frames []session.Frame) error {
	for _, fr := range frames {
		if err := f.add(fr.Seq, fr.Type, fr.TurnID, fr.Event); err != nil {
			return err
		}
	}
	return nil
}

func (f *fold) equal(other *fold) bool {
	return maps.Equal(f.texts, other.texts) && maps.Equal(f.whole, other.whole) && slices.Equal(f.rest, other.rest)
}

// chatter plays turns of random parts in random pieces. A part may stay open, and a turn end in any way; want is what is said.
type chatter struct {
	mu   sync.Mutex // guards the two below
	rnd  *rand.Rand
	want map[string]string
}

var pieces = []string{"a", "é", "𝄞 ", "\n", "\x00", `"part_id"`, "word ", strings.Repeat("long ", 300)}

func (c *chatter) play(b *box, turn sandboxd.Turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.emit("turn.started", turn.ID, `{}`)
	texts := map[string]string{}
	for range 1 + c.rnd.IntN(80) {
		id := fmt.Sprintf("p%d", len(texts))
		if open := slices.Sorted(maps.Keys(texts)); len(open) > 0 && c.rnd.IntN(4) > 0 {
			id = open[c.rnd.IntN(len(open))]
		}
		piece := pieces[c.rnd.IntN(len(pieces))]
		b.emit("message.delta", turn.ID, fmt.Sprintf(`{"part_id":%q,"offset":%d,"text":%s}`, id, utf8.RuneCountInString(texts[id]), quoted(piece)))
		texts[id] += piece
		if c.rnd.IntN(10) == 0 {
			b.emit("tool.started", turn.ID, `{"part_id":"t","part":{"id":"t","type":"tool"}}`)
		}
	}
	for id, said := range texts {
		c.want[turn.ID+" "+id] = said
		if c.rnd.IntN(5) > 0 {
			b.emit("message.part", turn.ID, fmt.Sprintf(`{"part_id":%q,"part":{"id":%q,"type":"text","text":%s}}`, id, id, quoted(said)))
		}
	}
	end := []string{"turn.completed", "turn.failed", "turn.aborted"}[c.rnd.IntN(3)]
	b.emit(end, turn.ID, `{"parts":[],"tokens":{"input":0,"output":0,"cache_read":0,"cache_write":0},"cost":0}`)
}

func quoted(s string) string {
	b, _ := json.Marshal(s) // a string always can be
	return string(b)
}

func TestTheFoldOfAnySubscriberIsThatOfTheReplay(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const turns = 12
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		c := &chatter{rnd: rand.New(rand.NewPCG(seed, 1)), want: map[string]string{}}
		r.rt.onTurn = c.play
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		var over atomic.Int64 // the number of the last event, once it is known
		var readers sync.WaitGroup
		folds := make([]*fold, 6)
		for i := range folds {
			folds[i] = newFold()
			readers.Go(func() { r.reconnect(id, folds[i], rand.New(rand.NewPCG(seed, uint64(i+2))), &over) })
		}
		for i := range turns {
			turn := r.send(id, "go on")
			if i%3 > 0 {
				r.wait(turn)
			}
			if i == turns-1 {
				r.wait(turn)
			}
		}
		over.Store(r.session(id).LastSeq)
		if err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error { tx.Append(store.NewEvent{Type: "probe"}); return nil }); err != nil {
			t.Fatal(err)
		}
		readers.Wait()
		replay := r.replayed(id, over.Load())
		if !maps.Equal(replay.texts, c.want) {
			t.Errorf("the replay has %d texts, %d were said, or others", len(replay.texts), len(c.want))
		}
		for i, f := range folds {
			if !f.equal(replay) {
				t.Errorf("reader %d has %d texts and %d other events, the replay %d and %d, or others", i, len(f.texts), len(f.rest), len(replay.texts), len(replay.rest))
			}
		}
		for _, e := range r.events(id) {
			if f := newFold(); e.Type == "message.delta" && replay.whole[*e.TurnID+" "+f.partOf(e)] {
				t.Errorf("delta %d of a whole part is still there", e.Seq)
			}
		}
	})
}

func (f *fold) partOf(e store.Event) string {
	_ = f.add(e.Seq, e.Type, "", session.EncodeEvent(e)) // its offset does not fit
	var d struct {
		PartID string `json:"part_id"`
	}
	_ = json.Unmarshal(e.Data, &d)
	return d.PartID
}

// reconnect follows a session until its last event, and breaks off after some batches again and again.
func (r *rig) reconnect(id string, f *fold, rnd *rand.Rand, over *atomic.Int64) {
	for over.Load() == 0 || f.last < over.Load() {
		left := 1 + rnd.IntN(4)
		err := r.service.Follow(r.t.Context(), id, f.last, func(frames []session.Frame) error {
			end := over.Load()
			if i := slices.IndexFunc(frames, func(fr session.Frame) bool { return end > 0 && fr.Seq > end }); i >= 0 {
				frames, left = frames[:i], 0
			}
			if err := f.frames(frames); err != nil {
				return err
			}
			if left--; left <= 0 {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			r.t.Errorf("follow: %v", err)
			return
		}
	}
}

// replayed folds the log in small pages.
func (r *rig) replayed(id string, end int64) *fold {
	r.t.Helper()
	f := newFold()
	for more := true; more; {
		var events []store.Event
		var err error
		events, more, err = r.o.Store.EventsWithin(r.t.Context(), id, f.last, 7, 2000)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range events {
			turn := ""
			if e.TurnID != nil {
				turn = *e.TurnID
			}
			if e.Seq > end {
				return f
			}
			if err := f.add(e.Seq, e.Type, turn, session.EncodeEvent(e)); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	return f
}

func TestAReaderThatIsStuckHoldsLittleAndMissesNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		const n = 30 // fewer batches than a backlog has, but more bytes
		large := strings.Repeat("x", 1<<20)
		joined, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		got := make(chan int)
		go func() {
			seen := 0
			err := r.service.Follow(t.Context(), id, 0, func(frames []session.Frame) error {
				once.Do(func() { close(joined); <-release })
				seen += countType(frames, "probe")
				if seen == n {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				t.Error(err)
			}
			got <- seen
		}()
		<-joined
		for range n {
			err := r.o.Store.Session(context.Background(), id, func(tx *store.SessionTx) error {
				tx.Append(store.NewEvent{Type: "probe", Data: map[string]string{"text": large}})
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the reader is cut off", func() bool { return session.Subscribers(r.service, id) == 0 })
		close(release)
		if seen := <-got; seen != n {
			t.Errorf("saw %d of %d", seen, n)
		}
	})
}
