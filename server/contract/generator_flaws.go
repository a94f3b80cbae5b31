package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
)

// damage breaks about half of the requests: one rule outside the body, or one to three in it.
func (g *Generator) damage(op *endpoint, r *Request, target *Object, a *arguments) {
	if g.chance(0.5) {
		return
	}
	type way struct {
		weight int
		fn     func() []Flaw
	}
	ways := []way{
		{6, func() []Flaw { return g.badKey(op, r) }},
		{8, func() []Flaw { return g.badID(op, r) }},
		{15, func() []Flaw { return g.badParam(op, a) }},
		{6, func() []Flaw { return g.staleMatch(op, target, a) }},
	}
	if r.Value != nil {
		ways = append(ways, []way{
			{40, func() []Flaw { return g.badValues(op, r) }},
			{20, func() []Flaw { return g.misfit(op, r) }},
			{15, func() []Flaw { return g.badJSON(op, r) }},
			{5, func() []Flaw { return g.badType(r) }},
		}...)
	}
	if op.body != nil {
		ways = append(ways, way{1, func() []Flaw { return g.tooLarge(op, r) }})
	}
	sum := 0
	for _, w := range ways {
		sum += w.weight
	}
	at := g.IntN(sum)
	for _, w := range ways {
		if at -= w.weight; at < 0 {
			r.Flaws = w.fn()
			return
		}
	}
}

func (g *Generator) badKey(op *endpoint, r *Request) []Flaw {
	if op.anonymous {
		return nil
	}
	k := g.o.Key
	bad := pick(g, [][]string{nil, {""}, {"Bearer"}, {"Bearer "}, {k}, {"Basic " + k}, {"Bearer " + k + "x"}, {"Bearer " + k[1:]}, {"Bearer " + strings.ToUpper(k)}, {"Bearer " + g.o.Marker}, {"Bearer " + k, "Bearer " + k}})
	if delete(r.Header, "Authorization"); bad != nil {
		r.Header["Authorization"] = bad
	}
	return []Flaw{{"key", "", http.StatusUnauthorized, "unauthorized"}}
}

func (g *Generator) badID(op *endpoint, r *Request) []Flaw {
	if len(op.kinds) == 0 {
		return nil
	}
	kind := pick(g, op.kinds)
	r.IDs[kind+"_id"] = g.unknownID(kind)
	return []Flaw{{"unknown id", "", http.StatusNotFound, "not_found"}}
}

func (g *Generator) staleMatch(op *endpoint, target *Object, a *arguments) []Flaw {
	if !slices.ContainsFunc(op.params, func(p *openapi3.Parameter) bool { return p.Name == "If-Match" }) || target == nil {
		return nil
	}
	if g.chance(0.3) {
		a.header["If-Match"] = []string{pick(g, []string{"1", "x", `"`, `"1`, `1"`, `"1" "2"`, ",", "* *", `W/1`, `w/"1"`, `"a b"`})}
		return []Flaw{{"If-Match form", "header/If-Match", http.StatusBadRequest, "invalid_request"}}
	}
	stale := []string{`"0"`, `"999999"`, `"` + g.o.Marker + `"`, `""`, `"999999", "999998"`}
	if target.ETag != "" {
		stale = append(stale, "W/"+target.ETag, `"`+target.ETag[1:len(target.ETag)-1]+`0"`)
	}
	a.header["If-Match"] = []string{pick(g, stale)}
	return []Flaw{{"If-Match stale", "", http.StatusPreconditionFailed, "precondition_failed"}}
}

func (g *Generator) badType(r *Request) []Flaw {
	r.Header["Content-Type"] = pick(g, [][]string{
		{}, {""}, {"text/plain"}, {"application/x-www-form-urlencoded"}, {"application/merge-patch+json"}, {"application/json; charset=utf-16"}, {"text/" + g.o.Marker}, {"application/json", "application/json"}, {"*/*"},
	})
	return []Flaw{{"content type", "", http.StatusUnsupportedMediaType, "unsupported_media_type"}}
}

func (g *Generator) tooLarge(op *endpoint, r *Request) []Flaw {
	if op.limit > 2<<20 && !g.o.Large || op.limit > 2<<20 && g.chance(0.9) {
		return nil
	}
	r.Body = bytes.Repeat([]byte(" "), op.limit+1)
	return []Flaw{{"body size", "", http.StatusRequestEntityTooLarge, "payload_too_large"}}
}

