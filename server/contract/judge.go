package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// Wrong lists what is wrong with an answer whatever the state of the server: leaks, headers, and the details of an error.
func (g *Generator) Wrong(x *Exchange) []string {
	wrong := append(g.leaked(x), checkHeaders(x)...)
	if x.Status >= http.StatusBadRequest {
		wrong = append(wrong, checkError(x)...)
	}
	return wrong
}

// leaked finds what an answer says and must not.
func (g *Generator) leaked(x *Exchange) (wrong []string) {
	for name, values := range x.Header {
		if strings.Contains(strings.Join(values, ""), g.o.Marker) && name != "X-Request-Id" {
			wrong = append(wrong, "header "+name+" holds what was sent")
		}
		if all := strings.Join(values, ""); strings.Contains(all, g.o.Key) || strings.Contains(all, g.o.Secret) {
			wrong = append(wrong, "header "+name+" holds a secret")
		}
	}
	if x.Status >= 400 && bytes.Contains(x.Body, []byte(g.o.Marker)) {
		wrong = append(wrong, "the error holds what was sent")
	}
	if bytes.Contains(x.Body, []byte(g.o.Key)) {
		wrong = append(wrong, "the answer holds the key")
	}
	if bytes.Contains(x.Body, []byte(g.o.Secret)) && !strings.Contains(x.Request.Query["expand"], "env_vars") {
		wrong = append(wrong, "the answer holds a secret")
	}
	return wrong
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// checkHeaders checks the headers that any answer may have.
func checkHeaders(x *Exchange) (wrong []string) {
	if id := x.Request.Header.Get("X-Request-Id"); requestID.MatchString(id) != (x.Header.Get("X-Request-Id") == id) {
		wrong = append(wrong, "want the caller's request id if, and only if, it is sane")
	}
	if x.Request.Repeats == nil && x.Header.Get("Idempotency-Replayed") != "" {
		wrong = append(wrong, "nothing was replayed")
	}
	return wrong
}

// checkError checks that an error says what is wrong with the request, all of it and nothing else.
func checkError(x *Exchange) (wrong []string) {
	var e client.Error
	if err := json.Unmarshal(x.Body, &e); err != nil {
		return []string{err.Error()}
	}
	replayed := x.Header.Get("Idempotency-Replayed") == "true" // then it has the id of the first request
	if e.Error == "" || e.RequestID != x.Header.Get("X-Request-Id") && !replayed {
		wrong = append(wrong, "the error has no sentence or another request's id")
	}
	if len(x.Request.Flaws) == 0 || e.Code != x.Request.Flaws[0].Code || x.Status != http.StatusBadRequest {
		return wrong
	}
	if e.Code == "invalid_json" {
		if len(e.Details) != 1 {
			wrong = append(wrong, "there is not one detail")
		}
		return wrong
	}
	for _, f := range x.Request.Flaws {
		if !slices.ContainsFunc(e.Details, func(d client.ErrorDetail) bool { return d.Field == f.Field }) {
			wrong = append(wrong, fmt.Sprintf("%s at %q is not listed", f.Rule, f.Field))
		}
	}
	for _, d := range e.Details {
		about := func(f Flaw) bool {
			return strings.HasPrefix(d.Field, f.Field) || strings.HasPrefix(f.Field, d.Field)
		}
		if d.Message == "" || !slices.ContainsFunc(x.Request.Flaws, about) {
			wrong = append(wrong, fmt.Sprintf("%q is not wrong", d.Field))
		}
	}
	return wrong
}

// Stored tells whether an answer is kept under its Idempotency-Key. What is not JSON is not read, so that it cannot be compared.
func Stored(status int) bool {
	return status < 500 && !slices.Contains([]int{401, 408, 413, 415, 429}, status)
}

// CheckRepeat checks the answer to a request whose key was used; done is false if it counts as a new request.
func CheckRepeat(x *Exchange) (done bool, wrong []string) {
	q, first := x.Request, x.Request.Repeats
	if !first.keyTaken() {
		return false, nil
	}
	same := bytes.Equal(q.Body, first.Request.Body)
	if q.NamesTurn() {
		same = reflect.DeepEqual(parts(q.Value), parts(first.Request.Value))
	}
	switch {
	case !same && x.Status == http.StatusUnprocessableEntity && bytes.Contains(x.Body, []byte("idempotency_key_reused")):
	case !same && reflect.DeepEqual(q.Value, first.Request.Value) && x.Status == first.Status:
	case !same:
		wrong = append(wrong, "want 422 idempotency_key_reused")
	case q.NamesTurn():
		if x.Status != first.Status || field(x.Body, "id") != field(first.Body, "id") {
			wrong = append(wrong, "want the same turn")
		}
	case x.Status != first.Status || !bytes.Equal(anonymous(q, x.Body), anonymous(q, first.Body)) || x.Header.Get("Content-Type") != first.Header.Get("Content-Type") || x.Header.Get("Etag") != first.Header.Get("Etag"):
		wrong = append(wrong, fmt.Sprintf("want the first answer, %d %s", first.Status, first.Body[:min(1000, len(first.Body))]))
	case x.Header.Get("Idempotency-Replayed") != "true":
		wrong = append(wrong, "want Idempotency-Replayed")
	}
	return true, wrong
}

// keyTaken tells whether the server keeps the answer, or the turn, under the Idempotency-Key of the request.
func (x *Exchange) keyTaken() bool {
	return Stored(x.Status) && (!x.Request.NamesTurn() || x.Status == http.StatusAccepted)
}

// anonymous is an answer without what tells a repeat from the first one. That of an abort is not what is stored: it depends on how
// the turn ended.
func anonymous(q *Request, body []byte) []byte {
	if q.Operation != "abortTurn" {
		return body
	}
	before, _, _ := bytes.Cut(body, []byte(`"request_id"`))
	return before
}

// parts is a message in the one form in which messages are compared.
func parts(v any) any {
	m, _ := v.(map[string]any)
	if text, ok := m["text"].(string); ok {
		return []any{map[string]any{"type": "text", "text": text}}
	}
	return m["parts"]
}

func field(body []byte, name string) any {
	var m map[string]any
	_ = json.Unmarshal(body, &m)
	return m[name]
}
