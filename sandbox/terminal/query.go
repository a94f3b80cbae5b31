package terminal

import (
	"bytes"
	"strconv"
)

// params returns the parts of a CSI sequence: a prefix byte or 0, the numbers (-1 where one is left out, and for what follows a
// colon, which is left to the model), the intermediates, the final byte. ok is false if a number is too long to be meant.
func params(p []byte) (prefix byte, list []int, inter string, final byte, ok bool) {
	body := p[2 : len(p)-1]
	final = p[len(p)-1]
	if len(body) > 0 && body[0] >= '<' && body[0] <= '?' {
		prefix, body = body[0], body[1:]
	}
	if i := bytes.IndexFunc(body, func(r rune) bool { return r < '0' }); i >= 0 {
		body, inter = body[:i], string(body[i:])
	}
	if len(body) == 0 {
		return prefix, nil, inter, final, true
	}
	for f := range bytes.SplitSeq(body, []byte{';'}) {
		n := -1
		for sub := range bytes.SplitSeq(f, []byte{':'}) {
			if len(sub) > 5 {
				return prefix, nil, inter, final, false
			}
		}
		if v, err := strconv.Atoi(string(f)); err == nil {
			n = v
		}
		list = append(list, n)
	}
	return prefix, list, inter, final, true
}

func first(list []int, otherwise int) int {
	if len(list) == 0 || list[0] < 0 {
		return otherwise
	}
	return list[0]
}

// query reports whether a piece asks the terminal for an answer.
func query(k kind, p []byte) bool {
	switch k {
	case csi:
		return csiQuery(p)
	case osc:
		return oscQuery(p)
	case str:
		return bytes.HasPrefix(p, []byte("\x1bP+q")) || bytes.HasPrefix(p, []byte("\x1bP$q")) ||
			bytes.HasPrefix(p, []byte("\x1b_G")) && bytes.Contains(p, []byte("a=q"))
	case escape:
		return p[1] == 'Z'
	}
	return false
}

func csiQuery(p []byte) bool {
	switch p[len(p)-1] {
	case 'S', 'c', 'm', 'n', 'p', 'q', 't', 'u', 'w', 'x', 'y':
	default:
		return false
	}
	prefix, list, inter, final, _ := params(p)
	switch final {
	case 'c':
		return inter == "" && prefix != '?'
	case 'n':
		return inter == "" && (prefix == 0 || prefix == '?')
	case 'p':
		return inter == "$"
	case 'q':
		return prefix == '>'
	case 't':
		n := first(list, 0)
		return inter == "" && prefix == 0 && n >= 11 && n <= 21 && n != 12 && n != 17
	case 'S', 'm', 'u':
		return prefix == '?'
	case 'w':
		return inter == "$"
	case 'y':
		return inter == "*"
	}
	return inter == "" && prefix == 0 // x
}

// oscQuery is true for colours, the clipboard and the like if one of the fields is a question mark.
func oscQuery(p []byte) bool {
	code, data, _ := oscParts(p)
	switch {
	case code == 4, code == 5, code >= 10 && code <= 19, code == 21, code == 52:
	default:
		return false
	}
	for f := range bytes.SplitSeq(data, []byte{';'}) {
		if string(f) == "?" || code == 21 && bytes.HasSuffix(f, []byte("=?")) {
			return true
		}
	}
	return false
}

// oscParts returns the number of an OSC sequence and what follows it.
func oscParts(p []byte) (code int, data []byte, ok bool) {
	body := p[2 : len(p)-1]
	if p[len(p)-1] == '\\' {
		body = p[2 : len(p)-2]
	}
	number, data, _ := bytes.Cut(body, []byte{';'})
	code, err := strconv.Atoi(string(number))
	if err != nil {
		return -1, nil, false
	}
	return code, data, true
}
