package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"gorm.io/gorm/schema"
)

// Names of the column serializers in gorm tags: times are unix milliseconds,
// zero for the zero time; JSON text is kept byte for byte.
const (
	serializeMillis = "lap_ms"
	serializeJSON   = "lap_json"
)

func init() {
	schema.RegisterSerializer(serializeMillis, millis{})
	schema.RegisterSerializer(serializeJSON, rawJSON{})
}

type millis struct{}

func (millis) Scan(ctx context.Context, f *schema.Field, dst reflect.Value, value any) error {
	target := f.ReflectValueOf(ctx, dst)
	if value == nil {
		target.SetZero()
		return nil
	}
	ms, ok := value.(int64)
	if !ok {
		return fmt.Errorf("column %s: %T is not a time", f.DBName, value)
	}
	t := fromMillis(ms)
	if target.Kind() == reflect.Pointer {
		target.Set(reflect.ValueOf(&t))
	} else {
		target.Set(reflect.ValueOf(t))
	}
	return nil
}

func (millis) Value(_ context.Context, f *schema.Field, _ reflect.Value, value any) (any, error) {
	switch t := value.(type) {
	case time.Time:
		return toMillis(t), nil
	case *time.Time:
		if t == nil {
			return nil, nil
		}
		return toMillis(*t), nil
	}
	return nil, fmt.Errorf("column %s: %T is not a time", f.DBName, value)
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

type rawJSON struct{}

func (rawJSON) Scan(ctx context.Context, f *schema.Field, dst reflect.Value, value any) error {
	target := f.ReflectValueOf(ctx, dst)
	switch v := value.(type) {
	case nil:
		target.SetZero()
	case string:
		target.SetBytes([]byte(v))
	case []byte:
		target.SetBytes(bytes.Clone(v))
	default:
		return fmt.Errorf("column %s: %T is not JSON text", f.DBName, value)
	}
	return nil
}

func (rawJSON) Value(_ context.Context, f *schema.Field, _ reflect.Value, value any) (any, error) {
	raw, ok := value.(json.RawMessage)
	if !ok {
		return nil, fmt.Errorf("column %s: %T is not JSON text", f.DBName, value)
	}
	if raw == nil {
		return nil, nil
	}
	if err := checkJSON(raw); err != nil {
		return nil, fmt.Errorf("column %s: %w", f.DBName, err)
	}
	return string(raw), nil
}

// checkJSON holds both databases to what the stricter one accepts.
func checkJSON(raw []byte) error {
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return fmt.Errorf("not valid JSON")
	}
	return nil
}

// cleanText makes every string of the struct row points to storable: Postgres
// refuses NUL and invalid UTF-8, and what a sandbox reports may hold either.
func cleanText(row any) {
	v := reflect.ValueOf(row).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.String:
			f.SetString(clean(f.String()))
		case f.Type() == reflect.TypeFor[*string]() && !f.IsNil():
			if s := f.Elem().String(); s != clean(s) {
				s = clean(s)
				f.Set(reflect.ValueOf(&s))
			}
		}
	}
}

func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// validID reports whether s is a UUID in its canonical lower-case form, the
// only one that is ever stored.
func validID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("new id: %w", err)
	}
	return id.String(), nil
}
