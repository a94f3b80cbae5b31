// Package apitest has every answer that a test gets from the API checked against the OpenAPI document. It must not know how the
// server works. A Transport is safe for concurrent use.
package apitest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/contract"
)

// Client returns a generated client of the API at url whose answers are all checked. An empty key sends none.
func Client(t testing.TB, url, key string) *client.ClientWithResponses {
	t.Helper()
	c, err := client.NewClientWithResponses(url, client.WithHTTPClient(HTTPClient(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// HTTPClient returns a client for requests that the generated one would not make. Its connections are closed with the test.
func HTTPClient(t testing.TB, key string) *http.Client {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return &http.Client{Transport: NewTransport(t, key, base)}
}

// Transport adds the key and checks answers.
type Transport struct {
	t       testing.TB
	key     string
	base    http.RoundTripper
	checker *contract.Checker
}

// NewTransport returns a transport over base.
func NewTransport(t testing.TB, key string, base http.RoundTripper) *Transport {
	t.Helper()
	checker, err := contract.NewChecker()
	if err != nil {
		t.Fatal(err)
	}
	return &Transport{t: t, key: key, base: base, checker: checker}
}

// RoundTrip sends a request and checks what comes back. A fault fails the test, not the call.
func (tr *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if tr.key != "" && r.Header.Get("Authorization") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+tr.key)
	}
	resp, err := tr.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := tr.checker.Check(r, resp, func(err error) { tr.t.Errorf("%v", err) }); err != nil {
		tr.t.Errorf("%s %s answered %d: %v", r.Method, r.URL.Path, resp.StatusCode, err)
	}
	return resp, nil
}

// ReadEvents reads events of a stream until done says that an event was the last one wanted, or the stream ends.
func ReadEvents(ctx context.Context, r io.Reader, done func(client.Event) bool) ([]client.Event, error) {
	var events []client.Event
	var pending []byte
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		n, readErr := r.Read(buf)
		pending = append(pending, buf[:n]...)
		for {
			block, rest, ok := bytes.Cut(pending, []byte("\n\n"))
			if !ok {
				break
			}
			pending = rest
			if bytes.HasPrefix(block, []byte(":")) {
				continue
			}
			e, err := contract.ParseEvent(string(block))
			if err != nil {
				return events, err
			}
			if events = append(events, e); done(e) {
				return events, nil
			}
		}
		if readErr != nil {
			return events, readErr
		}
	}
	return events, ctx.Err()
}
