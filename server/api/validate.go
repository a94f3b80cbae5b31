package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/labstack/echo/v4"
	"github.com/oapi-codegen/runtime"
)

const bodyKey = "lap.body" // the decoded body in the echo context

// validate refuses requests that the OpenAPI document does not allow, with all their violations at once, and leaves the decoded
// body for the binder.
func validate(table map[string]*operation, bodyTimeout time.Duration) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			op := find(table, c)
			if op == nil {
				return next(c)
			}
			var found violations
			op.checkParams(c.Request(), &found)
			if op.body != nil {
				body, ok, err := op.readBody(c, bodyTimeout)
				if err != nil {
					return err
				}
				if ok {
					op.checkBody(body, &found)
					c.Set(bodyKey, body)
				}
			}
			if len(found.list) > 0 {
				return invalid(found.list)
			}
			return next(c)
		}
	}
}

// binder gives handlers the body that was validated, with names matched exactly.
type binder struct{}

func (binder) Bind(dst any, c echo.Context) error {
	body := c.Get(bodyKey)
	if body == nil {
		return io.EOF // what the generated code takes for "no body"
	}
	if err := runtime.BindJSONValue(body, dst); err != nil {
		return &problem{status: http.StatusBadRequest, code: codeInvalidRequest, text: "request is invalid"}
	}
	return nil
}

func (op *operation) checkParams(r *http.Request, found *violations) {
	if len(op.params) == 0 {
		return
	}
	// The preference may come in several headers; together they are one list.
	if prefer := r.Header.Values("Prefer"); len(prefer) > 1 {
		r.Header.Set("Prefer", strings.Join(prefer, ", "))
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		found.add("query", "is not a well-formed query string")
		return
	}
	input := &openapi3filter.RequestValidationInput{Request: r, QueryParams: query, Route: op.route, Options: paramOptions}
	for _, p := range op.params {
		given := query[p.Name]
		if p.In == openapi3.ParameterInHeader {
			given = r.Header.Values(p.Name)
		}
		switch field := p.In + "/" + p.Name; {
		case len(given) == 0:
		case len(given) > 1:
			found.add(field, "is given more than once")
		default:
			found.addParam(field, p.Schema.Value, openapi3filter.ValidateParameter(r.Context(), input, p))
		}
	}
}

// readBody returns the decoded body; ok is false if there is none and none is needed.
func (op *operation) readBody(c echo.Context, timeout time.Duration) (body any, ok bool, err error) {
	r := c.Request()
	types := r.Header.Values("Content-Type")
	if len(types) > 0 && !isJSON(types) {
		return nil, false, unsupportedMedia(true)
	}
	if r.ContentLength > op.limit {
		return nil, false, op.tooLarge()
	}
	data, err := op.readAll(c, timeout)
	switch {
	case err != nil:
		return nil, false, err
	case len(data) == 0 && op.required:
		return nil, false, badJSON("", "the body is empty")
	case len(data) == 0:
		return nil, false, nil
	case len(types) == 0:
		return nil, false, unsupportedMedia(false)
	}
	body, err = decodeJSON(data)
	return body, err == nil, err
}

func (op *operation) readAll(c echo.Context, timeout time.Duration) ([]byte, error) {
	r := c.Request()
	// Fails only where there is no connection, as in benchmarks. net/http takes the deadline away when the body has ended.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Now().Add(timeout))
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(c.Response(), r.Body, op.limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, op.tooLarge()
	case err != nil: // too slow, ill-formed, or the client is gone, which then does not see the answer
		return nil, &problem{status: http.StatusBadRequest, code: codeInvalidRequest, text: "the body did not arrive whole", unread: true}
	}
	return buf.Bytes(), nil
}

func (op *operation) tooLarge() error {
	return &problem{status: http.StatusRequestEntityTooLarge, code: codeTooLarge, unread: true,
		text: fmt.Sprintf("body is larger than %d bytes", op.limit)}
}

func unsupportedMedia(unread bool) error {
	return &problem{status: http.StatusUnsupportedMediaType, code: codeUnsupportedMedia,
		text: "Content-Type must be application/json", unread: unread}
}

func isJSON(types []string) bool {
	if len(types) != 1 {
		return false
	}
	media, params, err := mime.ParseMediaType(types[0])
	charset := params["charset"]
	return err == nil && media == "application/json" && (charset == "" || strings.EqualFold(charset, "utf-8"))
}

func (op *operation) checkBody(body any, found *violations) {
	// The document has no defaults that a handler relies on, so the body is validated and not filled.
	found.addSchema(op.body.VisitJSON(body, bodyOptions...))
	if object, ok := body.(map[string]any); ok && op.rule != nil {
		op.rule(object, found)
	}
}
