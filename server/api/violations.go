package api

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
)

// maxDetails bounds an answer to a body that is wrong in every place.
const maxDetails = 1000

// violations collects what is wrong with a request. No message holds a value that was sent.
type violations struct {
	list []gen.ErrorDetail
	seen map[gen.ErrorDetail]bool
}

func (v *violations) add(field, message string) {
	d := gen.ErrorDetail{Field: field, Message: message}
	if v.seen[d] {
		return
	}
	if v.seen == nil {
		v.seen = map[gen.ErrorDetail]bool{}
	}
	v.seen[d] = true
	v.list = append(v.list, d)
}

func (v *violations) addf(field, format string, args ...any) {
	v.add(field, fmt.Sprintf(format, args...))
}

// addParam adds what is wrong with a parameter.
func (v *violations) addParam(field string, schema *openapi3.Schema, err error) {
	if err == nil {
		return
	}
	known := false
	eachSchemaError(err, func(e *openapi3.SchemaError) {
		known = true
		v.add(field, messageOf(e))
	})
	if !known {
		v.addf(field, "must be %s", article(schema.Type.Slice()))
	}
}

// addSchema adds what a schema found wrong with a body.
func (v *violations) addSchema(err error) {
	if err == nil {
		return
	}
	known := false
	eachSchemaError(err, func(e *openapi3.SchemaError) {
		known = true
		path := e.JSONPointer()
		switch e.SchemaField {
		case "properties":
			path = append(path, quotedIn(e.Reason))
		case "discriminator":
			path = append(path, e.Schema.Discriminator.PropertyName)
		}
		v.add(pointer(path...), messageOf(e))
	})
	if !known {
		v.add("", "is not what this operation takes")
	}
}

// eachSchemaError visits the errors of single values. A oneOf is represented by what its variants found.
func eachSchemaError(err error, visit func(*openapi3.SchemaError)) {
	var many openapi3.MultiError
	if errors.As(err, &many) {
		for _, err := range many {
			eachSchemaError(err, visit)
		}
		return
	}
	var one *openapi3.SchemaError
	if !errors.As(err, &one) {
		return
	}
	if errors.As(one.Origin, &many) {
		eachSchemaError(many, visit)
		return
	}
	visit(one)
}

// messageOf says what is wrong with a value in words that follow its name.
func messageOf(e *openapi3.SchemaError) string {
	s := e.Schema
	switch e.SchemaField {
	case "type":
		return "must be " + article(s.Type.Slice())
	case "nullable":
		return "must not be null"
	case "required":
		return "is required"
	case "properties":
		return "is not a known field"
	case "enum":
		return "must be one of " + strings.Join(texts(s.Enum), ", ")
	case "discriminator":
		return "must be one of " + strings.Join(slices.Sorted(maps.Keys(s.Discriminator.Mapping)), ", ")
	case "minLength":
		return fmt.Sprintf("must have at least %d characters", s.MinLength)
	case "maxLength":
		return fmt.Sprintf("must have at most %d characters", *s.MaxLength)
	case "minItems":
		return fmt.Sprintf("must have at least %d items", s.MinItems)
	case "maxItems":
		return fmt.Sprintf("must have at most %d items", *s.MaxItems)
	case "maxProperties":
		return fmt.Sprintf("must have at most %d entries", *s.MaxProps)
	case "minimum":
		return "must be at least " + number(*s.Min)
	case "maximum":
		return "must be at most " + number(*s.Max)
	case "format":
		return "must be " + formatNames[s.Format]
	case "pattern":
		return "must match " + s.Pattern
	default:
		return "is not what this operation takes"
	}
}

var formatNames = map[string]string{"byte": "strict base64", "uuid": "a UUID in lower case", "int64": "an integer of 64 bits"}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func texts(values []any) []string {
	var out []string
	for _, v := range values {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func article(types []string) string {
	if len(types) == 0 {
		return "something else"
	}
	if t := types[0]; strings.ContainsRune("aeiou", rune(t[0])) {
		return "an " + t
	}
	return "a " + types[0]
}

// quotedIn returns the name that a reason quotes; kin-openapi tells an unknown field's name nowhere else.
func quotedIn(reason string) string {
	from, to := strings.IndexByte(reason, '"'), strings.LastIndexByte(reason, '"')
	if from < 0 || from == to {
		return ""
	}
	name, err := strconv.Unquote(reason[from : to+1])
	if err != nil {
		return ""
	}
	return name
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointer is a JSON Pointer. Names of absurd length are cut.
func pointer(path ...string) string {
	var b strings.Builder
	for _, name := range path {
		b.WriteByte('/')
		b.WriteString(pointerEscapes.Replace(shorten(name, 128)))
	}
	return b.String()
}
