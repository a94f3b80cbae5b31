package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

type head struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	Details          struct {
		ReasoningTokens int `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

type toolCall struct {
	Index    int          `json:"index"`
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

type message struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	Reasoning string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type choice struct {
	Index        int      `json:"index"`
	Message      *message `json:"message,omitempty"`
	Delta        *message `json:"delta,omitempty"`
	FinishReason *string  `json:"finish_reason"`
}

type completion struct {
	head
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
}

// usageOf counts as real gateways do, with a token for every four bytes.
func usageOf(c chatRequest, a answer) usage {
	n := 0
	for _, m := range c.Messages {
		n += len(m.text())
	}
	u := usage{PromptTokens: n/4 + 1, CompletionTokens: len(strings.Join(a.pieces, "")+a.reasoning+a.arguments)/4 + 1}
	u.Details.ReasoningTokens = len(a.reasoning) / 4
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

func (a answer) toolCalls() []toolCall {
	if a.tool == "" {
		return nil
	}
	return []toolCall{{ID: "call_" + uuid.NewString(), Type: "function", Function: functionCall{Name: a.tool, Arguments: a.arguments}}}
}

func (a answer) finish() *string {
	reason := "stop"
	if a.tool != "" {
		reason = "tool_calls"
	}
	return &reason
}

// reply writes one answer.
type reply struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	head  head
	usage usage
}

func (r *reply) whole(ctx context.Context, a answer) {
	for range len(a.pieces) - 1 {
		if !pause(ctx, a.pace) {
			return
		}
	}
	text := strings.Join(a.pieces, "")
	m := &message{Role: "assistant", Reasoning: a.reasoning, Content: &text, ToolCalls: a.toolCalls()}
	r.head.Object = "chat.completion"
	writeJSON(r.w, http.StatusOK, completion{head: r.head, Usage: &r.usage, Choices: []choice{{Message: m, FinishReason: a.finish()}}})
}

func (r *reply) stream(ctx context.Context, a answer, withUsage bool) {
	if a.end == endHang && len(a.pieces) == 0 {
		<-ctx.Done()
		return
	}
	r.head.Object = "chat.completion.chunk"
	r.w.Header().Set("Content-Type", "text/event-stream")
	r.w.Header().Set("Cache-Control", "no-cache")
	empty := ""
	r.delta(message{Role: "assistant", Content: &empty}, nil)
	if a.reasoning != "" {
		r.delta(message{Reasoning: a.reasoning}, nil)
	}
	if calls := a.toolCalls(); calls != nil {
		r.delta(message{ToolCalls: calls}, nil)
	}
	for i, piece := range a.pieces {
		if i > 0 && !pause(ctx, a.pace) {
			return
		}
		r.delta(message{Content: &piece}, nil)
	}
	switch a.end {
	case endCut:
		panic(http.ErrAbortHandler) // net/http then breaks the connection
	case endHang:
		<-ctx.Done()
		return
	}
	r.delta(message{}, a.finish())
	if withUsage {
		r.event(completion{head: r.head, Choices: []choice{}, Usage: &r.usage})
	}
	_, _ = fmt.Fprint(r.w, "data: [DONE]\n\n") // the client is gone
}

func (r *reply) delta(m message, finish *string) {
	r.event(completion{head: r.head, Choices: []choice{{Delta: &m, FinishReason: finish}}})
}

func (r *reply) event(c completion) {
	b, err := json.Marshal(c)
	if err != nil {
		return
	}
	_, _ = fmt.Fprintf(r.w, "data: %s\n\n", b) // the client is gone
	_ = r.rc.Flush()
}

// pause waits for d and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
