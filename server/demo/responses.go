package demo

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// responsesRequest is the part of an OpenAI responses request that decides the answer.
type responsesRequest struct {
	Model        string          `json:"model"`
	Stream       bool            `json:"stream"`
	Instructions string          `json:"instructions"`
	Input        responsesInput  `json:"input"`
	Tools        []responsesTool `json:"tools"`
	Text         struct {
		Format struct {
			Schema struct {
				Properties map[string]property `json:"properties"`
			} `json:"schema"`
		} `json:"format"`
	} `json:"text"`
}

// forTitle tells codex's small extra requests from those of the conversation: the answer must be JSON with a title.
func (r responsesRequest) forTitle() bool {
	_, ok := r.Text.Format.Schema.Properties["title"]
	return ok && len(r.Tools) == 0
}

// responsesInput is a conversation: in the protocol a string or a list of items.
type responsesInput []responsesItem

func (in *responsesInput) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*in = responsesInput{{Role: "user", Content: responsesContent{{Type: "text", Text: s}}}}
		return nil
	}
	return json.Unmarshal(b, (*[]responsesItem)(in))
}

// responsesItem is a message, a call of a tool or the output of one; other items decide nothing.
type responsesItem struct {
	Type    string           `json:"type"` // empty: a message
	Role    string           `json:"role"`
	Content responsesContent `json:"content"`
	Output  responsesContent `json:"output"`
}

// responsesContent is in the protocol a string, null or a list of parts.
type responsesContent []part

func (c *responsesContent) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*c = responsesContent{{Type: "text", Text: s}}
		return nil
	}
	var parts []struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		ImageURL string `json:"image_url"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	*c = nil
	for _, p := range parts {
		q := part{Type: "text", Text: p.Text}
		if p.Type == "input_image" {
			q.Type, q.ImageURL.URL = "image_url", p.ImageURL
		}
		*c = append(*c, q)
	}
	return nil
}

// responsesTool is a function or, with tools of its own, a namespace. Tools of other types are the gateway's to run, or take no JSON.
type responsesTool struct {
	Type       string          `json:"type"`
	Name       string          `json:"name"`
	Parameters json.RawMessage `json:"parameters"`
	Tools      []responsesTool `json:"tools"`
}

// namespaceMark stands between a namespace and the tool's own name in Request.Tools.
const namespaceMark = "__"

// functions lists the tools under their whole names.
func (t responsesTool) functions(namespace string) (list []tool) {
	switch t.Type {
	case "function":
		var f tool
		f.Function.Name = namespace + t.Name
		_ = json.Unmarshal(t.Parameters, &f.Function.Parameters) // a tool that cannot be filled is not called
		list = append(list, f)
	case "namespace":
		for _, inner := range t.Tools {
			list = append(list, inner.functions(t.Name+namespaceMark)...)
		}
	}
	return list
}

// callName splits a tool's whole name as the protocol has it in a call.
func (r responsesRequest) callName(whole string) (namespace, name string) {
	for _, t := range r.Tools {
		if inner, ok := strings.CutPrefix(whole, t.Name+namespaceMark); ok && t.Type == "namespace" {
			return t.Name, inner
		}
	}
	return "", whole
}

// chat is the same conversation in the other protocol.
func (r responsesRequest) chat() chatRequest {
	c := chatRequest{Model: r.Model, Stream: r.Stream, forTitle: r.forTitle()}
	if r.Instructions != "" {
		c.Messages = append(c.Messages, chatMessage{Role: "system", Content: content{{Type: "text", Text: r.Instructions}}})
	}
	for _, item := range r.Input {
		switch {
		case item.Type == "" || item.Type == "message":
			c.Messages = append(c.Messages, chatMessage{Role: item.Role, Content: content(item.Content)})
		case strings.HasSuffix(item.Type, "_call_output"):
			c.Messages = append(c.Messages, chatMessage{Role: "tool", Content: content(item.Output)})
		}
	}
	for _, t := range r.Tools {
		c.Tools = append(c.Tools, t.functions("")...)
	}
	return c
}

func (g *Gateway) responses(w http.ResponseWriter, r *http.Request) {
	var in responsesRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
		writeError(w, http.StatusBadRequest, "[demo] the demo gateway cannot read this request")
		return
	}
	if in.Model == "" || len(in.Input) == 0 {
		writeError(w, http.StatusBadRequest, "[demo] model and input are required")
		return
	}
	a, used := g.answer(r, in.chat())
	if in.forTitle() {
		a.pieces = []string{`{"title":"` + strings.Join(a.pieces, "") + `"}`}
	}
	out := newResponsesReply(w, in, used)
	switch {
	case a.status != 0:
		a.refuse(w)
	case in.Stream:
		out.stream(r.Context(), a)
	case a.end != "":
		writeError(w, http.StatusBadRequest, "[demo] CUT and HANG need a request that asks for a stream")
	default:
		out.whole(r.Context(), a)
	}
}

func newResponsesReply(w http.ResponseWriter, in responsesRequest, used usage) *responsesReply {
	out := &responsesReply{w: w, rc: http.NewResponseController(w), request: in, response: response{
		ID: "resp_" + uuid.NewString(), Object: "response", CreatedAt: time.Now().Unix(), Status: "in_progress", Model: in.Model, Output: []responseItem{},
	}}
	out.used.InputTokens, out.used.OutputTokens, out.used.TotalTokens = used.PromptTokens, used.CompletionTokens, used.TotalTokens
	out.used.OutputDetails.ReasoningTokens = used.Details.ReasoningTokens
	return out
}
