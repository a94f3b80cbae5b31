package client_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/gen/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a server in memory: it answers each request with the next answer, the last one again and again.
type wire struct {
	answers []answer

	mu   sync.Mutex // guards seen
	seen []request
}

type request struct{ method, path, key, body string }

type answer func(*http.Request) (*http.Response, error)

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	w.mu.Lock()
	n := len(w.seen)
	w.seen = append(w.seen, request{r.Method, r.URL.RequestURI(), r.Header.Get("Idempotency-Key"), string(body)})
	w.mu.Unlock()
	return w.answers[min(n, len(w.answers)-1)](r)
}

func (w *wire) requests() []request {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// api is a client of a server in memory.
func api(t *testing.T, o client.Options, answers ...answer) (*client.API, *wire) {
	t.Helper()
	w := &wire{answers: answers}
	o.URL, o.Key, o.HTTPClient = "http://lap.test", "sdk-key-canary", &http.Client{Transport: w}
	a, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a, w
}

func says(status int, body string, headers ...string) answer {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{"Content-Type": {"application/json"}}
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

func refuses(status int, code string, headers ...string) answer {
	return says(status, fmt.Sprintf(`{"error":"no","code":%q,"request_id":"r","details":[]}`, code), headers...)
}

func fails(err error) answer {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// breaksOff is an answer whose body ends too early.
func breaksOff(body, media string) answer {
	return func(r *http.Request) (*http.Response, error) {
		b := io.MultiReader(strings.NewReader(body), broken{})
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(b), Request: r}, nil
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// streams is a stream of events that ends, and then is held open without a word.
func streams(held bool, events ...string) answer {
	return func(r *http.Request) (*http.Response, error) {
		out, in := io.Pipe()
		body := &hungUp{Reader: io.MultiReader(bytes.NewReader([]byte(strings.Join(events, ""))), out), pipe: out}
		if !held {
			_ = in.Close()
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, Request: r}, nil
	}
}

type hungUp struct {
	io.Reader
	pipe *io.PipeReader
}

func (h *hungUp) Close() error { return h.pipe.Close() }

func event(seq int, kind, data string) string {
	return fmt.Sprintf("id: %d\nevent: %s\ndata: {\"type\":%q,\"seq\":%d,\"turn_id\":null,\"time\":\"2026-11-23T10:00:00.000Z\",\"data\":%s}\n\n", seq, kind, kind, seq, data)
}
