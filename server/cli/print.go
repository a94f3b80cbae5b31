package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escaped makes foreign text safe to print: what could move the cursor, change colours or reorder text is written as its Go
// escape, but for the characters in keep.
func escaped(text, keep string) string {
	safe := func(r rune) bool { return strings.ContainsRune(keep, r) || unicode.IsGraphic(r) || joins(r) }
	if utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !safe(r) }) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case safe(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		text = text[n:]
	}
	return b.String()
}

// joins are the format characters that scripts and emoji need and that reorder nothing.
func joins(r rune) bool { return r == '\u200c' || r == '\u200d' }

// escaper escapes a stream of text; a character that is cut off at the end of a write waits for the next.
type escaper struct {
	w    io.Writer
	rest []byte
}

func (e *escaper) Write(p []byte) (int, error) {
	data := append(e.rest, p...)
	cut := len(data)
	for i := 1; i < utf8.UTFMax && i <= len(data); i++ {
		if utf8.RuneStart(data[len(data)-i]) {
			if !utf8.FullRune(data[len(data)-i:]) {
				cut = len(data) - i
			}
			break
		}
	}
	text := strings.ReplaceAll(string(data[:cut]), "\r\n", "\n")
	e.rest = append([]byte(nil), data[cut:]...)
	if _, err := io.WriteString(e.w, escaped(text, "\n\t")); err != nil {
		return 0, err
	}
	return len(p), nil
}
