package contract

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
)

// arguments are what goes into the URL and the header of a request.
type arguments struct {
	query  url.Values
	raw    string // put behind the query
	header http.Header
}

func (a *arguments) apply(r *Request, path string) {
	for name, id := range r.IDs {
		path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(id))
	}
	q := a.query.Encode() + a.raw
	if q = strings.TrimPrefix(q, "&"); q != "" {
		path += "?" + q
	}
	r.Path = path
	for name, values := range a.header {
		r.Header[name] = values
	}
	for name := range a.query {
		r.Query[name] = a.query.Get(name)
	}
}

// params returns parameters that the operation must take.
func (g *Generator) params(op *endpoint, target *Object) arguments {
	a := arguments{query: url.Values{}, header: http.Header{}}
	for _, p := range op.params {
		if !forced[op.id+" "+p.Name] && !g.chance(0.3) {
			continue
		}
		v, ok := g.param(op, p, target, a)
		switch {
		case !ok:
		case p.In == openapi3.ParameterInHeader:
			a.header.Set(p.Name, v)
		default:
			a.query.Set(p.Name, v)
		}
	}
	if g.chance(0.02) {
		a.query.Set("unknown", g.o.Marker)
	}
	return a
}

// param returns a value of a parameter, or false if it knows none.
func (g *Generator) param(op *endpoint, p *openapi3.Parameter, target *Object, a arguments) (string, bool) {
	if v, known, ok := g.knownParam(op, p, target, a); known {
		return v, ok
	}
	s := p.Schema.Value
	if s.Type.Is(openapi3.TypeArray) {
		n := 1 + g.IntN(len(s.Items.Value.Enum))
		var list []string
		for _, i := range g.Perm(len(s.Items.Value.Enum))[:n] {
			list = append(list, s.Items.Value.Enum[i].(string))
		}
		return strings.Join(list, ","), true
	}
	if s.Pattern != "" {
		return g.key(), true
	}
	v := fmt.Sprint(g.value(p.Schema, ""))
	if p.In == openapi3.ParameterInHeader && !utf8.ValidString(v) {
		return "", false
	}
	return v, true
}

// key returns 2 to 255 characters of visible ASCII, others each time, and in each run if they have a name.
func (g *Generator) key() string {
	g.made++
	b := append(strconv.AppendInt([]byte(g.o.Run), int64(g.made), 36), '.')
	for range pick(g, []int{0, 1, 20, 255 - len(b)}) {
		b = append(b, byte('!'+g.IntN('~'-'!'+1)))
	}
	return string(b)
}

// knownParam returns a value of a parameter that its schema alone does not describe; ok is false if there is none now.
func (g *Generator) knownParam(op *endpoint, p *openapi3.Parameter, target *Object, a arguments) (v string, known, ok bool) {
	switch p.Name {
	case "follow":
		return "false", true, true
	case "Prefer":
		return pick(g, []string{"respond-async", "Respond-Async; x=" + g.o.Marker, "wait=5, respond-async", "respond-async," + g.o.Marker}), true, true
	case "If-Match":
		if target == nil || target.ETag == "" {
			return "*", true, g.chance(0.3)
		}
		return pick(g, []string{target.ETag, target.ETag, `"` + g.o.Marker + `", ` + target.ETag, "*"}), true, true
	case "cursor":
		list := g.cursors[op.id+a.query.Get("sort")+a.query.Get("order")]
		if len(list) == 0 {
			return "", true, false
		}
		return pick(g, list), true, true
	case "skill_id", "agent_id":
		v := g.live(strings.TrimSuffix(p.Name, "_id"))
		return v, true, v != ""
	case "search":
		return pick(g, []string{"%", "_", `\`, "'", "", g.o.Marker, strings.ToUpper(g.o.Marker), "opencode", "日本", strings.Repeat("ä", 256)}), true, true
	case "limit":
		return fmt.Sprint(pick(g, []int{-1, 0, 1, 2, 3, 5, 10, 20, 50, 201})), true, true
	}
	return "", false, false
}

// badParam breaks a parameter, one way or another.
func (g *Generator) badParam(op *endpoint, a *arguments) []Flaw {
	if len(op.params) == 0 {
		return nil
	}
	p := pick(g, op.params)
	flaw := []Flaw{{"parameter", p.In + "/" + p.Name, http.StatusBadRequest, "invalid_request"}}
	if p.In == openapi3.ParameterInQuery && g.chance(0.1) {
		a.raw = pick(g, []string{"&%", "&x=%zz", "&a;b"})
		flaw[0].Field = "query"
		return flaw
	}
	s := p.Schema.Value
	var bad []string
	switch {
	case p.Name == "If-Match":
		return nil
	case p.Name == "cursor":
		bad = []string{"", "x", "eyJ0IjoxNzMyMzU2MDAwMDAwfQ", "e30", "bnVsbA", strings.Repeat("A", 1025), g.o.Marker, "e30="}
	case s.Type.Is(openapi3.TypeInteger):
		if bad = []string{"x", "1.5", "1e2", "0x1", "--1", "1,2", "NaN", g.o.Marker}; s.Min != nil {
			bad = append(bad, number(*s.Min-1))
		}
	case s.Type.Is(openapi3.TypeBoolean):
		bad = []string{"yes", "2", "tru", g.o.Marker, "null"}
	case len(s.Enum) > 0 || s.Type.Is(openapi3.TypeArray):
		bad = []string{"x", g.o.Marker, "NAME", "a,b", " asc"}
	case s.Format == "uuid":
		bad = []string{"x", "", strings.ToUpper(pick(g, []string{"01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"})), "{01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11}", g.o.Marker}
	case s.Pattern != "":
		bad = []string{"", "a b", "ä", g.o.Marker + " x", strings.Repeat("k", int(*s.MaxLength)+1)}
	case s.MaxLength != nil:
		if bad = []string{strings.Repeat("x", int(*s.MaxLength)+1)}; p.Name == "search" {
			bad = append(bad, g.o.Marker+"\x00", g.o.Marker+"\xff")
		}
	}
	if len(bad) == 0 || g.chance(0.1) && p.Name != "Prefer" { // which is a list, in however many headers
		one := pick(g, append(bad, "1"))
		a.set(p, one, one)
		return flaw
	}
	a.set(p, pick(g, bad))
	return flaw
}

func (a *arguments) set(p *openapi3.Parameter, values ...string) {
	if p.In == openapi3.ParameterInHeader {
		a.header[http.CanonicalHeaderKey(p.Name)] = values
	} else {
		a.query[p.Name] = values
	}
}
