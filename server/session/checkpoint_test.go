package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// keptState is what a box has to keep: the texts of the turns it took.
type keptState struct {
	closed  bool // none is given away
	made    int64
	last    string
	texts   string
	brought []byte
	asked   func()                                          // called with each question
	forge   func(*sandboxd.GetCheckpoint200ResponseHeaders) // changes what is said of a state
	size    int                                             // of a state instead of its own
}

func (b *box) GetCheckpoint(_ context.Context, r sandboxd.GetCheckpointRequestObject) (sandboxd.GetCheckpointResponseObject, error) {
	b.mu.Lock()
	k := &b.kept
	if k.closed || b.bound == nil {
		b.mu.Unlock()
		return sandboxd.GetCheckpoint409JSONResponse{}, nil
	}
	state := []byte(k.texts)
	if k.size > 0 {
		state = make([]byte, k.size)
	}
	sum := sumOf(state)
	if *r.Params.Have == sum {
		b.mu.Unlock()
		return sandboxd.GetCheckpoint204Response{}, nil
	}
	k.made++
	h := sandboxd.GetCheckpoint200ResponseHeaders{CheckpointMark: sum, CheckpointNumber: k.made, CheckpointSha256: sum, CheckpointConversation: "native-1"}
	if k.last != "" {
		h.CheckpointTurn = &k.last
	}
	if k.forge != nil {
		k.forge(&h)
	}
	asked := k.asked
	b.mu.Unlock()
	if asked != nil {
		asked()
	}
	return sandboxd.GetCheckpoint200ApplicationZstdResponse{Body: bytes.NewReader(state), ContentLength: int64(len(state)), Headers: h}, nil
}

func (b *box) PutCheckpoint(_ context.Context, r sandboxd.PutCheckpointRequestObject) (sandboxd.PutCheckpointResponseObject, error) {
	state, err := io.ReadAll(r.Body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.brought, b.kept.texts = state, string(state)
	return sandboxd.PutCheckpoint204Response{}, err
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (b *box) keep(change func(*keptState)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.kept)
}

// forgetting is a rig whose workspaces go with their sandboxes, and whose boxes know what was said to them.
func forgetting(t *testing.T, fn func(t *testing.T, r *rig)) {
	each(t, func(t *testing.T, r *rig) {
		r.forget()
		fn(t, r)
	})
}

func (r *rig) forget() {
	r.rt.forgets = true
	r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
		said := *turn.Parts[0].Text
		b.keep(func(k *keptState) { k.last, k.texts = turn.ID, k.texts+said+"\n" })
		b.reply(turn.ID, "re: "+said)
	}
}

// state waits until what is stored of a session's harness is this.
func (r *rig) state(id, want string) (c store.Checkpoint) {
	r.t.Helper()
	eventually(r.t, "the state "+want, func() bool {
		var state []byte
		var err error
		c, state, err = r.o.Store.CheckpointState(r.t.Context(), id)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrSealed) {
			r.t.Fatal(err)
		}
		return err == nil && string(state) == want
	})
	return c
}

func (r *rig) settled(id string) {
	r.t.Helper()
	eventually(r.t, "the session to be settled", func() bool { return r.session(id).Settled })
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func TestWhatAHarnessKnewComesBackToItInAFreshWorkspace(t *testing.T) {
	forgetting(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.wait(r.send(id, "one"))
		if c := r.state(id, "one\n"); c.Attempt != 1 || c.Covers != 1 || c.Conversation != "native-1" {
			t.Errorf("it is kept as %+v", c)
		}
		r.wait(r.send(id, "two"))
		r.state(id, "one\ntwo\n")
		b := r.rt.only()
		b.keep(func(k *keptState) { k.closed = true })
		r.wait(r.send(id, "three"))
		b.crash("no luck")
		r.await(id, session.Dead)
		c := r.again(id)
		if got := r.rt.only().kept.brought; string(got) != "one\ntwo\n" || value(c.Checkpoint) != sumOf(got) || value(c.HarnessSessionID) != "native-1" {
			t.Errorf("it was brought %q and bound with %+v", got, c)
		}
		if missed := "<user>\nthree\n</user>\n<assistant>\nre: three\n</assistant>\n"; value(c.Missed) != missed || !strings.Contains(value(c.Transcript), "re: one") {
			t.Errorf("it missed %q of %q", value(c.Missed), value(c.Transcript))
		}
		// What was told is in the next state, and is not told again.
		r.wait(r.send(id, "four"))
		if c := r.state(id, "one\ntwo\nfour\n"); c.Attempt != 2 || c.Covers != 4 {
			t.Errorf("it is kept as %+v", c)
		}
		if c := r.again(id); c.Missed != nil || c.Attempt != 3 {
			t.Errorf("bound with %+v", c)
		}
		if got := strings.Join(r.conversations(id), " "); got != "new restored restored" {
			t.Errorf("conversations %s", got)
		}
		if got := strings.Join(r.workspaces(id), " "); got != "fresh fresh" {
			t.Errorf("workspaces %s", got)
		}
	})
}

