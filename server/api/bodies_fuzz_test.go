package api

import (
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen"
)

// bodyTypes are what handlers get of a body, by its schema.
var bodyTypes = map[string]func() any{
	"AgentCreate":   func() any { return new(gen.AgentCreate) },
	"AgentUpdate":   func() any { return new(gen.AgentUpdate) },
	"SkillCreate":   func() any { return new(gen.SkillCreate) },
	"SkillUpdate":   func() any { return new(gen.SkillUpdate) },
	"SkillAttach":   func() any { return new(gen.SkillAttach) },
	"SessionCreate": func() any { return new(gen.SessionCreate) },
	"MessageCreate": func() any { return new(gen.MessageCreate) },
}

// bodyOperations returns the operations that take a body, in the order of their names.
func bodyOperations(tb testing.TB) []*operation {
	tb.Helper()
	table, err := operations(rules{schemes: []string{"https"}}.byOperation())
	if err != nil {
		tb.Fatal(err)
	}
	ops := slices.DeleteFunc(slices.Collect(maps.Values(table)), func(op *operation) bool { return op.body == nil })
	slices.SortFunc(ops, func(a, b *operation) int { return strings.Compare(a.id, b.id) })
	return ops
}

func bodySchema(op *operation) string {
	return path.Base(op.route.Operation.RequestBody.Value.Content["application/json"].Schema.Ref)
}

func FuzzBodiesAreRefusedWithReasonsOrReachHandlersWhole(f *testing.F) {
	ops := bodyOperations(f)
	for i, op := range ops {
		if bodyTypes[bodySchema(op)] == nil {
			f.Fatalf("%s has a body of no type that is known here", op.id)
		}
		for _, example := range op.route.Operation.RequestBody.Value.Content["application/json"].Examples {
			b, err := json.Marshal(example.Value.Value)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), b)
		}
		for _, body := range []string{
			`null`, `[]`, `{"":""}`, `{"model":"m","idle_timeout_ms":6e4,"env_vars":{"PORT":"","a/b":1}}`, `{"name":"","content":" ","size":1e30}`, `{"text":null,"parts":[{"type":"x"},{},1]}`,
			`{"model":"m","sandbox_files":[{"name":"n","sandbox_path":"~/x","content":"AA==","size":1e30},{"name":"n","sandbox_path":"~/x","sha256":"x","size":-0}]}`,
		} {
			f.Add(byte(i), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, n byte, data []byte) {
		op := ops[int(n)%len(ops)]
		body, err := decodeJSON(data)
		if err != nil {
			return // see FuzzDecodeJSONNeverPanicsAndKeepsItsBounds
		}
		var found violations
		op.checkBody(body, &found)
		for _, d := range found.list {
			if d.Message == "" || strings.HasSuffix(d.Message, " ") || !pointsInto(body, d.Field) {
				t.Errorf("%s: %q %q", op.id, d.Field, d.Message)
			}
		}
		if len(found.list) > 0 {
			return
		}
		dst := bodyTypes[bodySchema(op)]()
		if err := bind(body, reflect.ValueOf(dst).Elem()); err != nil {
			t.Fatalf("%s: what the schema allows does not bind: %v", op.id, err)
		}
		out, err := json.Marshal(dst)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeJSON(out)
		if err != nil || !reflect.DeepEqual(plainNumbers(again), plainNumbers(body)) {
			t.Errorf("%s: handlers get %s, %v", op.id, out, err)
		}
	})
}

// pointsInto tells whether a JSON Pointer names a place of a value, or one that its parent misses.
func pointsInto(v any, pointer string) bool {
	if pointer == "" {
		return true
	}
	names := strings.Split(pointer, "/")[1:]
	for i, name := range names {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if strings.HasSuffix(name, "…") {
			return true
		}
		switch at := v.(type) {
		case map[string]any:
			child, ok := at[name]
			if !ok {
				return i == len(names)-1
			}
			v = child
		case []any:
			n, err := strconv.Atoi(name)
			if err != nil || n >= len(at) {
				return false
			}
			v = at[n]
		default:
			return false
		}
	}
	return true
}

// plainNumbers reads the numbers of a value, so that those that are written in different ways are equal.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return v.String()
		}
		return n
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = plainNumbers(v[name])
		}
	}
	return v
}
