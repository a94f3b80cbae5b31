package client

import (
	"encoding/json"
	"strings"
)

// Types of events and parts that the client itself reads.
const (
	typeDelta    = "message.delta"
	typePart     = "message.part"
	turnPrefix   = "turn."
	endCompleted = "completed"
	endFailed    = "failed"
	endAborted   = "aborted"
	partText     = "text"
)

// EndsTurn tells whether an event is the last one of its turn.
func (e Event) EndsTurn() bool { return e.end() != "" }

func (e Event) end() string {
	switch end, _ := strings.CutPrefix(e.Type, turnPrefix); end {
	case endCompleted, endFailed, endAborted:
		return end
	}
	return ""
}

// Part is the whole part that a message.part, tool.started or tool.completed carries, and empty for other events.
func (e Event) Part() (p MessagePart) {
	if b, err := json.Marshal(e.Data["part"]); err == nil {
		_ = json.Unmarshal(b, &p) // one that makes no sense is empty
	}
	return p
}

// Delta is text that a reply gained.
type Delta struct {
	Part string // the id of the part that it belongs to; a reply may have several
	Text string
	Anew bool // the part begins anew, without what was there before
}

// Reply is the reply of one turn as its events come. The zero value is ready. It takes events of any type.
type Reply struct {
	order []string          // ids of the parts
	texts map[string]string // by id
	end   string
	fault TurnError
}

// Add takes the next event of the turn and returns what text it brings, for those who show the reply as it comes.
func (r *Reply) Add(e Event) Delta {
	switch e.Type {
	case typeDelta:
		id, _ := e.Data["part_id"].(string)
		offset, _ := e.Data["offset"].(float64)
		text, _ := e.Data["text"].(string)
		if e.Data["type"] != "reasoning" {
			return r.delta(id, int(offset), text)
		}
	case typePart:
		if p := e.Part(); p.Type == partText && p.Text != nil {
			return r.part(p.ID, *p.Text)
		}
	}
	if end := e.end(); end != "" {
		r.end = end
		info, _ := e.Data["info"].(map[string]any)
		if fault, ok := info["error"].(map[string]any); ok {
			r.fault.Name, _ = fault["name"].(string)
			r.fault.Message, _ = fault["message"].(string)
		}
	}
	return Delta{}
}

// delta adds what of a delta is new. Offset counts code points; after a gap the whole part will come.
func (r *Reply) delta(id string, offset int, text string) Delta {
	have := len([]rune(r.texts[id]))
	runes := []rune(text)
	if offset > have || offset+len(runes) <= have {
		return Delta{}
	}
	return r.add(Delta{Part: id, Text: string(runes[have-offset:])})
}

func (r *Reply) part(id, text string) Delta {
	if rest, ok := strings.CutPrefix(text, r.texts[id]); ok {
		return r.add(Delta{Part: id, Text: rest})
	}
	return r.add(Delta{Part: id, Text: text, Anew: true}) // it is not what its deltas were
}

func (r *Reply) add(d Delta) Delta {
	if d.Text == "" && !d.Anew {
		return Delta{}
	}
	if _, known := r.texts[d.Part]; !known {
		r.order = append(r.order, d.Part)
	}
	if r.texts == nil {
		r.texts = map[string]string{}
	}
	if d.Anew {
		r.texts[d.Part] = ""
	}
	r.texts[d.Part] += d.Text
	return d
}

// Text is the text so far; the texts of several parts stand in lines of their own.
func (r *Reply) Text() string {
	texts := make([]string, len(r.order))
	for i, id := range r.order {
		texts[i] = r.texts[id]
	}
	return strings.Join(texts, "\n")
}

// Err is nil while the turn runs and once it has completed without a fault. Else it is a *ReplyError.
func (r *Reply) Err() error {
	if r.end == "" || r.end == endCompleted && r.fault.Name == "" {
		return nil
	}
	return &ReplyError{Aborted: r.end == endAborted, TurnError: r.fault}
}

// ReplyError is why a turn has no whole reply. The turn never runs again.
type ReplyError struct {
	TurnError
	Aborted bool // at someone's wish
}

// Error says what the turn's error is.
func (e *ReplyError) Error() string {
	text := "the turn failed"
	for _, more := range []string{e.Name, e.Message} {
		if more != "" {
			text += ": " + more
		}
	}
	return text
}
