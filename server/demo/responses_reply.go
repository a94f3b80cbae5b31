package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

type response struct {
	ID        string          `json:"id"`
	Object    string          `json:"object"`
	CreatedAt int64           `json:"created_at"`
	Status    string          `json:"status"`
	Model     string          `json:"model"`
	Output    []responseItem  `json:"output"`
	Usage     *responsesUsage `json:"usage"`
}

type responsesUsage struct {
	InputTokens  int `json:"input_tokens"`
	InputDetails struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"input_tokens_details"`
	OutputTokens  int `json:"output_tokens"`
	OutputDetails struct {
		ReasoningTokens int `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	TotalTokens int `json:"total_tokens"`
}

type responseItem struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Status    string          `json:"status,omitempty"`
	Role      string          `json:"role,omitempty"`
	Content   *[]responsePart `json:"content,omitempty"`
	Summary   *[]responsePart `json:"summary,omitempty"`
	CallID    string          `json:"call_id,omitempty"`
	Namespace string          `json:"namespace,omitempty"`
	Name      string          `json:"name,omitempty"`
	Arguments *string         `json:"arguments,omitempty"`
}

type responsePart struct {
	Type        string `json:"type"`
	Text        string `json:"text"`
	Annotations *[]any `json:"annotations,omitempty"`
}

func outputText(text string) responsePart {
	return responsePart{Type: "output_text", Text: text, Annotations: &[]any{}}
}

// responseEvent is an event of a stream. Numbers are pointers where zero is a value.
type responseEvent struct {
	Type         string        `json:"type"`
	Sequence     int           `json:"sequence_number"`
	Response     *response     `json:"response,omitempty"`
	OutputIndex  *int          `json:"output_index,omitempty"`
	ItemID       string        `json:"item_id,omitempty"`
	Item         *responseItem `json:"item,omitempty"`
	ContentIndex *int          `json:"content_index,omitempty"`
	SummaryIndex *int          `json:"summary_index,omitempty"`
	Part         *responsePart `json:"part,omitempty"`
	Delta        string        `json:"delta,omitempty"`
	Text         *string       `json:"text,omitempty"`
	Arguments    *string       `json:"arguments,omitempty"`
}

// responsesReply writes one answer.
type responsesReply struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	request  responsesRequest
	response response
	used     responsesUsage
	sequence int
}

func (r *responsesReply) reasoning(a answer) responseItem {
	return responseItem{ID: "rs_" + uuid.NewString(), Type: "reasoning", Summary: &[]responsePart{{Type: "summary_text", Text: a.reasoning}}}
}

func (r *responsesReply) message(text string) responseItem {
	return responseItem{ID: "msg_" + uuid.NewString(), Type: "message", Status: "completed", Role: "assistant", Content: &[]responsePart{outputText(text)}}
}

func (r *responsesReply) call(a answer) responseItem {
	namespace, name := r.request.callName(a.tool)
	return responseItem{
		ID: "fc_" + uuid.NewString(), Type: "function_call", Status: "completed", CallID: "call_" + uuid.NewString(),
		Namespace: namespace, Name: name, Arguments: &a.arguments,
	}
}

func (r *responsesReply) whole(ctx context.Context, a answer) {
	for range len(a.pieces) - 1 {
		if !pause(ctx, a.pace) {
			return
		}
	}
	if a.reasoning != "" {
		r.response.Output = append(r.response.Output, r.reasoning(a))
	}
	if a.tool != "" {
		r.response.Output = append(r.response.Output, r.call(a))
	}
	if len(a.pieces) > 0 {
		r.response.Output = append(r.response.Output, r.message(strings.Join(a.pieces, "")))
	}
	r.response.Status, r.response.Usage = "completed", &r.used
	writeJSON(r.w, http.StatusOK, r.response)
}

