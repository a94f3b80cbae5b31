package harness

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// claudeSynthetic is the model of messages that claude writes itself: its words about a failure.
const claudeSynthetic = "<synthetic>"

// claudeEvent is a piece of an answer, as the gateway streams it.
type claudeEvent struct {
	Type  string `json:"type"`
	Index int    `json:"index"`
	Block struct {
		Type string `json:"type"`
	} `json:"content_block"`
	Delta struct {
		Text     string `json:"text"`
		Thinking string `json:"thinking"`
	} `json:"delta"`
}

type claudeMessage struct {
	Model   string       `json:"model"`
	Content claudeBlocks `json:"content"`
}

// claudeBlocks is the content of a message: in the protocol a string or a list of blocks.
type claudeBlocks []claudeBlock

type claudeBlock struct {
	Type      string          `json:"type"`
	Text      string          `json:"text,omitempty"`
	Thinking  string          `json:"thinking,omitempty"`
	ID        string          `json:"id,omitempty"` // of a tool's call
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	ToolUseID string          `json:"tool_use_id,omitempty"` // of its result
	Content   claudeBlocks    `json:"content,omitempty"`
	IsError   bool            `json:"is_error,omitempty"`
	Source    *claudeSource   `json:"source,omitempty"`
}

type claudeSource struct {
	Type      string `json:"type"`
	MediaType string `json:"media_type"`
	Data      []byte `json:"data"`
}

func (b *claudeBlocks) UnmarshalJSON(raw []byte) error {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		*b = claudeBlocks{{Type: "text", Text: s}}
		return nil
	}
	_ = json.Unmarshal(raw, (*[]claudeBlock)(b)) // content of another kind is none
	return nil
}

// text is what a tool said.
func (b claudeBlocks) text() string {
	var said []string
	for _, in := range b {
		switch in.Type {
		case "text":
			said = append(said, in.Text)
		case "image":
			said = append(said, "[an image]")
		}
	}
	return strings.Join(said, "\n")
}

// claudeParts makes parts of what a turn's lines say, and emits what is new. Each answer comes twice: piece by piece, and block by
// block, where the block comes before the end of its pieces.
type claudeParts struct {
	transcript
	turnID string
	list   []*turnPart
	open   *turnPart // whose pieces come
	tool   map[string]*turnPart
}

func (p *claudeParts) init(turnID string, emit func(string, any)) {
	p.transcript, p.turnID, p.tool = newTranscript(emit), turnID, map[string]*turnPart{}
}

func (p *claudeParts) add(kind string) *turnPart {
	part := &turnPart{}
	part.out.ID, part.out.Type = fmt.Sprintf("prt_%s_%04d", p.turnID, len(p.list)+1), kind
	p.list = append(p.list, part)
	p.parts[part.out.ID] = part
	return part
}

func (p *claudeParts) event(e *claudeEvent) {
	switch {
	case e.Type == "message_start", e.Type == "content_block_stop":
		p.close()
	case e.Type == "content_block_start":
		p.close()
		if kind := claudeKind(e.Block.Type); kind != "" {
			p.open = p.add(kind)
		}
	case e.Type == "content_block_delta" && p.open != nil:
		p.delta(p.open.out.ID, e.Delta.Text+e.Delta.Thinking)
	}
}

// claudeKind is the type of the part that a block of text becomes; empty if it is no text.
func claudeKind(block string) string {
	switch block {
	case "text":
		return "text"
	case "thinking":
		return "reasoning"
	}
	return ""
}

// close ends the part whose pieces came, as far as they came.
func (p *claudeParts) close() {
	if p.open != nil && !p.open.done {
		p.complete(p.open)
	}
	p.open = nil
}

// abandon ends what is under way: the answer broke off, and its repetition makes parts of its own.
func (p *claudeParts) abandon() { p.close() }

// assistant takes whole blocks.
func (p *claudeParts) assistant(m *claudeMessage) {
	for _, b := range m.Content {
		kind := claudeKind(b.Type)
		switch {
		case kind != "":
			part := p.open
			if part == nil || part.done || part.out.Type != kind {
				p.close()
				part = p.add(kind)
			}
			part.text.Reset()
			part.text.WriteString(b.Text + b.Thinking)
			p.complete(part)
		case b.Type == "tool_use" && b.ID != "" && p.tool[b.ID] == nil:
			p.close()
			p.start(b)
		}
	}
}

func (p *claudeParts) start(b claudeBlock) {
	part := p.add("tool")
	p.tool[b.ID] = part
	part.out.Tool, part.out.CallID = &b.Name, &b.ID
	if len(b.Input) > 0 && b.Input[0] == '{' {
		part.out.Input = &b.Input
	}
	part.started = true
	p.toolEvent("tool.started", part, "running", "")
}

// results takes what tools said.
func (p *claudeParts) results(m *claudeMessage) {
	for _, b := range m.Content {
		part := p.tool[b.ToolUseID]
		if b.Type != "tool_result" || part == nil || part.done {
			continue
		}
		status := "completed"
		if b.IsError {
			status = "error"
		}
		part.done = true
		p.toolEvent("tool.completed", part, status, b.Content.text())
	}
}

// finish ends what the turn left open and returns all of it.
func (p *claudeParts) finish() []sandboxd.OutputPart {
	p.close()
	parts := []sandboxd.OutputPart{}
	for _, part := range p.list {
		p.end(part)
		if part.out.Type == "tool" || *part.out.Text != "" {
			parts = append(parts, part.out)
		}
	}
	return parts
}
