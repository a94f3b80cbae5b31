package demo

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// chatRequest is the part of an OpenAI chat request that decides the answer.
type chatRequest struct {
	Model         string        `json:"model"`
	Stream        bool          `json:"stream"`
	StreamOptions streamOptions `json:"stream_options"`
	Messages      []chatMessage `json:"messages"`
	Tools         []tool        `json:"tools"`

	forTitle bool // the protocol says that a title is wanted
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content is a message's content: in the protocol a string, null or a list of parts.
type content []part

type part struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	ImageURL struct {
		URL string `json:"url"`
	} `json:"image_url"`
}

func (c *content) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*c = content{{Type: "text", Text: s}}
		return nil
	}
	return json.Unmarshal(b, (*[]part)(c))
}

type tool struct {
	Function struct {
		Name       string `json:"name"`
		Parameters struct {
			Properties map[string]property `json:"properties"`
			Required   []string            `json:"required"`
		} `json:"parameters"`
	} `json:"function"`
}

// property is a tool's parameter; its type is empty where the schema gives several.
type property struct{ Type string }

func (p *property) UnmarshalJSON(b []byte) error {
	var v struct {
		Type json.RawMessage `json:"type"`
	}
	if json.Unmarshal(b, &v) == nil {
		_ = json.Unmarshal(v.Type, &p.Type) // several types
	}
	return nil
}

func (m chatMessage) text() string {
	var texts []string
	for _, p := range m.Content {
		if p.Text != "" {
			texts = append(texts, p.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// images returns the media types of a message's images and the sums of their bytes.
func (m chatMessage) images() (media, sums []string) {
	for _, p := range m.Content {
		if p.Type != "image_url" {
			continue
		}
		kind, sum := "by URL", ""
		if rest, ok := strings.CutPrefix(p.ImageURL.URL, "data:"); ok {
			var data string
			kind, data, _ = strings.Cut(rest, ";base64,")
			if b, err := base64.StdEncoding.DecodeString(data); err == nil {
				sum = fmt.Sprintf("%x", sha256.Sum256(b))
			}
		}
		media, sums = append(media, kind), append(sums, sum)
	}
	return media, sums
}

func (c chatRequest) lastUser() int {
	for i := len(c.Messages) - 1; i >= 0; i-- {
		if c.Messages[i].Role == "user" {
			return i
		}
	}
	return -1
}

// toolResult is the text of the last tool message after message i.
func (c chatRequest) toolResult(i int) (string, bool) {
	for j := len(c.Messages) - 1; j > i; j-- {
		if c.Messages[j].Role == "tool" {
			return c.Messages[j].text(), true
		}
	}
	return "", false
}

// asksForTitle tells the harnesses' small extra requests from those of the conversation: no tools, and instructions about a title.
func (c chatRequest) asksForTitle() bool {
	if c.forTitle {
		return true
	}
	if len(c.Tools) > 0 || len(c.Messages) == 0 || c.Messages[0].Role != "system" {
		return false
	}
	return strings.Contains(strings.ToLower(c.Messages[0].text()), "title")
}

func (c chatRequest) remembered() Request {
	r := Request{Time: time.Now(), KeyOK: true, Model: c.Model, Stream: c.Stream}
	for _, m := range c.Messages {
		text := m.text()
		text = strings.ToValidUTF8(strings.Clone(text[:min(len(text), maxText)]), "")
		media, sums := m.images()
		r.Messages = append(r.Messages, Message{Role: m.Role, Text: text, Images: media, Sums: sums})
	}
	for _, t := range c.Tools {
		r.Tools = append(r.Tools, t.Function.Name)
	}
	return r
}

// answer picks the answer to a conversation, of whatever protocol, and remembers it.
func (g *Gateway) answer(r *http.Request, c chatRequest) (answer, usage) {
	a, asked := decide(c), c.remembered()
	asked.Alias, _ = r.Context().Value(aliasKey{}).(string)
	if a.times > 0 && g.before(asked) >= a.times {
		a.status, a.end = 0, ""
	}
	used := usageOf(c, a)
	if a.status == 0 && a.end == "" {
		asked.PromptTokens, asked.CompletionTokens = used.PromptTokens, used.CompletionTokens
	}
	g.remember(asked)
	return a, used
}

// refuse sends a failure in the form of OpenAI's protocols.
func (a answer) refuse(w http.ResponseWriter) {
	if a.retryAfter != "" {
		w.Header().Set("Retry-After", a.retryAfter)
	}
	writeError(w, a.status, a.message)
}

func (g *Gateway) chat(w http.ResponseWriter, r *http.Request) {
	var c chatRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&c); err != nil {
		writeError(w, http.StatusBadRequest, "[demo] the demo gateway cannot read this request")
		return
	}
	if c.Model == "" || len(c.Messages) == 0 {
		writeError(w, http.StatusBadRequest, "[demo] model and messages are required")
		return
	}
	a, used := g.answer(r, c)
	reply := reply{
		w: w, rc: http.NewResponseController(w), usage: used,
		head: head{ID: "chatcmpl-" + uuid.NewString(), Created: time.Now().Unix(), Model: c.Model},
	}
	switch {
	case a.status != 0:
		a.refuse(w)
	case c.Stream:
		reply.stream(r.Context(), a, c.StreamOptions.IncludeUsage)
	case a.end != "":
		writeError(w, http.StatusBadRequest, "[demo] CUT and HANG need a request that asks for a stream")
	default:
		reply.whole(r.Context(), a)
	}
}
