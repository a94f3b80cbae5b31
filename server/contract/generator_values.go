package contract

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// body returns a body that the operation must take.
func (g *Generator) body(op *endpoint) any {
	v := g.value(op.body, "")
	if object, ok := v.(map[string]any); ok && complete[component(op.body)] != nil {
		complete[component(op.body)](g, object)
	}
	return v
}

// value returns a value that the schema of a field allows, and the rules of its name.
func (g *Generator) value(ref *openapi3.SchemaRef, name string) any {
	s := ref.Value
	if s.Nullable && g.chance(0.08) {
		return nil
	}
	if sample := samples[name]; sample != nil && s.Type.Is(openapi3.TypeString) {
		return sample(g)
	}
	switch {
	case len(s.Enum) > 0:
		return pick(g, slices.DeleteFunc(slices.Clone(s.Enum), func(v any) bool { return v == nil }))
	case s.Discriminator != nil:
		key := pick(g, slices.Sorted(maps.Keys(s.Discriminator.Mapping)))
		return g.value(variant(s, key), name)
	case s.Type.Is(openapi3.TypeObject):
		return g.object(ref, name)
	case s.Type.Is(openapi3.TypeArray):
		return g.array(s, name)
	case s.Type.Is(openapi3.TypeInteger):
		return json.Number(strconv.FormatInt(g.integer(s), 10))
	case s.Type.Is(openapi3.TypeBoolean):
		return g.chance(0.5)
	case s.Format == "byte":
		return g.base64(s)
	default:
		return g.text(g.length(int(s.MinLength), s.MaxLength))
	}
}

// variant returns the schema of a oneOf that a value of its discriminator names.
func variant(s *openapi3.Schema, key string) *openapi3.SchemaRef {
	want := s.Discriminator.Mapping[key].Ref
	i := slices.IndexFunc(s.OneOf, func(r *openapi3.SchemaRef) bool { return r.Ref == want })
	return s.OneOf[i]
}

func (g *Generator) object(ref *openapi3.SchemaRef, name string) map[string]any {
	s, object := ref.Value, map[string]any{}
	often := pick(g, []float64{0, 0.15, 0.3, 0.3, 0.9})
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		if slices.Contains(s.Required, key) || g.chance(often) {
			object[key] = g.value(s.Properties[key], key)
		}
	}
	if free := s.AdditionalProperties.Schema; free != nil {
		for range g.count(0, s.MaxProps) {
			object[freeKey(g)] = g.value(free, name+"{}")
		}
	}
	if fix := complete[component(ref)]; fix != nil && name != "" {
		fix(g, object)
	}
	return object
}

func (g *Generator) array(s *openapi3.Schema, name string) []any {
	list := []any{}
	for range g.count(int(s.MinItems), s.MaxItems) {
		list = append(list, g.value(s.Items, name))
	}
	return list
}

// count returns how many entries a list or map gets: mostly few, at times as many as it may have.
func (g *Generator) count(least int, most *uint64) int {
	n := least + g.IntN(3)
	if most == nil {
		return n
	}
	if g.chance(0.03) && g.size > 100*int(*most) {
		return int(*most)
	}
	return min(n, int(*most))
}

// length returns how many characters a text gets: mostly few, at times as few or as many as it may have.
func (g *Generator) length(least int, most *uint64) int {
	n := least + g.IntN(24)
	switch {
	case g.chance(0.1):
		n = least
	case g.chance(0.05):
		n = least + 1
	case most != nil && int(*most) <= g.size && g.chance(0.1):
		n = int(*most)
	}
	if most != nil {
		n = min(n, int(*most))
	}
	return n
}

func (g *Generator) integer(s *openapi3.Schema) int64 {
	if s.Min == nil && s.Max == nil {
		return pick(g, []int64{-1 << 31, -1, 0, 1, 2, 3, 10, 50, 199, 200, 201, 1000, 1<<31 - 1})
	}
	low, high := int64(0), int64(1_000_000)
	if s.Min != nil {
		low = int64(*s.Min)
	}
	if s.Max != nil {
		high = int64(*s.Max)
	}
	return pick(g, []int64{low, low + 1, high - 1, high, low + g.Int64N(high-low+1)})
}

func (g *Generator) base64(s *openapi3.Schema) string {
	least := (int(s.MinLength) + 3) / 4 * 3
	b := make([]byte, least+g.IntN(40))
	for i := range b {
		b[i] = byte(g.IntN(256))
	}
	return base64.StdEncoding.EncodeToString(b)
}

var alphabet = []rune("aZ09 _-.:;,'\"\\/<>&%$#@!?*()[]{}|~`^=+\n\t\r\x01\x1b\x7f\u0080äßñçΐΩжשع中日한😀𝄞\u0301\u200b\u200d\u202e\u2028\ufeff\ufffd\uffff\U0010fffd")

// text returns a text of n characters that begins with the marker, if that fits, and is never blank.
func (g *Generator) text(n int) string {
	g.size -= n
	var b strings.Builder
	if n >= len(g.o.Marker) {
		b.WriteString(g.o.Marker)
		n -= len(g.o.Marker)
	} else if n > 0 {
		b.WriteByte('x')
		n--
	}
	if n > 2000 || n > 60 && g.chance(0.5) { // one run in place of many draws
		r := pick(g, alphabet)
		b.WriteString(strings.Repeat(string(r), n-1))
		n = 1
	}
	for range n {
		b.WriteRune(pick(g, alphabet))
	}
	return b.String()
}
