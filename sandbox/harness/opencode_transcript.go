package harness

import (
	"strings"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	maxKept = 16 << 20 // bytes of the tools' inputs and outputs that a turn's result keeps
	dropped = "[left out: the turn's tools said too much]"
)

// transcript folds the messages and parts of a turn, however often and in whatever completeness they come, and emits what is
// new. Nothing is emitted twice.
type transcript struct {
	emit     func(kind string, data any)
	order    []*turnMessage
	messages map[string]*turnMessage
	parts    map[string]*turnPart
	tools    []*turnPart // that have ended and are kept whole, oldest first
	kept     int         // bytes of them
}

type turnMessage struct {
	info  openCodeInfo
	parts []*turnPart
}

type turnPart struct {
	out     sandboxd.OutputPart
	text    strings.Builder
	started bool // a tool's start is emitted
	gap     bool // deltas are missing: no more are emitted
	done    bool // the whole part is emitted
}

type deltaEvent struct {
	PartID string `json:"part_id"`
	Text   string `json:"text"`
}

type partEvent struct {
	PartID string              `json:"part_id"`
	Part   sandboxd.OutputPart `json:"part"`
}

func newTranscript(emit func(string, any)) transcript {
	return transcript{emit: emit, messages: map[string]*turnMessage{}, parts: map[string]*turnPart{}}
}

// final tells whether opencode stops after this message.
func (i openCodeInfo) final() bool {
	return i.Error != nil || i.Time.Completed != 0 && i.Finish != "" && i.Finish != "tool-calls" && i.Finish != "unknown"
}

// hidden tells whether the message is no reply: opencode writes a summary when a conversation becomes too long.
func (i openCodeInfo) hidden() bool { return i.Summary == true }

func (t *transcript) message(info openCodeInfo) {
	m := t.messages[info.ID]
	if m == nil {
		m = &turnMessage{}
		t.messages[info.ID] = m
		t.order = append(t.order, m)
	}
	m.info = info
}

func (t *transcript) last() (openCodeInfo, bool) {
	if len(t.order) == 0 {
		return openCodeInfo{}, false
	}
	return t.order[len(t.order)-1].info, true
}

// part takes a part in any state, from an event or from the history; those of messages that are not of this turn's replies are
// ignored. Of a part that is first seen in the history, deltas may be missing.
func (t *transcript) part(p openCodePart, fromHistory bool) {
	m := t.messages[p.MessageID]
	if m == nil || m.info.hidden() {
		return
	}
	switch p.Type {
	case "text", "reasoning":
		t.textPart(t.known(m, p, fromHistory), p)
	case "tool":
		t.toolPart(t.known(m, p, fromHistory), p)
	}
}

func (t *transcript) known(m *turnMessage, p openCodePart, gap bool) *turnPart {
	part := t.parts[p.ID]
	if part == nil {
		part = &turnPart{gap: gap, out: sandboxd.OutputPart{ID: p.ID, Type: p.Type}}
		t.parts[p.ID] = part
		m.parts = append(m.parts, part)
	}
	return part
}

func (t *transcript) textPart(part *turnPart, p openCodePart) {
	if part.done || p.Time.End == 0 {
		return
	}
	part.text.Reset()
	part.text.WriteString(p.Text)
	t.complete(part)
}

// complete emits a text part as a whole, unless it stayed empty.
func (t *transcript) complete(part *turnPart) {
	part.done = true
	text := part.text.String()
	part.out.Text = &text
	if text != "" {
		t.emit("message.part", partEvent{part.out.ID, part.out})
	}
}

func (t *transcript) delta(partID, text string) {
	part := t.parts[partID]
	if part == nil || part.done || part.gap || part.out.Type == "tool" || text == "" {
		return
	}
	part.text.WriteString(text)
	t.emit("message.delta", deltaEvent{partID, text})
}

// abandon ends the texts that are under way: the answer they belong to broke off, and its repetition makes parts of its own.
func (t *transcript) abandon() {
	if len(t.order) == 0 {
		return
	}
	for _, part := range t.order[len(t.order)-1].parts {
		if part.out.Type != "tool" && !part.done {
			t.complete(part)
		}
	}
}

// missed is called when events may have been lost.
func (t *transcript) missed() {
	for _, part := range t.parts {
		part.gap = true
	}
}

func (t *transcript) toolPart(part *turnPart, p openCodePart) {
	if part.done || p.State.Status == "pending" {
		return
	}
	part.out.Tool, part.out.CallID = &p.Tool, &p.CallID
	if len(p.State.Input) > 0 {
		part.out.Input = &p.State.Input
	}
	if !part.started {
		part.started = true
		t.toolEvent("tool.started", part, "running", "")
	}
	switch p.State.Status {
	case "completed":
		part.done = true
		t.toolEvent("tool.completed", part, "completed", p.State.Output)
	case "error":
		part.done = true
		t.toolEvent("tool.completed", part, "error", p.State.Error)
	}
}

func (t *transcript) toolEvent(kind string, part *turnPart, status, output string) {
	part.out.Status = &status
	if part.done {
		part.out.Output = &output
	}
	t.emit(kind, partEvent{part.out.ID, part.out})
	if part.done {
		t.keep(part)
	}
}

// keep bounds what is kept of tools: of the oldest, only that they ran.
func (t *transcript) keep(part *turnPart) {
	t.tools = append(t.tools, part)
	t.kept += part.size()
	for t.kept > maxKept && len(t.tools) > 1 {
		oldest := t.tools[0]
		t.tools = t.tools[1:]
		t.kept -= oldest.size()
		note := dropped
		oldest.out.Input, oldest.out.Output = nil, &note
	}
}

func (p *turnPart) size() int {
	n := len(*p.out.Output)
	if p.out.Input != nil {
		n += len(*p.out.Input)
	}
	return n
}

// finish ends what the turn left open and returns all of it.
func (t *transcript) finish() sandboxd.TurnResult {
	result := sandboxd.TurnResult{Parts: []sandboxd.OutputPart{}}
	for _, m := range t.order {
		tokens := m.info.Tokens
		result.Cost += m.info.Cost
		result.Tokens.Input += int64(tokens.Input)
		result.Tokens.Output += int64(tokens.Output + tokens.Reasoning)
		result.Tokens.CacheRead += int64(tokens.Cache.Read)
		result.Tokens.CacheWrite += int64(tokens.Cache.Write)
		for _, part := range m.parts {
			t.end(part)
			if part.out.Type != "tool" && *part.out.Text != "" || part.started {
				result.Parts = append(result.Parts, part.out)
			}
		}
	}
	return result
}

func (t *transcript) end(part *turnPart) {
	switch {
	case part.done:
	case part.out.Type != "tool":
		t.complete(part)
	case part.started:
		part.done = true
		t.toolEvent("tool.completed", part, "error", "The turn ended before the tool did.")
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