// site is a place in a body.
type site struct {
	ref     *openapi3.SchemaRef
	v       any
	path    []string
	name    string // of the field, or of the list it is in
	put     func(any)
	variant bool // it says of which kind the object around it is
}

// sites lists all places of a value that the schema describes.
func sites(s site, add func(site)) {
	add(s)
	switch v := s.v.(type) {
	case map[string]any:
		ref, kind := s.ref, ""
		if d := ref.Value.Discriminator; d != nil {
			kind = d.PropertyName
			ref = variant(ref.Value, v[kind].(string))
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			child := site{ref.Value.Properties[key], v[key], append(slices.Clone(s.path), key), key, func(x any) { v[key] = x }, key == kind}
			if child.ref == nil {
				child.ref, child.name = ref.Value.AdditionalProperties.Schema, s.name+"{}"
			}
			sites(child, add)
		}
	case []any:
		for i := range v {
			sites(site{s.ref.Value.Items, v[i], append(slices.Clone(s.path), strconv.Itoa(i)), s.name, func(x any) { v[i] = x }, false}, add)
		}
	}
}

func (g *Generator) sitesOf(op *endpoint, r *Request) []site {
	var all []site
	put := func(x any) {
		if r.Value = x; x == nil {
			r.Value = verbatim("null")
		}
	}
	sites(site{op.body, r.Value, nil, "", put, false}, func(s site) { all = append(all, s) })
	g.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// badValues breaks up to three values that are not within one another.
func (g *Generator) badValues(op *endpoint, r *Request) []Flaw {
	n := pick(g, []int{1, 1, 2, 3})
	var flaws []Flaw
	var broken []string
	for _, s := range g.sitesOf(op, r) {
		if len(s.path) == 0 && g.chance(0.3) {
			continue // more is wrong if the whole body is not
		}
		at := pointer(s.path...)
		if s.variant {
			at = pointer(s.path[:len(s.path)-1]...) // nothing can be said of what else is in it
		}
		if slices.ContainsFunc(broken, func(b string) bool { return within(b, at) || within(at, b) }) {
			continue
		}
		flaws, broken = append(flaws, pick(g, g.waysToBreak(s))()), append(broken, at)
		if len(flaws) == n {
			break
		}
	}
	return flaws
}

// within tells whether the place a is b or in it.
func within(a, b string) bool { return a == b || strings.HasPrefix(a, b+"/") }

// waysToBreak lists what a schema or the rules of a name refuse in place of a value.
func (g *Generator) waysToBreak(at site) []func() Flaw {
	s := at.ref.Value
	var ways []func() Flaw
	add := func(rule string, bad ...any) {
		ways = append(ways, func() Flaw {
			at.put(pick(g, bad))
			return *invalid(rule, pointer(at.path...))
		})
	}
	add("type", wrongTypes(s, g.o.Marker)...)
	if !s.Nullable {
		add("null", nil)
	}
	if len(s.Enum) > 0 {
		add("enum", g.o.Marker, "", strings.ToUpper(fmt.Sprint(s.Enum[0])), fmt.Sprint(s.Enum[0])+" ")
	}
	if s.MinLength > 0 && s.Format != "byte" {
		add("minLength", g.text(int(s.MinLength)-1))
	}
	if s.MaxLength != nil && int(*s.MaxLength) < g.size && len(s.Enum) == 0 && s.Format != "byte" {
		add("maxLength", strings.Repeat(pick(g, []string{"x", "é", "𝄞"}), int(*s.MaxLength)+1))
	}
	if s.Format == "byte" {
		add("base64", "A", "AA", "AAA", "A===", "====", "AA=A", "aGk", "aGk=\n", "aG k", "-_-_", "aB==", "AA==AAAA", "ä", g.o.Marker+"!")
	}
	if list, ok := at.v.([]any); ok && len(list) > 0 && s.MaxItems != nil && int(*s.MaxItems) < g.size/40 {
		add("maxItems", slices.Repeat(list[:1], int(*s.MaxItems)+1))
	}
	if s.MinItems > 0 {
		add("minItems", []any{})
	}
	if s.MaxProps != nil {
		many := map[string]any{}
		for i := range *s.MaxProps + 1 {
			many[fmt.Sprint("K", i)] = "v"
		}
		add("maxProperties", many)
	}
	if s.Min != nil {
		add("minimum", json.Number(number(*s.Min-1)), json.Number("-1e300"))
	}
	if s.Max != nil {
		add("maximum", json.Number(number(*s.Max+1)), json.Number("1e300"))
	}
	if s.Type.Is(openapi3.TypeInteger) {
		add("integer", json.Number("60000.5"), json.Number("1e-3"))
	}
	if list := faulty[at.name]; list != nil && s.Type.Is(openapi3.TypeString) {
		add("rule", anys(list)...)
	}
	return append(ways, g.waysToBreakObject(at)...)
}

func (g *Generator) waysToBreakObject(at site) []func() Flaw {
	var ways []func() Flaw
	object, ok := at.v.(map[string]any)
	ref := at.ref
	if !ok || ref.Value.AdditionalProperties.Schema != nil {
		return nil
	}
	if d := ref.Value.Discriminator; d != nil {
		ref = variant(ref.Value, object[d.PropertyName].(string))
	}
	for _, key := range ref.Value.Required {
		ways = append(ways, func() Flaw {
			delete(object, key)
			return *invalid("required", pointer(append(slices.Clone(at.path), key)...))
		})
	}
	return append(ways, func() Flaw {
		key := pick(g, []string{"unknown", "", "~", "/", "a~1b", "ä", "__proto__", "Model", "id", "tools", "env_vars.A", "\u2028", strings.Repeat("k", 200)})
		object[key] = pick(g, []any{nil, g.o.Marker, true, map[string]any{}, []any{}})
		return *invalid("unknown field", pointer(append(slices.Clone(at.path), key)...))
	})
}

func wrongTypes(s *openapi3.Schema, marker string) []any {
	bad := []any{[]any{marker}, map[string]any{marker: marker}, true, json.Number("7"), json.Number("1e400"), marker}
	switch {
	case s.Type == nil, s.Type.Is(openapi3.TypeObject):
		return []any{bad[0], bad[2], bad[3], bad[5]}
	case s.Type.Is(openapi3.TypeArray):
		return bad[1:]
	case s.Type.Is(openapi3.TypeInteger):
		return append(bad[:3:3], marker, "60000")
	case s.Type.Is(openapi3.TypeBoolean):
		return append(bad[:2:2], json.Number("0"), "true")
	default:
		return bad[:5]
	}
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// badJSON makes a body that is not one JSON value of the kind that is taken.
func (g *Generator) badJSON(op *endpoint, r *Request) []Flaw {
	flaw := []Flaw{{"JSON", "", http.StatusBadRequest, "invalid_json"}}
	if g.chance(0.3) {
		body := g.encode(r.Value)
		end := bytes.LastIndexAny(body, "}]\"")
		r.Body = pick(g, [][]byte{
			body[:end], append(bytes.Clone(body), "{}"...), append([]byte("\ufeff"), body...), append(bytes.Clone(body), ' ', 'x'), append([]byte(","), body...), []byte(" "), []byte(g.o.Marker), append(bytes.Clone(body), 0),
		})
		return flaw
	}
	bad := []string{
		`"a\u0000b"`, "\"a\x00b\"", `"\ud800"`, `"\udc00x"`, `"\ud800\ud800"`, "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xc0\x80\"", "tru", "01", "+1", ".5", "1.", "NaN", "Infinity", "'x'", "\"a\nb\"", `"\x41"`, `"\u12`, "[1,]", `{"a":1,"a":2}`,
		`{"a":1,"\u0061":2}`, "{,}", "[,]", `"`, ",", "{1:2}", `{"a"}`, strings.Repeat("[", 65) + strings.Repeat("]", 65), strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), "/**/1", `{"\u0000":1}`, "{\"\xff\":1}", "nul", "\u00a01",
	}
	all := g.sitesOf(op, r)
	all[0].put(verbatim(pick(g, bad)))
	if r.Body = g.encode(r.Value); len(r.Body) == 0 {
		r.Body = []byte(" ")
	}
	r.Value = nil
	return flaw
}

var escapes = strings.NewReplacer("~", "~0", "/", "~1")

// pointer is a JSON Pointer as details have it: names of absurd length are cut.
func pointer(path ...string) string {
	var b strings.Builder
	for _, name := range path {
		if len(name) > 128 {
			name = name[:128]
			for !utf8.ValidString(name) {
				name = name[:len(name)-1]
			}
			name += "…"
		}
		b.WriteString("/" + escapes.Replace(name))
	}
	return b.String()
}
