package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/oapi-codegen/nullable"
)

// listPage is a list that is read as it is encoded, and written as it is encoded.
type listPage struct {
	Data       each                      `json:"data"`
	Limit      int                       `json:"limit"`
	NextCursor nullable.Nullable[string] `json:"next_cursor"`
	Offset     int                       `json:"offset"`
	Total      nullable.Nullable[int64]  `json:"total"`
}

type each = iter.Seq2[any, error]

// listedAgent is an agent as JSON, and what only lists tell of it.
type listedAgent struct {
	agent    []byte
	sessions int64
	active   bool
}

// VisitListAgentsResponse writes the page.
func (p listPage) VisitListAgentsResponse(w http.ResponseWriter) error {
	return writeJSON(w, http.StatusOK, p)
}

// VisitListSkillsResponse writes the page.
func (p listPage) VisitListSkillsResponse(w http.ResponseWriter) error {
	return writeJSON(w, http.StatusOK, p)
}

// VisitListSkillVersionsResponse writes the page.
func (p listPage) VisitListSkillVersionsResponse(w http.ResponseWriter) error {
	return writeJSON(w, http.StatusOK, p)
}

// writeJSON answers with a value, keeping no more of its JSON than is under way.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	e := encoder{w: w, begin: func() { w.WriteHeader(status) }, buf: make([]byte, 0, flushAt+flushAt/4)}
	if err := e.value(reflect.ValueOf(v)); err != nil {
		return err
	}
	e.buf = append(e.buf, '\n')
	if !e.begun {
		h.Set("Content-Length", strconv.Itoa(len(e.buf)))
	}
	return e.flush()
}

// encode is v as JSON.
func encode(v any) ([]byte, error) {
	e := encoder{whole: true}
	err := e.value(reflect.ValueOf(v))
	return e.buf, err
}

const flushAt = 32 << 10 // bytes

// encoder writes what encoding/json writes, but for its escapes of HTML. The library makes JSON of each nullable field by itself
// and reads that again, which is most of what an answer costs.
type encoder struct {
	w     io.Writer
	begin func() // before the first write
	begun bool
	whole bool // never written, kept in buf
	buf   []byte
}

func (e *encoder) flush() error {
	if !e.begun {
		e.begun = true
		e.begin()
	}
	_, err := e.w.Write(e.buf)
	e.buf = e.buf[:0]
	return err
}

func (e *encoder) value(v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		e.text(v.String())
		return nil
	case reflect.Int, reflect.Int32, reflect.Int64:
		e.buf = strconv.AppendInt(e.buf, v.Int(), 10)
		return nil
	case reflect.Bool:
		e.buf = strconv.AppendBool(e.buf, v.Bool())
		return nil
	case reflect.Pointer:
		if v.IsNil() {
			e.buf = append(e.buf, "null"...)
			return nil
		}
		return e.value(v.Elem())
	case reflect.Struct:
		if a, ok := v.Interface().(listedAgent); ok {
			e.buf = append(e.buf, bytes.TrimSuffix(a.agent, []byte("}"))...)
			e.buf = fmt.Appendf(e.buf, `,"has_active_session":%t,"session_count":%d}`, a.active, a.sessions)
			return nil
		}
		return e.object(v)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 && !v.IsNil() {
			return e.list(func(yield func(reflect.Value, error) bool) {
				for i := range v.Len() {
					if !yield(v.Index(i), nil) {
						return
					}
				}
			})
		}
	case reflect.Func:
		return e.list(func(yield func(reflect.Value, error) bool) {
			for one, err := range v.Interface().(each) {
				if !yield(reflect.ValueOf(one), err) {
					return
				}
			}
		})
	case reflect.Map:
		if text, ok := v.Interface().(nullable.Nullable[string]); ok {
			if text.IsNull() {
				e.buf = append(e.buf, "null"...)
			} else {
				e.text(text[true])
			}
			return nil
		}
	}
	b, err := json.Marshal(v.Interface())
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	e.buf = append(e.buf, b...)
	return nil
}

// text appends a string. Like encoding/json it replaces what is not UTF-8; that it did is the error it drops.
func (e *encoder) text(s string) { e.buf, _ = jsontext.AppendQuote(e.buf, s) }

func (e *encoder) list(values iter.Seq2[reflect.Value, error]) error {
	e.buf = append(e.buf, '[')
	first := true
	for v, err := range values {
		if err != nil {
			return err
		}
		if !first {
			e.buf = append(e.buf, ',')
		}
		first = false
		if err := e.value(v); err != nil {
			return err
		}
		if len(e.buf) >= flushAt && !e.whole {
			if err := e.flush(); err != nil {
				return err
			}
		}
	}
	e.buf = append(e.buf, ']')
	return nil
}

func (e *encoder) object(v reflect.Value) error {
	if v.Type().Implements(marshaler) {
		b, err := json.Marshal(v.Interface())
		e.buf = append(e.buf, b...)
		return err
	}
	e.buf = append(e.buf, '{')
	first := true
	for _, f := range membersOf(v.Type()) {
		field := v.Field(f.index)
		if f.omitEmpty && field.IsZero() {
			continue
		}
		if !first {
			e.buf = append(e.buf, ',')
		}
		first = false
		e.buf = append(e.buf, f.name...)
		if err := e.value(field); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, '}')
	return nil
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// member is a field of a generated type: its quoted name with a colon, and where it is.
type member struct {
	name      string
	index     int
	omitEmpty bool
}

var memberCache sync.Map // reflect.Type to []member

func membersOf(t reflect.Type) []member {
	if known, ok := memberCache.Load(t); ok {
		return known.([]member)
	}
	var members []member
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		members = append(members, member{strconv.Quote(name) + ":", i, strings.Contains(options, "omitempty")})
	}
	memberCache.Store(t, members)
	return members
}
