// Package contract checks a deployment against the OpenAPI document: it sends random requests, good and bad, made from the document,
// and judges the answers. It knows the server only by its URL and a key. A run owns the goroutines it starts.
package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/client"
)

// Checker compares answers with the OpenAPI document, more strictly than clients may: a field that the document does not name is a
// fault. It is safe for concurrent use.
type Checker struct {
	doc    *openapi3.T
	router routers.Router
}

// NewChecker returns a checker for the embedded document.
func NewChecker() (*Checker, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, err
	}
	for _, ref := range doc.Components.Schemas {
		closeSchema(ref.Value)
	}
	doc.Servers, doc.Security = nil, nil
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, err
	}
	return &Checker{doc: doc, router: router}, nil
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

// Check says how an answer differs from the document. The events of a stream are checked as its body is read, and what is wrong
// with them is reported.
func (c *Checker) Check(r *http.Request, resp *http.Response, report func(error)) error {
	if err := checkFixed(resp); err != nil {
		return err
	}
	route, _, err := c.router.FindRoute(r)
	if err != nil || resp.StatusCode == http.StatusMethodNotAllowed {
		return c.checkUnrouted(resp)
	}
	answer := route.Operation.Responses.Status(resp.StatusCode)
	switch {
	case answer == nil:
		return fmt.Errorf("status %d is not documented", resp.StatusCode)
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return nil // what follows is no answer, and its reader also writes
	}
	for _, name := range []string{"ETag", "Location"} {
		if answer.Value.Headers[name] != nil && resp.Header.Get(name) == "" {
			return fmt.Errorf("there is no %s header", name)
		}
	}
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if media == "text/event-stream" {
		resp.Body = &eventChecker{ReadCloser: resp.Body, checker: c, report: report}
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
		if answer.Value.Content[media] == nil {
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

func checkFixed(resp *http.Response) error {
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
func (c *Checker) checkUnrouted(resp *http.Response) error {
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
	return c.checkJSON("Error", body)
}

func (c *Checker) checkJSON(schema string, data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("%s: %w", schema, err)
	}
	options := append([]openapi3.SchemaValidationOption{openapi3.VisitAsResponse(), openapi3.MultiErrors()}, formats...)
	return c.doc.Components.Schemas[schema].Value.VisitJSON(v, options...)
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
	checker *Checker
	report  func(error)
	rest    []byte
	last    int64
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
				c.report(fmt.Errorf("event %q: %w", block, err))
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
	return c.checker.checkJSON("Event", []byte(data))
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