func (r *responsesReply) stream(ctx context.Context, a answer) {
	if a.end == endHang && len(a.pieces) == 0 {
		<-ctx.Done()
		return
	}
	r.w.Header().Set("Content-Type", "text/event-stream")
	r.w.Header().Set("Cache-Control", "no-cache")
	r.event(responseEvent{Type: "response.created", Response: r.snapshot()})
	r.event(responseEvent{Type: "response.in_progress", Response: r.snapshot()})
	if a.reasoning != "" {
		r.streamReasoning(a)
	}
	if a.tool != "" {
		r.streamCall(a)
	}
	if (len(a.pieces) > 0 || a.end != "") && !r.streamMessage(ctx, a) {
		return
	}
	r.response.Status, r.response.Usage = "completed", &r.used
	r.event(responseEvent{Type: "response.completed", Response: r.snapshot()})
}

// snapshot is the response as it is.
func (r *responsesReply) snapshot() *response {
	s := r.response
	return &s
}

func (r *responsesReply) streamReasoning(a answer) {
	item, zero := r.reasoning(a), 0
	whole := (*item.Summary)[0]
	begun := item
	begun.Summary = &[]responsePart{}
	r.begin(begun)
	r.event(responseEvent{Type: "response.reasoning_summary_part.added", ItemID: item.ID, OutputIndex: r.index(), SummaryIndex: &zero, Part: &responsePart{Type: whole.Type}})
	r.event(responseEvent{Type: "response.reasoning_summary_text.delta", ItemID: item.ID, OutputIndex: r.index(), SummaryIndex: &zero, Delta: whole.Text})
	r.event(responseEvent{Type: "response.reasoning_summary_text.done", ItemID: item.ID, OutputIndex: r.index(), SummaryIndex: &zero, Text: &whole.Text})
	r.event(responseEvent{Type: "response.reasoning_summary_part.done", ItemID: item.ID, OutputIndex: r.index(), SummaryIndex: &zero, Part: &whole})
	r.end(item)
}

func (r *responsesReply) streamCall(a answer) {
	item, none := r.call(a), ""
	begun := item
	begun.Status, begun.Arguments = "in_progress", &none
	r.begin(begun)
	r.event(responseEvent{Type: "response.function_call_arguments.delta", ItemID: item.ID, OutputIndex: r.index(), Delta: a.arguments})
	r.event(responseEvent{Type: "response.function_call_arguments.done", ItemID: item.ID, OutputIndex: r.index(), Arguments: &a.arguments})
	r.end(item)
}

// streamMessage reports whether the message came to its end.
func (r *responsesReply) streamMessage(ctx context.Context, a answer) bool {
	item, zero := r.message(strings.Join(a.pieces, "")), 0
	whole, empty := (*item.Content)[0], outputText("")
	begun := item
	begun.Status, begun.Content = "in_progress", &[]responsePart{}
	r.begin(begun)
	r.event(responseEvent{Type: "response.content_part.added", ItemID: item.ID, OutputIndex: r.index(), ContentIndex: &zero, Part: &empty})
	for i, piece := range a.pieces {
		if i > 0 && !pause(ctx, a.pace) {
			return false
		}
		r.event(responseEvent{Type: "response.output_text.delta", ItemID: item.ID, OutputIndex: r.index(), ContentIndex: &zero, Delta: piece})
	}
	switch a.end {
	case endCut:
		panic(http.ErrAbortHandler) // net/http then breaks the connection
	case endHang:
		<-ctx.Done()
		return false
	}
	r.event(responseEvent{Type: "response.output_text.done", ItemID: item.ID, OutputIndex: r.index(), ContentIndex: &zero, Text: &whole.Text})
	r.event(responseEvent{Type: "response.content_part.done", ItemID: item.ID, OutputIndex: r.index(), ContentIndex: &zero, Part: &whole})
	r.end(item)
	return true
}

// index is the place of the item being written.
func (r *responsesReply) index() *int {
	n := len(r.response.Output)
	return &n
}

func (r *responsesReply) begin(item responseItem) {
	r.event(responseEvent{Type: "response.output_item.added", OutputIndex: r.index(), Item: &item})
}

func (r *responsesReply) end(item responseItem) {
	r.event(responseEvent{Type: "response.output_item.done", OutputIndex: r.index(), Item: &item})
	r.response.Output = append(r.response.Output, item)
}

func (r *responsesReply) event(e responseEvent) {
	e.Sequence = r.sequence
	r.sequence++
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	_, _ = fmt.Fprintf(r.w, "event: %s\ndata: %s\n\n", e.Type, b) // the client is gone
	_ = r.rc.Flush()
}
