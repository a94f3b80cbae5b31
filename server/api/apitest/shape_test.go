package apitest_test

import (
	"encoding/json"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/server/api/apitest"
)

func TestShapesDiffer(t *testing.T) {
	t.Parallel()
	yes := true
	free := openapi3.NewObjectSchema()
	free.AdditionalProperties.Has = &yes
	texts := openapi3.NewObjectSchema()
	texts.AdditionalProperties.Schema = openapi3.NewStringSchema().NewRef()
	schema := openapi3.NewObjectSchema().WithProperty("env", texts).WithProperty("data", free).WithProperty("input", free)
	for name, c := range map[string]struct {
		example, answer string
		same            bool
	}{
		"the same":                  {`{"a":1,"b":["x"]}`, `{"b":["y","z"],"a":2}`, true},
		"null is of any type":       {`{"a":null,"b":"x"}`, `{"a":"y","b":null}`, true},
		"a field more":              {`{"a":1}`, `{"a":1,"b":2}`, false},
		"a field less":              {`{"a":1,"b":2}`, `{"a":1}`, false},
		"another type":              {`{"a":1}`, `{"a":"1"}`, false},
		"no list":                   {`{"a":[1]}`, `{"a":{}}`, false},
		"no object":                 {`{"a":{}}`, `{"a":[]}`, false},
		"deep":                      {`{"a":[{"b":{"c":1}}]}`, `{"a":[{"b":{"d":1}}]}`, false},
		"one of the list is alike":  {`{"a":[{"b":1}]}`, `{"a":[{"c":1},{"b":2}]}`, true},
		"none of the list is alike": {`{"a":[{"b":1}]}`, `{"a":[{"c":1}]}`, false},
		"an empty list":             {`{"a":[{"b":1}]}`, `{"a":[]}`, true},
		"another kind":              {`{"a":[{"type":"x","b":1}]}`, `{"a":[{"type":"y","b":1}]}`, false},
		"the same kind":             {`{"a":[{"type":"x","b":1}]}`, `{"a":[{"type":"y"},{"type":"x","b":1}]}`, true},
		"names that are data":       {`{"env":{"A":"b"}}`, `{"env":{"C":"d","E":"f"}}`, true},
		"what is free":              {`{"input":{"a":1}}`, `{"input":{"b":1}}`, true},
		"the data of an event":      {`{"seq":1,"data":{"a":1}}`, `{"seq":1,"data":{"b":1}}`, false},
	} {
		var example, answer any
		if json.Unmarshal([]byte(c.example), &example) != nil || json.Unmarshal([]byte(c.answer), &answer) != nil {
			t.Fatal(name)
		}
		if err := apitest.SameShape(schema, example, answer); (err == nil) != c.same {
			t.Errorf("%s: %v", name, err)
		}
	}
}
