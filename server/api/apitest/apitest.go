// Package apitest checks every answer that a test gets from the API against the OpenAPI document, more strictly than clients may:
// a field that the document does not name is a fault. It also makes random requests from that document. It must not know how
// the server works. A Transport is safe for concurrent use.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/client"
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
	t      testing.TB
	key    string
	base   http.RoundTripper
	doc    *openapi3.T
	router routers.Router
}

// NewTransport returns a transport over base.
func NewTransport(t testing.TB, key string, base http.RoundTripper) *Transport {
	t.Helper()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range doc.Components.Schemas {
		closeSchema(ref.Value)
	}
	doc.Servers, doc.Security = nil, nil
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &Transport{t: t, key: key, base: base, doc: doc, router: router}
}

// closeSchema refuses fields that are not named, except where the document allows any.
func closeSchema(s *openapi3.Schema) {
	if s.Type.Is(openapi3.TypeObject) && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil {
		no := false
		s.AdditionalProperties.Has = &no
	}
	for _, p := range s.Properties {
		if p.Ref == "" {
			closeSchema(p.Value)
		}
	}
	if s.Items != nil && s.Items.Ref == "" {
		closeSchema(s.Items.Value)
	}
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
	if err := tr.check(r, resp); err != nil {
		tr.t.Errorf("%s %s answered %d: %v", r.Method, r.URL.Path, resp.StatusCode, err)
	}
	return resp, nil
}

func (tr *Transport) check(r *http.Request, resp *http.Response) error {
	if err := checkHeaders(resp); err != nil {
		return err
	}
	route, _, err := tr.router.FindRoute(r)
	if err != nil || resp.StatusCode == http.StatusMethodNotAllowed {
		return tr.checkUnrouted(resp)
	}
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if media == "text/event-stream" {
		resp.Body = &eventChecker{ReadCloser: resp.Body, tr: tr}
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, Route: route},
		Status:                 resp.StatusCode, Header: resp.Header,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, MultiError: true, SchemaValidationOptions: formats,
			ExcludeResponseBody: media == "text/event-stream" || media == "text/plain" || media == "application/yaml",
		},
	}
	if input.Options.ExcludeResponseBody {
		if route.Operation.Responses.Status(resp.StatusCode).Value.Content[media] == nil {
			return fmt.Errorf("content type %q is not documented", media)
		}
		return openapi3filter.ValidateResponse(r.Context(), input)
	}
	body, err := rewind(resp)
	if err != nil {
		return err
	}
	if len(route.Operation.Responses.Map()) > 0 && resp.StatusCode == http.StatusNoContent && len(body) > 0 {
		return fmt.Errorf("204 has a body")
	}
	input.SetBodyBytes(body)
	return openapi3filter.ValidateResponse(r.Context(), input)
}

func checkHeaders(resp *http.Response) error {
	for name, pattern := range map[string]string{"X-Request-Id": `^[A-Za-z0-9._-]{1,128}$`, "X-Content-Type-Options": `^nosniff$`} {
		if !regexp.MustCompile(pattern).MatchString(resp.Header.Get(name)) {
			return fmt.Errorf("header %s is missing or wrong", name)
		}
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		if resp.Header.Get("WWW-Authenticate") != "Bearer" {
			return fmt.Errorf("there is no WWW-Authenticate header")
		}
	case http.StatusMethodNotAllowed:
		if resp.Header.Get("Allow") == "" {
			return fmt.Errorf("there is no Allow header")
		}
	}
	return nil
}

// checkUnrouted checks an answer that belongs to no operation: an error, or a page of the docs.
func (tr *Transport) checkUnrouted(resp *http.Response) error {
	if resp.StatusCode < 400 {
		return nil
	}
	body, err := rewind(resp)
	if err != nil {
		return err
	}
	if resp.Request.Method == http.MethodHead {
		return nil
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		return fmt.Errorf("content type %q", ct)
	}
	return tr.checkJSON("Error", body)
}

func (tr *Transport) checkJSON(schema string, data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("%s: %w", schema, err)
	}
	options := append([]openapi3.SchemaValidationOption{openapi3.VisitAsResponse(), openapi3.MultiErrors()}, formats...)
	return tr.doc.Components.Schemas[schema].Value.VisitJSON(v, options...)
}

func rewind(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return body, err
}

func format(name, pattern string) openapi3.SchemaValidationOption {
	return openapi3.WithStringFormatValidator(name, openapi3.NewRegexpFormatValidator(pattern))
}

var formats = []openapi3.SchemaValidationOption{
	format("uuid", `^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`),
	format("date-time", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`),
	format("byte", `^[A-Za-z0-9+/]*={0,2}$`),
}

// eventChecker checks the events of a stream as they are read, their order and their frames included.
type eventChecker struct {
	io.ReadCloser
	tr   *Transport
	rest []byte
	last int64
}

func (c *eventChecker) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.rest = append(c.rest, p[:n]...)
	for {
		block, rest, ok := bytes.Cut(c.rest, []byte("\n\n"))
		if !ok {
			return n, err
		}
		c.rest = rest
		if !bytes.HasPrefix(block, []byte(":")) {
			if err := c.event(string(block)); err != nil {
				c.tr.t.Errorf("event %q: %v", block, err)
			}
		}
	}
}

func (c *eventChecker) event(block string) error {
	e, err := ParseEvent(block)
	if err != nil {
		return err
	}
	if e.Seq <= c.last {
		return fmt.Errorf("seq %d comes after %d", e.Seq, c.last)
	}
	c.last = e.Seq
	_, data, _ := strings.Cut(block, "\ndata: ")
	return c.tr.checkJSON("Event", []byte(data))
}

// ParseEvent reads one block of an event stream, without the empty line that ends it.
func ParseEvent(block string) (client.Event, error) {
	var e client.Event
	m := regexp.MustCompile(`^id: (\d+)\nevent: ([^\n]+)\ndata: ([^\n]+)$`).FindStringSubmatch(block)
	if m == nil {
		return e, fmt.Errorf("is not an id, an event and a data line")
	}
	if err := json.Unmarshal([]byte(m[3]), &e); err != nil {
		return e, err
	}
	if fmt.Sprint(e.Seq) != m[1] || e.Type != m[2] {
		return e, fmt.Errorf("id and event do not repeat seq and type")
	}
	return e, nil
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
			e, err := ParseEvent(string(block))
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
