package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"

	"github.com/oapi-codegen/runtime"
)

// bind sets dst to a body that was validated. It goes into nullable fields itself: the library would write what they hold as
// JSON and read it again, and they may hold most of a large body.
func bind(value any, dst reflect.Value) error {
	t := dst.Type()
	list, isList := value.([]any)
	object, isObject := value.(map[string]any)
	switch {
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.Bool: // nullable.Nullable
		inner := reflect.New(t.Elem()).Elem()
		if value != nil {
			if err := bind(value, inner); err != nil {
				return err
			}
		}
		dst.Set(reflect.MakeMapWithSize(t, 1))
		dst.SetMapIndex(reflect.ValueOf(value != nil), inner)
		return nil
	case reflect.PointerTo(t).Implements(unmarshaler):
	case isObject && t.Kind() == reflect.Struct:
		return bindFields(object, dst)
	case isList && t.Kind() == reflect.Slice:
		dst.Set(reflect.MakeSlice(t, len(list), len(list)))
		for i := range list {
			if err := bind(list[i], dst.Index(i)); err != nil {
				return err
			}
		}
		return nil
	}
	return runtime.BindJSONValue(value, dst.Addr().Interface())
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func bindFields(object map[string]any, dst reflect.Value) error {
	fields := fieldsOf(dst.Type())
	for name, value := range object {
		if i, ok := fields[name]; ok {
			if err := bind(value, dst.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

var fieldCache sync.Map // reflect.Type to map[string]int

// fieldsOf is where a generated type keeps what JSON calls by a name.
func fieldsOf(t reflect.Type) map[string]int {
	if known, ok := fieldCache.Load(t); ok {
		return known.(map[string]int)
	}
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		fields[name] = i
	}
	fieldCache.Store(t, fields)
	return fields
}
