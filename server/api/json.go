package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/litellm-agent-platform/lap/gen"
)

const (
	maxDepth  = 64     // how deep objects and arrays of a body may be nested
	maxValues = 10_000 // values in a body; ten times what any schema allows, and few enough to find fault with each
)

// decodeJSON decodes one JSON value into the shapes that kin-openapi validates. Unlike encoding/json it refuses duplicate names,
// invalid UTF-8, lone surrogates, NUL characters, deep nesting, absurdly many values and anything after the value.
func decodeJSON(data []byte) (any, error) {
	d := decoder{Decoder: jsontext.NewDecoder(bytes.NewBuffer(data))}
	v, err := d.value()
	if err != nil {
		return nil, d.problem(err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, badJSON("", "there is more than one JSON value")
	}
	return v, nil
}

var (
	errDepth  = fmt.Errorf("is nested more than %d levels deep", maxDepth)
	errValues = fmt.Errorf("has more than %d values", maxValues)
	errNUL    = errors.New("has a NUL character")
)

type decoder struct {
	*jsontext.Decoder
	values int
}

func (d *decoder) value() (any, error) {
	tok, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	if d.StackDepth() > maxDepth {
		return nil, errDepth
	}
	if d.values++; d.values > maxValues {
		return nil, errValues
	}
	switch tok.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return tok.Bool(), nil
	case '0':
		return plainNumber(tok.String()), nil
	case '"':
		return text(tok)
	case '[':
		return d.array()
	default:
		return d.object()
	}
}

func text(tok jsontext.Token) (string, error) {
	s := tok.String()
	if strings.ContainsRune(s, 0) {
		return "", errNUL
	}
	return s, nil
}

func (d *decoder) array() (any, error) {
	list := []any{}
	for d.PeekKind() != ']' {
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.ReadToken()
	return list, err
}

func (d *decoder) object() (any, error) {
	object := map[string]any{}
	for d.PeekKind() != '}' {
		tok, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		name, err := text(tok)
		if err != nil {
			return nil, err
		}
		if object[name], err = d.value(); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return object, err
}

// plainNumber writes whole numbers without point and exponent, as integers in Go are read.
func plainNumber(s string) json.Number {
	if !strings.ContainsAny(s, ".eE") {
		return json.Number(s)
	}
	const exact = 1 << 53
	if f, err := strconv.ParseFloat(s, 64); err == nil && f == math.Trunc(f) && math.Abs(f) <= exact {
		return json.Number(strconv.FormatInt(int64(f), 10))
	}
	return json.Number(s)
}

func (d *decoder) problem(err error) error {
	field := shorten(string(d.StackPointer()), 512)
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, errDepth):
		return badJSON("", errDepth.Error())
	case errors.Is(err, errValues):
		return badJSON("", errValues.Error())
	case errors.Is(err, errNUL):
		return badJSON(field, errNUL.Error())
	case !errors.As(err, &syntax):
		return badJSON(field, "ends too early")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return badJSON(shorten(string(syntax.JSONPointer), 512), "is given more than once")
	default:
		return badJSON(shorten(string(syntax.JSONPointer), 512), fmt.Sprintf("is not valid JSON in UTF-8 at byte %d", syntax.ByteOffset))
	}
}

func badJSON(field, message string) error {
	return &problem{status: http.StatusBadRequest, code: codeInvalidJSON, text: "the body is not one valid JSON value",
		details: []gen.ErrorDetail{{Field: field, Message: message}}}
}

var errFormat = errors.New("wrong format")

// checkBase64 accepts standard base64 with padding, nothing between, and no bits left over. It avoids the stock check's regular
// expression, which takes a second for 10 MB.
func checkBase64(s string) error {
	if len(s)%4 != 0 {
		return errFormat
	}
	if s == "" {
		return nil
	}
	last := len(s) - 4
	for i := range last {
		if !base64Alphabet[s[i]] {
			return errFormat
		}
	}
	_, err := base64.StdEncoding.Strict().DecodeString(s[last:])
	if err != nil || strings.ContainsAny(s[last:], "\r\n") {
		return errFormat
	}
	return nil
}

var base64Alphabet = func() (table [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		table[c] = true
	}
	return table
}()

// decodedLen is the size of what checkBase64 accepted.
func decodedLen(s string) int {
	return base64.StdEncoding.DecodedLen(len(s)) - (len(s) - len(strings.TrimRight(s, "=")))
}

func checkUUID(s string) error {
	if len(s) != 36 {
		return errFormat
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return errFormat
		}
	}
	return nil
}
