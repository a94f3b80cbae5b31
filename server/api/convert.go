package api

import (
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// orNull returns null for nil.
func orNull[T any](p *T) nullable.Nullable[T] {
	if p == nil {
		return nullable.NewNullNullable[T]()
	}
	return nullable.NewNullableWithValue(*p)
}

// given returns nil for null and for what was left out, which mean the same in a create body.
func given[T any](n nullable.Nullable[T]) *T {
	v, err := n.Get()
	if err != nil {
		return nil
	}
	return &v
}

// orZero is given with the zero value instead of nil.
func orZero[T any](n nullable.Nullable[T]) T {
	v, _ := n.Get()
	return v
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func timeOrNull(t *time.Time) nullable.Nullable[string] {
	if t == nil {
		return nullable.NewNullNullable[string]()
	}
	return nullable.NewNullableWithValue(session.FormatTime(*t))
}

const (
	defaultLimit = 50
	maxLimit     = 200
)

// page is what was asked of a list, and what its answer repeats.
type page struct {
	limit, offset int
	request       store.PageRequest
}

// newPage is for lists that come newest first.
func newPage(limit *gen.Limit, offset *gen.Offset, cursor *gen.Cursor, total *gen.Total) (page, error) {
	return newPageOf(func(k store.Key) bool { return k.Order == "" && k.Value == "" }, limit, offset, cursor, total)
}

// newPageOf is for a list in the order whose positions holds knows.
func newPageOf(
	holds func(store.Key) bool, limit *gen.Limit, offset *gen.Offset, cursor *gen.Cursor, total *gen.Total,
) (page, error) {
	p := page{limit: defaultLimit}
	if limit != nil {
		p.limit = min(max(*limit, 1), maxLimit)
	}
	if offset != nil {
		p.offset = max(*offset, 0)
	}
	p.request = store.PageRequest{Limit: p.limit, Total: total == nil || *total}
	if cursor == nil {
		p.request.Offset = p.offset
		return p, nil
	}
	key, ok := decodeCursor(*cursor)
	if !ok || !holds(key) {
		return p, invalid([]gen.ErrorDetail{{Field: "query/cursor", Message: "was not made by this server for a list in this order"}})
	}
	p.offset, p.request.After = 0, &key
	return p, nil
}

// cursor is the position after which a page begins.
type cursor struct {
	Time  int64  `json:"t"` // milliseconds since 1970
	ID    string `json:"i"`
	Order string `json:"o,omitempty"`
	Value string `json:"v,omitempty"`
}

func encodeCursor(k *store.Key) nullable.Nullable[string] {
	if k == nil {
		return nullable.NewNullNullable[string]()
	}
	b, _ := json.Marshal(cursor{Time: k.CreatedAt.UnixMilli(), ID: k.ID, Order: k.Order, Value: k.Value}) // cannot fail
	return nullable.NewNullableWithValue(base64.RawURLEncoding.EncodeToString(b))
}

func decodeCursor(s string) (store.Key, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return store.Key{}, false
	}
	var c cursor
	if json.Unmarshal(b, &c) != nil || checkUUID(c.ID) != nil || c.Time < 0 {
		return store.Key{}, false
	}
	again, _ := json.Marshal(c)
	return store.Key{CreatedAt: time.UnixMilli(c.Time).UTC(), ID: c.ID, Order: c.Order, Value: c.Value}, string(again) == string(b)
}
