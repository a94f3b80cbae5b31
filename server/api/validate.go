package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/labstack/echo/v4"

	"github.com/litellm-agent-platform/lap/store"
)

const bodyKey = "lap.body" // the decoded body in the echo context

// validate refuses requests that the OpenAPI document does not allow, with all their violations at once, and leaves the decoded
// body for the binder. A request with an Idempotency-Key is answered through st, its refusal included, as soon as its body is there.
func validate(st *store.Store, table map[string]*operation, bodyTimeout time.Duration) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			op := find(table, c)
			if op == nil {
				return next(c)
			}
			key := op.keyOf(c.Request())
			var data []byte
			if op.body != nil || key != "" {
				var err error
				if data, err = op.readBody(c, bodyTimeout); err != nil {
					return err
				}
			}
			if key == "" {
				return op.handle(c, data, next)
			}
			request := onceRequest(c.Request(), key, data)
			if waits(op.id) {
				c.SetRequest(c.Request().WithContext(context.WithValue(c.Request().Context(), onceRequestKey{}, request)))
				return op.handle(c, data, next)
			}
			return once(st, c, request, func() error { return op.handle(c, data, next) })
		}
	}
}

// handle checks a request whose body is data and passes it on.
func (op *operation) handle(c echo.Context, data []byte, next echo.HandlerFunc) error {
	var found violations
	op.checkParams(c.Request(), &found)
	if op.body != nil {
		body, ok, err := op.decodeBody(c, data)
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

// binder gives handlers the body that was validated, with names matched exactly.
type binder struct{}

func (binder) Bind(dst any, c echo.Context) error {
	body := c.Get(bodyKey)
	if body == nil {
		return io.EOF // what the generated code takes for "no body"
	}
	c.Set(bodyKey, nil) // it may be large, and the handler may wait for long
	if err := bind(body, reflect.ValueOf(dst).Elem()); err != nil {
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
	clampPage(r, query)
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

// clampPage brings a limit or an offset that no int holds to the nearest one: handlers clamp both, and refuse no integer.
func clampPage(r *http.Request, query url.Values) {
	for _, name := range []string{"limit", "offset"} {
		if n, err := strconv.Atoi(query.Get(name)); errors.Is(err, strconv.ErrRange) && len(query[name]) == 1 {
			query.Set(name, strconv.Itoa(n))
			r.URL.RawQuery = query.Encode()
		}
	}
}

func (op *operation) checkBody(body any, found *violations) {
	// The document has no defaults that a handler relies on, so the body is validated and not filled.
	found.addSchema(op.body.VisitJSON(body, bodyOptions...))
	if object, ok := body.(map[string]any); ok && op.rule != nil {
		op.rule(object, found)
	}
}
