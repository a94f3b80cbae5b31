package demo

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// messagesRequest is the part of an Anthropic messages request that decides the answer.
type messagesRequest struct {
	Model    string            `json:"model"`
	Stream   bool              `json:"stream"`
	System   blocks            `json:"system"`
	Messages []messagesMessage `json:"messages"`
	Tools    []messagesTool    `json:"tools"`
}

type messagesMessage struct {
	Role    string `json:"role"`
	Content blocks `json:"content"`
}

// blocks is the content of a message: in the protocol a string or a list of blocks.
type blocks []block

type block struct {
	Type    string `json:"type"`
	Text    string `json:"text"`
	Content blocks `json:"content"` // of a tool's result
	Source  struct {
		MediaType string `json:"media_type"`
		Data      string `json:"data"`
	} `json:"source"`
}

func (b *blocks) UnmarshalJSON(raw []byte) error {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		*b = blocks{{Type: "text", Text: s}}
		return nil
	}
	return json.Unmarshal(raw, (*[]block)(b))
}

// Harnesses put words of their own among those of the user.
const (
	reminder    = "<system-reminder>"
	interrupted = "[Request interrupted by user"
)

// own tells whether the harness wrote the block itself.
func (b block) own() bool {
	text := strings.TrimSpace(b.Text)
	return b.Type == "text" && (strings.HasPrefix(text, reminder) || strings.HasPrefix(text, interrupted))
}

// parts are the texts and images in the form of the chat protocol, without what the harness adds to a tool's output.
func (b blocks) parts() (c content) {
	for _, in := range b {
		switch in.Type {
		case "text":
			text, _, _ := strings.Cut(in.Text, "\n\n"+reminder)
			c = append(c, part{Type: "text", Text: text})
		case "image":
			p := part{Type: "image_url"}
			if in.Source.Data != "" {
				p.ImageURL.URL = "data:" + in.Source.MediaType + ";base64," + in.Source.Data
			}
			c = append(c, p)
		}
	}
	return c
}

type messagesTool struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"input_schema"`
}

// chat is the same conversation in the other protocol. What a tool said is a message of its own there, and so are the harness's own
// words, which stand between messages of the user that have become one because nothing was answered.
func (m messagesRequest) chat() chatRequest {
	c := chatRequest{Model: m.Model, Stream: m.Stream}
	add := func(role string, b blocks) {
		if len(b) > 0 {
			c.Messages = append(c.Messages, chatMessage{Role: role, Content: b.parts()})
		}
	}
	add("system", m.System)
	for _, in := range m.Messages {
		var said blocks
		for _, b := range in.Content {
			switch {
			case b.Type == "tool_result":
				add("tool", b.Content)
			case in.Role == "user" && b.own():
				add(in.Role, said)
				said = nil
				add("system", blocks{b})
			default:
				said = append(said, b)
			}
		}
		add(in.Role, said)
	}
	for _, in := range m.Tools {
		var t tool
		t.Function.Name = in.Name
		_ = json.Unmarshal(in.Schema, &t.Function.Parameters) // a tool that cannot be filled is not called
		c.Tools = append(c.Tools, t)
	}
	return c
}

// readMessages returns nil after it has refused the request.
func readMessages(w http.ResponseWriter, r *http.Request) *messagesRequest {
	var in messagesRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
		writeMessagesError(w, http.StatusBadRequest, "[demo] the demo gateway cannot read this request")
		return nil
	}
	if in.Model == "" || len(in.Messages) == 0 {
		writeMessagesError(w, http.StatusBadRequest, "[demo] model and messages are required")
		return nil
	}
	return &in
}

func (g *Gateway) messages(w http.ResponseWriter, r *http.Request) {
	in := readMessages(w, r)
	if in == nil {
		return
	}
	a, used := g.answer(r, in.chat())
	out := messagesReply{w: w, rc: http.NewResponseController(w), message: messagesAnswer{
		ID: "msg_" + strings.ReplaceAll(uuid.NewString(), "-", ""), Type: "message", Role: "assistant", Model: in.Model, Content: []messagesBlock{},
	}}
	out.message.Usage = messagesUsage{InputTokens: used.PromptTokens, OutputTokens: used.CompletionTokens}
	switch {
	case a.status != 0:
		if a.retryAfter != "" {
			w.Header().Set("Retry-After", a.retryAfter)
		}
		writeMessagesError(w, a.status, a.message)
	case in.Stream:
		out.stream(r.Context(), a)
	case a.end != "":
		writeMessagesError(w, http.StatusBadRequest, "[demo] CUT and HANG need a request that asks for a stream")
	default:
		out.whole(r.Context(), a)
	}
}

// countTokens answers what messages would count.
func (g *Gateway) countTokens(w http.ResponseWriter, r *http.Request) {
	if in := readMessages(w, r); in != nil {
		writeJSON(w, http.StatusOK, map[string]int{"input_tokens": usageOf(in.chat(), answer{}).PromptTokens})
	}
}

func writeMessagesError(w http.ResponseWriter, status int, message string) {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusUnauthorized:
		kind = "authentication_error"
	case status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case status >= 500:
		kind = "api_error"
	}
	writeJSON(w, status, map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": message}})
}