func TestTheLastStateIsFetchedBeforeASandboxGoes(t *testing.T) {
	for name, end := range map[string]func(r *rig, id string){
		"stopped": func(r *rig, id string) {
			if _, err := r.service.Stop(r.t.Context(), id); err != nil {
				r.t.Error(err)
			}
			r.settled(id)
		},
		"restarted": func(r *rig, id string) { r.again(id) },
		"suspended": func(r *rig, id string) {
			err := r.o.Store.Session(r.t.Context(), id, func(tx *store.SessionTx) error {
				tx.Session.IdleTimeoutMs = 1
				return nil
			})
			if err != nil {
				r.t.Error(err)
			}
			r.settled(id)
		},
		"stopped without a controller": func(r *rig, id string) {
			r.stop()
			if _, err := r.service.Stop(r.t.Context(), id); err != nil {
				r.t.Error(err)
			}
			r.lead()
			r.settled(id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			forgetting(t, func(t *testing.T, r *rig) {
				id := r.open(session.CreateParams{})
				r.wait(r.send(id, "one"))
				r.state(id, "one\n")
				// Changed without a turn, so that nothing else asks for it.
				r.rt.only().keep(func(k *keptState) { k.texts = "last" })
				end(r, id)
				r.state(id, "last")
			})
		})
	}
}

func TestOfADeletedOrExpiredSessionNoStateIsLeft(t *testing.T) {
	forgetting(t, func(t *testing.T, r *rig) {
		deleted, expired := r.open(session.CreateParams{}), r.open(session.CreateParams{})
		for _, id := range []string{deleted, expired} {
			r.wait(r.send(id, "one"))
			r.state(id, "one\n")
		}
		if err := r.service.Delete(t.Context(), deleted); err != nil {
			t.Fatal(err)
		}
		if _, err := r.service.Stop(t.Context(), expired); err != nil {
			t.Fatal(err)
		}
		r.settled(expired)
		r.expire(expired)
		r.keep(0, 0) // a sweep
		for _, id := range []string{deleted, expired} {
			eventually(t, "no state is left", func() bool {
				_, err := r.o.Store.GetCheckpoint(t.Context(), id)
				return errors.Is(err, store.ErrNotFound)
			})
		}
		if c := r.again(expired); c.Checkpoint != nil || c.HarnessSessionID != nil || c.Transcript == nil {
			t.Errorf("bound with %+v", c)
		}
	})
}

func TestALeaderThatIsLostBetweenFetchingAndStoringLosesNothing(t *testing.T) {
	forgetting(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.wait(r.send(id, "one"))
		r.state(id, "one\n")
		asked, answer := make(chan struct{}), make(chan struct{})
		r.rt.only().keep(func(k *keptState) {
			k.asked = func() {
				k.asked = nil
				close(asked)
				<-answer
			}
		})
		r.wait(r.send(id, "two"))
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Fatal("nobody asks for it")
		}
		r.stop()
		close(answer)
		if c, err := r.o.Store.GetCheckpoint(t.Context(), id); err != nil || c.Covers != 1 {
			t.Errorf("it is kept as %+v, %v", c, err)
		}
		r.lead()
		if c := r.state(id, "one\ntwo\n"); c.Covers != 2 || c.Number < 3 {
			t.Errorf("it is kept as %+v", c)
		}
	})
}

func TestAStateThatCannotBeOpenedIsSaidSoAndTheConversationReplayed(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		o := storetest.Options(t, kind)
		r := newRig(t, storetest.OpenWith(t, o))
		r.forget()
		id := r.open(session.CreateParams{})
		r.wait(r.send(id, "one"))
		r.state(id, "one\n")
		if _, err := r.service.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.settled(id)
		storetest.Exec(t, o, "UPDATE checkpoints SET sealed = substr(sealed, 1, 20)")
		if c := r.again(id); c.Checkpoint != nil || c.HarnessSessionID != nil || !strings.Contains(value(c.Transcript), "re: one") {
			t.Errorf("bound with %+v", c)
		}
		var said []string
		for _, e := range r.events(id) {
			var d struct{ Kind, Status string }
			if json.Unmarshal(e.Data, &d) == nil && d.Kind == "checkpoint" {
				said = append(said, d.Status)
			}
		}
		if len(said) != 1 || said[0] != "unreadable" || strings.Join(r.conversations(id), " ") != "new replayed" {
			t.Errorf("it is said %q, conversations %q", said, r.conversations(id))
		}
		// A newer one takes its place.
		r.wait(r.send(id, "two"))
		r.state(id, "two\n")
	})
}

func TestAStateOfAConversationThatWasLeftIsNotUsed(t *testing.T) {
	forgetting(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.wait(r.send(id, "one"))
		r.state(id, "one\n")
		err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error {
			other := "native-2"
			tx.Session.HarnessSessionID = &other
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if c := r.again(id); c.Checkpoint != nil || c.HarnessSessionID != nil || c.Transcript == nil {
			t.Errorf("bound with %+v", c)
		}
	})
}

func TestAStateThatIsNotWhatItsSandboxSaysIsNotStored(t *testing.T) {
	for name, forge := range map[string]func(k *keptState){
		"another sum": func(k *keptState) {
			k.forge = func(h *sandboxd.GetCheckpoint200ResponseHeaders) { h.CheckpointSha256 = sumOf(nil) }
		},
		"no number": func(k *keptState) {
			k.forge = func(h *sandboxd.GetCheckpoint200ResponseHeaders) { h.CheckpointNumber = 0 }
		},
		"a long mark": func(k *keptState) {
			k.forge = func(h *sandboxd.GetCheckpoint200ResponseHeaders) { h.CheckpointMark = strings.Repeat("m", 300) }
		},
		"too large": func(k *keptState) { k.size = 32<<20 + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			forgetting(t, func(t *testing.T, r *rig) {
				id := r.open(session.CreateParams{})
				r.wait(r.send(id, "one"))
				r.state(id, "one\n")
				r.rt.only().keep(func(k *keptState) { k.texts += "forged"; forge(k) })
				if _, err := r.service.Stop(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				r.settled(id) // it was asked for
				r.state(id, "one\n")
			})
		})
	}
}
