package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

type messagesAnswer struct {
	ID           string          `json:"id"`
	Type         string          `json:"type"`
	Role         string          `json:"role"`
	Model        string          `json:"model"`
	Content      []messagesBlock `json:"content"`
	StopReason   *string         `json:"stop_reason"`
	StopSequence *string         `json:"stop_sequence"`
	Usage        messagesUsage   `json:"usage"`
}

type messagesUsage struct {
	InputTokens   int `json:"input_tokens"`
	CacheCreation int `json:"cache_creation_input_tokens"`
	CacheRead     int `json:"cache_read_input_tokens"`
	OutputTokens  int `json:"output_tokens"`
}

// messagesBlock is a part of an answer; what it is not is nil.
type messagesBlock struct {
	Type      string          `json:"type"`
	Text      *string         `json:"text,omitempty"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature *string         `json:"signature,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
}

type messagesDelta struct {
	Type        string  `json:"type,omitempty"`
	Text        string  `json:"text,omitempty"`
	Thinking    string  `json:"thinking,omitempty"`
	Signature   string  `json:"signature,omitempty"`
	PartialJSON string  `json:"partial_json,omitempty"`
	StopReason  *string `json:"stop_reason,omitempty"`
}

// messagesEvent is an event of a stream.
type messagesEvent struct {
	Type    string          `json:"type"`
	Message *messagesAnswer `json:"message,omitempty"`
	Index   *int            `json:"index,omitempty"`
	Block   *messagesBlock  `json:"content_block,omitempty"`
	Delta   *messagesDelta  `json:"delta,omitempty"`
	Usage   *messagesUsage  `json:"usage,omitempty"`
}

// messagesReply writes one answer.
type messagesReply struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	message messagesAnswer // its usage is that of the whole answer
	blocks  int            // written to the stream
}

const demoSignature = "demo" // stands where a real gateway signs what a model thought

func toolUse(a answer) messagesBlock {
	return messagesBlock{Type: "tool_use", ID: "toolu_" + strings.ReplaceAll(uuid.NewString(), "-", ""), Name: a.tool, Input: json.RawMessage(a.arguments)}
}

func (a answer) stopReason() *string {
	reason := "end_turn"
	if a.tool != "" {
		reason = "tool_use"
	}
	return &reason
}

func (r *messagesReply) whole(ctx context.Context, a answer) {
	for range len(a.pieces) - 1 {
		if !pause(ctx, a.pace) {
			return
		}
	}
	m, signature := r.message, demoSignature
	if a.reasoning != "" {
		m.Content = append(m.Content, messagesBlock{Type: "thinking", Thinking: &a.reasoning, Signature: &signature})
	}
	if text := strings.Join(a.pieces, ""); text != "" {
		m.Content = append(m.Content, messagesBlock{Type: "text", Text: &text})
	}
	if a.tool != "" {
		m.Content = append(m.Content, toolUse(a))
	}
	m.StopReason = a.stopReason()
	writeJSON(r.w, http.StatusOK, m)
}

func (r *messagesReply) stream(ctx context.Context, a answer) {
	if a.end == endHang && len(a.pieces) == 0 {
		<-ctx.Done()
		return
	}
	r.w.Header().Set("Content-Type", "text/event-stream")
	r.w.Header().Set("Cache-Control", "no-cache")
	start := r.message
	start.Usage.OutputTokens = 1 // a real gateway does not know yet
	r.event(messagesEvent{Type: "message_start", Message: &start})
	empty := ""
	if a.reasoning != "" {
		r.block(messagesBlock{Type: "thinking", Thinking: &empty, Signature: &empty}, func(put func(messagesDelta)) bool {
			put(messagesDelta{Type: "thinking_delta", Thinking: a.reasoning})
			put(messagesDelta{Type: "signature_delta", Signature: demoSignature})
			return true
		})
	}
	if len(a.pieces) > 0 || a.end != "" {
		if !r.block(messagesBlock{Type: "text", Text: &empty}, func(put func(messagesDelta)) bool { return writePieces(ctx, a, put) }) {
			return
		}
	}
	if a.tool != "" {
		begun := toolUse(a)
		begun.Input = json.RawMessage("{}")
		r.block(begun, func(put func(messagesDelta)) bool {
			put(messagesDelta{Type: "input_json_delta", PartialJSON: a.arguments})
			return true
		})
	}
	r.event(messagesEvent{Type: "message_delta", Delta: &messagesDelta{StopReason: a.stopReason()}, Usage: &r.message.Usage})
	r.event(messagesEvent{Type: "message_stop"})
}

// writePieces reports whether the text came to its end.
func writePieces(ctx context.Context, a answer, put func(messagesDelta)) bool {
	for i, piece := range a.pieces {
		if i > 0 && !pause(ctx, a.pace) {
			return false
		}
		put(messagesDelta{Type: "text_delta", Text: piece})
	}
	switch a.end {
	case endCut:
		panic(http.ErrAbortHandler) // net/http then breaks the connection
	case endHang:
		<-ctx.Done()
		return false
	}
	return true
}

// block writes one block, whose deltas write puts, unless that reports that it broke off.
func (r *messagesReply) block(begun messagesBlock, write func(put func(messagesDelta)) bool) bool {
	index := r.blocks
	r.blocks++
	r.event(messagesEvent{Type: "content_block_start", Index: &index, Block: &begun})
	whole := write(func(d messagesDelta) { r.event(messagesEvent{Type: "content_block_delta", Index: &index, Delta: &d}) })
	if whole {
		r.event(messagesEvent{Type: "content_block_stop", Index: &index})
	}
	return whole
}

func (r *messagesReply) event(e messagesEvent) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	_, _ = fmt.Fprintf(r.w, "event: %s\ndata: %s\n\n", e.Type, b) // the client is gone
	_ = r.rc.Flush()
}
