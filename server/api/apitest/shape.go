package apitest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/getkin/kin-openapi/openapi3"
)

// SameShape says how an example differs from a real answer that has the same schema, both as encoding/json reads them. Compared are,
// at every depth, the names of an object's fields and the types of its values; null is of any type. An element of a list must be like
// one of those in the answer's list that have the same `type` and `role`, unless that list is empty. Maps, whose names are data, and
// objects that the schema leaves open are not compared, but the data of an event is.
func SameShape(schema *openapi3.Schema, example, answer any) error {
	return shape{}.compare(schema, example, answer)
}

type shape struct {
	at   string
	free bool // whether fields are compared that the schema leaves open
}

func (s shape) errorf(format string, args ...any) error {
	return fmt.Errorf("at %q: %s", s.at, fmt.Sprintf(format, args...))
}

func (s shape) compare(schema *openapi3.Schema, example, answer any) error {
	if example == nil || answer == nil {
		return nil
	}
	switch e := example.(type) {
	case map[string]any:
		a, ok := answer.(map[string]any)
		if !ok {
			return s.errorf("is %T", answer)
		}
		return s.compareObjects(schema, e, a)
	case []any:
		a, ok := answer.([]any)
		if !ok {
			return s.errorf("is %T", answer)
		}
		return s.compareLists(schema, e, a)
	}
	if fmt.Sprintf("%T", example) != fmt.Sprintf("%T", answer) {
		return s.errorf("is %T, the example has %T", answer, example)
	}
	return nil
}

func (s shape) compareObjects(schema *openapi3.Schema, example, answer map[string]any) error {
	if schema != nil && (schema.AdditionalProperties.Schema != nil || schema.AdditionalProperties.Has != nil && !s.free) {
		return nil
	}
	if want, got := slices.Sorted(maps.Keys(example)), slices.Sorted(maps.Keys(answer)); !slices.Equal(want, got) {
		return s.errorf("has %q, the example has %q", got, want)
	}
	_, isEvent := example["seq"]
	for name, v := range example {
		var child *openapi3.Schema
		if schema != nil && schema.Properties[name] != nil {
			child = schema.Properties[name].Value
		}
		if err := (shape{s.at + "/" + name, s.free || isEvent}).compare(child, v, answer[name]); err != nil {
			return err
		}
	}
	return nil
}

func (s shape) compareLists(schema *openapi3.Schema, example, answer []any) error {
	var items *openapi3.Schema
	if schema != nil && schema.Items != nil {
		items = schema.Items.Value
	}
	for i, v := range example {
		if len(answer) == 0 {
			return nil
		}
		at := shape{fmt.Sprintf("%s/%d", s.at, i), s.free}
		err := at.errorf("there is none of its kind")
		for _, a := range answer {
			if kind(a) != kind(v) {
				continue
			}
			if err = at.compare(items, v, a); err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// kind is what tells elements of one list apart that have different fields.
func kind(v any) string {
	object, _ := v.(map[string]any)
	if object["type"] == nil && object["role"] == nil {
		return ""
	}
	return fmt.Sprint(object["type"], object["role"])
}
