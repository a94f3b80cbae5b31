package session_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// conversations are how the conversations of a session's attempts began.
func (r *rig) conversations(id string) (out []string) {
	for _, e := range r.events(id) {
		var d struct{ Conversation string }
		if err := json.Unmarshal(e.Data, &d); err != nil {
			r.t.Fatal(err)
		}
		if d.Conversation != "" {
			out = append(out, d.Conversation)
		}
	}
	return out
}

// again restarts a session and returns what its new sandbox was bound with.
func (r *rig) again(id string) *sandboxd.SessionConfig {
	r.t.Helper()
	if _, err := r.service.Restart(r.t.Context(), id); err != nil {
		r.t.Fatal(err)
	}
	r.await(id, session.Ready)
	return r.rt.only().bound
}

func TestAConversationThatWentWithItsWorkspaceIsReplayed(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) {
			switch said := *turn.Parts[0].Text; said {
			case "stuck":
				b.emit("turn.started", turn.ID, `{}`)
				b.crash("no luck")
			default:
				b.reply(turn.ID, "re: "+said)
			}
		}
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		if c := r.again(id); c.HarnessSessionID != nil || c.Transcript != nil {
			t.Errorf("nothing was said, and the sandbox was bound with %+v", c)
		}
		r.wait(r.send(id, "the password is albatross"))
		r.wait(r.send(id, "stuck"))
		r.await(id, session.Dead)
		want := "<user>\nthe password is albatross\n</user>\n<assistant>\nre: the password is albatross\n</assistant>\n" +
			"<user>\nstuck\n</user>\n<assistant>\n[it ended with turn_interrupted]\n</assistant>\n"
		if c := r.again(id); c.HarnessSessionID == nil || *c.HarnessSessionID != "native-1" || *c.Transcript != want {
			t.Errorf("a kept conversation is resumed with %+v", c)
		}
		if _, err := r.service.Stop(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.keep(time.Millisecond, 0)
		r.gone("the workspace")
		r.keep(0, 0)
		if c := r.again(id); c.HarnessSessionID != nil || *c.Transcript != want {
			t.Errorf("a lost conversation is replayed with %+v", c)
		}
		if got := strings.Join(r.conversations(id), " "); got != "new new resumed replayed" {
			t.Errorf("conversations %s", got)
		}
		if got := strings.Join(r.workspaces(id), " "); got != "kept kept fresh" {
			t.Errorf("workspaces %s", got)
		}
	})
}

func TestOfALongConversationTheNewestPartIsReplayed(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		long := strings.Repeat("ö", 50_000)
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) { b.reply(turn.ID, "ok "+(*turn.Parts[0].Text)[:1]) }
		id := r.open(session.CreateParams{})
		for _, digit := range []string{"1", "2", "3"} {
			r.wait(r.send(id, digit+long))
		}
		image := session.Message{Parts: []sandboxd.InputPart{{Type: "text", Text: new("4")}, {Type: "image", MediaType: new("image/png"), Data: []byte("png")}}}
		turn, err := r.service.Send(t.Context(), id, image)
		if err != nil {
			t.Fatal(err)
		}
		r.wait(turn)
		said := *r.again(id).Transcript
		if len(said) > 257<<10 || len(said) < 255<<10 || !utf8.ValidString(said) {
			t.Errorf("%d bytes are replayed, valid: %v", len(said), utf8.ValidString(said))
		}
		if !strings.HasPrefix(said, "[what came before is left out]\nö") || strings.Contains(said, "\n1ö") || !strings.Contains(said, "\n2ö") ||
			!strings.HasSuffix(said, "<user>\n4\n[an image]\n</user>\n<assistant>\nok 4\n</assistant>\n") {
			t.Errorf("replayed is %.60q … %q", said, said[len(said)-100:])
		}
	})
}

func TestAQueuedMessageIsNotReplayed(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(*box, sandboxd.Turn) {} // never ends
		id := r.open(session.CreateParams{})
		first := r.send(id, "first")
		r.send(id, "waits")
		eventually(t, "the first turn to be handed over", func() bool {
			now, err := r.o.Store.GetTurn(t.Context(), id, first.ID)
			return err == nil && now.Status == session.Handed
		})
		said := r.again(id).Transcript
		if said == nil || !strings.Contains(*said, "first") || strings.Contains(*said, "waits") {
			t.Errorf("replayed is %v", said)
		}
	})
}

func TestTurnsAreReadBackFromTheNewest(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		for _, text := range []string{"1", "2", "3"} {
			r.send(id, text)
		}
		var got []int64
		err := r.o.Store.EachTurnBack(t.Context(), id, 2, func(turn store.Turn) error {
			got = append(got, turn.Position)
			return nil
		})
		if err != nil || len(got) != 2 || got[0] != 3 || got[1] != 2 {
			t.Errorf("positions %v, %v", got, err)
		}
		if err := r.o.Store.EachTurnBack(t.Context(), "x'", 2, func(store.Turn) error { t.Error("found a turn"); return nil }); err != nil {
			t.Error(err)
		}
	})
}
