// Package demo is a model gateway without a model: it speaks the chat and responses protocols of OpenAI and the messages
// protocol of Anthropic, and answers by rule, so that the whole platform can be tried, and tested, without an account anywhere.
// Every answer says that it comes from the demo gateway. It owns nothing but a bounded memory of the last requests and must not
// know the platform. A Gateway is safe for concurrent use.
//
// What it answers depends on a script word at the start of the last user message:
//
//	RUN: <command>        calls the harness's shell tool once, then answers "[demo] RESULT: <output>"
//	CALL: <tool> <json>   the same with the offered tool whose name ends in <tool>
//	SLOW: <n> <anything>  n pieces, one every 100 ms, at most 600
//	THINK: <text>         reasons first, then answers
//	FAIL: <status> <t> <s>  fails with that HTTP status, 400 to 599, and asks to come again after s seconds (a 429 after 1)
//	CUT: <n> <t>          n pieces, then the connection breaks
//	HANG: <n> <t>         n pieces, then silence until the client leaves; with n 0 or left out not even a status
//
// The last three do so the first t times that they get the same conversation, or always if t is 0 or left out.
//
// Any other message is echoed, with the number and media types of its images. A word counts on the first line of a text part.
// A request that only asks for a title gets one, whatever it quotes.
package demo

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxBody     = 64 << 20
	maxRequests = 200
	maxText     = 64 << 10 // of one remembered message
	maxMemory   = 8 << 20  // of all of them
)

// Gateway is a gateway at the paths /v1/chat/completions, /v1/responses, /v1/messages, /v1/messages/count_tokens, /v1/models (all
// also without /v1) and /health/liveliness. All but the last want the key as a bearer token. One that manages keys has
// /key/generate and /key/delete, too, for the holder of its master key.
type Gateway struct {
	keyHash [sha256.Size]byte
	mux     *http.ServeMux

	mu       sync.Mutex // guards the rest
	requests []Request
	size     int
	keys     map[string]key // by alias
}

// Request is what a Gateway remembers of a request to answer, in whatever protocol. It never holds the key.
type Request struct {
	Time     time.Time
	KeyOK    bool   // whether the right key came with it; if not, the body was not read and the rest is empty
	Alias    string // of the key, if it was generated
	Model    string
	Stream   bool
	Messages []Message
	Tools    []string // names of the tools on offer

	PromptTokens, CompletionTokens int // of the answer, if it came whole
}

// Message is one message of a Request.
type Message struct {
	Role   string
	Text   string   // all text parts, joined by newlines; cut at 64 KiB
	Images []string // media types, in order
	Sums   []string // SHA-256 of the images' bytes in hexadecimal, in order; empty for one that came by URL
}

// New returns a gateway that accepts one key. An empty key accepts nobody.
func New(key string) *Gateway {
	g := &Gateway{mux: http.NewServeMux()}
	if key != "" {
		g.keyHash = sha256.Sum256([]byte(key))
	}
	for _, prefix := range []string{"", "/v1"} {
		g.mux.HandleFunc("POST "+prefix+"/chat/completions", g.authorized(g.chat))
		g.mux.HandleFunc("POST "+prefix+"/responses", g.authorized(g.responses))
		g.mux.HandleFunc("POST "+prefix+"/messages", g.authorized(g.messages))
		g.mux.HandleFunc("POST "+prefix+"/messages/count_tokens", g.authorized(g.countTokens))
		g.mux.HandleFunc("GET "+prefix+"/models", g.authorized(g.models))
	}
	g.mux.HandleFunc("GET /health/liveliness", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, "I'm alive!")
	})
	g.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "[demo] the demo gateway has no such path")
	})
	return g
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.mux.ServeHTTP(w, r) }

// Requests returns the last requests to answer, oldest first: at most 200, fewer if they are large.
func (g *Gateway) Requests() []Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.requests)
}

func (g *Gateway) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if g.holds(r, g.keyHash) {
			next(w, r)
			return
		}
		if alias, ok := g.generated(r); ok {
			next(w, r.WithContext(context.WithValue(r.Context(), aliasKey{}, alias)))
			return
		}
		if r.Method == http.MethodPost {
			g.remember(Request{Time: time.Now()})
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		writeError(w, http.StatusUnauthorized, "[demo] the demo gateway does not accept this key")
	}
}

// holds tells whether a request comes with the key of a hash.
func (g *Gateway) holds(r *http.Request, hash [sha256.Size]byte) bool {
	sum, bearer := bearerHash(r)
	return bearer && subtle.ConstantTimeCompare(sum[:], hash[:]) == 1
}

func bearerHash(r *http.Request) (sum [sha256.Size]byte, ok bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return sha256.Sum256([]byte(token)), ok
}

// before returns how often the same conversation came before, as far as it is remembered.
func (g *Gateway) before(r Request) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, old := range g.requests {
		if old.KeyOK && reflect.DeepEqual(old.Messages, r.Messages) {
			n++
		}
	}
	return n
}

func (g *Gateway) remember(r Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = append(g.requests, r)
	g.size += r.size()
	for len(g.requests) > maxRequests || (g.size > maxMemory && len(g.requests) > 1) {
		g.size -= g.requests[0].size()
		g.requests = slices.Delete(g.requests, 0, 1)
	}
}

func (r Request) size() int {
	n := 0
	for _, m := range r.Messages {
		n += len(m.Text)
	}
	return n
}

func (g *Gateway) models(w http.ResponseWriter, _ *http.Request) {
	model := map[string]any{"id": "demo", "object": "model", "created": 0, "owned_by": "demo"}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{model}})
}

func writeError(w http.ResponseWriter, status int, message string) {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusUnauthorized:
		kind = "authentication_error"
	case status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case status >= 500:
		kind = "server_error"
	}
	writeJSON(w, status, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": status}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}
