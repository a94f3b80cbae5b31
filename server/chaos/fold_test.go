package chaos_test

import (
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// folded is a turn's reply as events tell it.
type folded struct {
	order []string
	parts map[string]client.MessagePart
	gap   string // why it cannot be whole
}

// fold makes the transcript of what a subscriber saw, by turn.
func fold(events []event) map[string]*folded {
	turns := map[string]*folded{}
	for _, e := range events {
		if e.turn == "" {
			continue
		}
		f := turns[e.turn]
		if f == nil {
			f = &folded{parts: map[string]client.MessagePart{}}
			turns[e.turn] = f
		}
		switch e.typ {
		case "message.delta", "message.part", "tool.started", "tool.completed":
			f.take(e)
		}
	}
	return turns
}

func (f *folded) take(e event) {
	d := e.body().Data
	old, known := f.parts[d.PartID]
	if !known {
		f.order = append(f.order, d.PartID)
	}
	if e.typ != "message.delta" {
		f.parts[d.PartID] = d.Part
		return
	}
	so := ""
	if old.Text != nil {
		so = *old.Text
	}
	if utf8.RuneCountInString(so) != d.Offset {
		f.gap = "a delta does not go on where the one before it ended: " + e.raw.Value()
	}
	so += d.Text
	f.parts[d.PartID] = client.MessagePart{ID: d.PartID, Text: &so}
}

func (f *folded) list() []client.MessagePart {
	out := []client.MessagePart{}
	for _, id := range f.order {
		out = append(out, f.parts[id])
	}
	return out
}

// folds compares what subscribers saw with the replay, and both with the transcript.
func (j *judge) folds() {
	replay := fold(j.h.replay)
	for _, s := range j.h.subscriptions {
		for turn, live := range fold(s.seen) {
			if again := replay[turn]; again == nil || text(live.list()) != text(again.list()) {
				j.violated("fold", "%s subscriber: turn %s is %s and is replayed as %+v", s.manner, turn, text(live.list()), again)
			}
			if live.gap != "" {
				j.violated("fold", "%s subscriber: turn %s: %s", s.manner, turn, live.gap)
			}
		}
	}
	for _, m := range j.h.transcript {
		if m.Info.Role != client.TranscriptInfoRoleAssistant {
			continue
		}
		t := j.h.turns[m.Info.TurnID]
		if text(m.Parts) != text(t.Parts) {
			j.violated("fold", "turn %s is %s and in the transcript %s", t.ID, text(t.Parts), text(m.Parts))
		}
		// A turn whose sandbox is gone has no reply, whatever it had said before.
		f := replay[t.ID]
		if f != nil && (t.Status == "completed" || len(m.Parts) > 0) && text(m.Parts) != text(f.list()) {
			j.violated("fold", "turn %s is %s and its events say %s", t.ID, text(m.Parts), text(f.list()))
		}
	}
}
