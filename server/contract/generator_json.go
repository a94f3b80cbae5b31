package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// verbatim is JSON, or what is none, that encode writes as it is.
type verbatim string

// encode writes a value as JSON in one of the many ways to write it.
func (g *Generator) encode(v any) []byte {
	var b bytes.Buffer
	w := writer{g: g, b: &b, escapes: pick(g, []float64{0, 0, 0.05, 1}), spaces: g.chance(0.2)}
	w.value(v)
	w.space()
	return b.Bytes()
}

type writer struct {
	g       *Generator
	b       *bytes.Buffer
	escapes float64 // how many characters are escaped without need
	spaces  bool
}

func (w *writer) space() {
	if w.spaces {
		w.b.WriteString(pick(w.g, []string{"", " ", "\n\t", "\r\n"}))
	}
}

func (w *writer) value(v any) {
	w.space()
	switch v := v.(type) {
	case verbatim:
		w.b.WriteString(string(v))
	case string:
		w.text(v)
	case json.Number:
		w.number(v)
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		w.g.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		w.list("{", len(keys), "}", func(i int) {
			w.text(keys[i])
			w.space()
			w.b.WriteByte(':')
			w.value(v[keys[i]])
		})
	case []any:
		w.list("[", len(v), "]", func(i int) { w.value(v[i]) })
	default:
		fmt.Fprint(w.b, map[any]string{nil: "null", true: "true", false: "false"}[v])
	}
}

func (w *writer) list(open string, n int, end string, each func(i int)) {
	w.b.WriteString(open)
	for i := range n {
		if i > 0 {
			w.b.WriteByte(',')
		}
		w.space()
		each(i)
		w.space()
	}
	w.b.WriteString(end)
}

// number writes integers at times with a point or an exponent.
func (w *writer) number(n json.Number) {
	i, err := n.Int64()
	if err != nil || !w.g.chance(0.1) || i > 1<<53 || i < -1<<53 {
		w.b.WriteString(n.String())
		return
	}
	w.b.WriteString(pick(w.g, []string{n.String() + ".0", strconv.FormatFloat(float64(i), 'e', -1, 64), n.String() + "E+0"}))
}

func (w *writer) text(s string) {
	if len(s) > 4096 || w.escapes == 0 {
		e := json.NewEncoder(w.b)
		e.SetEscapeHTML(false)
		_ = e.Encode(s) // of a string into memory
		w.b.Truncate(w.b.Len() - 1)
		return
	}
	w.b.WriteByte('"')
	for _, r := range s {
		switch {
		case r < ' ' || w.g.chance(w.escapes):
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(w.b, pick(w.g, []string{`\u%04x`, `\u%04X`}), unit)
			}
		case strings.ContainsRune(`"\`, r):
			w.b.WriteString(`\` + string(r))
		default:
			w.b.WriteRune(r)
		}
	}
	w.b.WriteByte('"')
}

func decode(data []byte) any {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	_ = d.Decode(&v)
	return v
}
