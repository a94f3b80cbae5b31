package api

import (
	"fmt"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/labstack/echo/v4"

	"github.com/litellm-agent-platform/lap/gen"
)

// Limits of bodies in bytes. The descriptions of the operations name them too.
const defaultBodyLimit = 1 << 20

var bodyLimits = map[string]int64{
	"createAgent":   16 << 20,
	"updateAgent":   16 << 20,
	"createSkill":   2 << 20,
	"updateSkill":   2 << 20,
	"attachSkill":   2 << 20,
	"createSession": 8 << 20,
	"sendMessage":   32 << 20,
	"streamMessage": 32 << 20,
}

// rule finds what is wrong with a body beyond its schema. The body may violate the schema.
type rule func(body map[string]any, found *violations)

// operation is what the middleware has to know of one operation of the OpenAPI document, or of one page beside it.
type operation struct {
	id        string
	path      string // as the router knows it
	anonymous bool
	params    []*openapi3.Parameter // in query and header; ids in paths are looked up, not validated
	route     *routers.Route
	body      *openapi3.Schema // nil: takes none
	required  bool             // the body
	limit     int64            // bytes of the body
	rule      rule             // may be nil
	key       *openapi3.Schema // of the header that makes a request happen once; nil: there is none
}

// operations reads the embedded document into a table by method and path.
func operations(rules map[string]rule) (map[string]*operation, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("read the embedded OpenAPI document: %w", err)
	}
	table := map[string]*operation{}
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			op := newOperation(doc, path, method, item, o)
			op.rule = rules[op.id]
			table[method+" "+op.path] = op
		}
	}
	return table, nil
}

func newOperation(doc *openapi3.T, path, method string, item *openapi3.PathItem, o *openapi3.Operation) *operation {
	op := &operation{
		id:        o.OperationID,
		path:      strings.NewReplacer("{", ":", "}", "").Replace(path),
		anonymous: o.Security != nil && len(*o.Security) == 0,
		route:     &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: o},
		limit:     defaultBodyLimit,
	}
	for _, list := range []openapi3.Parameters{item.Parameters, o.Parameters} {
		for _, p := range list {
			if p.Value.In == openapi3.ParameterInQuery || p.Value.In == openapi3.ParameterInHeader {
				op.params = append(op.params, p.Value)
				if p.Value.Name == headerKey && doesOnce(op.id) {
					op.key = p.Value.Schema.Value
				}
			}
		}
	}
	if o.RequestBody != nil {
		op.body, op.required = o.RequestBody.Value.Content["application/json"].Schema.Value, o.RequestBody.Value.Required
		if n, ok := bodyLimits[op.id]; ok {
			op.limit = n
		}
	}
	return op
}

// find returns the operation that a request was routed to, nil for none.
func find(table map[string]*operation, c echo.Context) *operation {
	return table[c.Request().Method+" "+c.Path()]
}

var (
	formats = openapi3.WithStringFormatValidators(map[string]openapi3.StringFormatValidator{
		"byte": openapi3.NewCallbackValidator(checkBase64),
		"uuid": openapi3.NewCallbackValidator(checkUUID),
	})
	paramOptions = &openapi3filter.Options{
		MultiError: true, SkipSettingDefaults: true, SchemaValidationOptions: []openapi3.SchemaValidationOption{formats},
	}
	bodyOptions = []openapi3.SchemaValidationOption{openapi3.VisitAsRequest(), openapi3.MultiErrors(), formats}
)
