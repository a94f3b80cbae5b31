package terminal

import (
	"bytes"
	"unicode/utf8"
)

// kind is what a piece of output is.
type kind int

const (
	partial kind = iota // the rest is still to come
	text                // characters and control characters
	escape              // ESC, intermediates, final
	csi                 // ESC [, parameters, intermediates, final
	osc                 // ESC ], to BEL or ST
	str                 // DCS, SOS, PM or APC, to ST
	broken              // a sequence that was cut off by another one or is too long
)

const (
	esc = 0x1b
	bel = 0x07
	can = 0x18
	sub = 0x1a

	maxSequence = 256      // bytes of a sequence that is not a string
	maxString   = 64 << 10 // bytes of a string; longer ones are left out
)

// splitter cuts output into whole pieces, so that output can start anew after any of them.
type splitter struct {
	held []byte // an unfinished piece
	seen int    // so much of it was looked at
	skip bool   // it is a string that is too long: its rest is left out
}

// split returns the whole pieces of what is held and p, and the same without queries: those are the terminal's to answer, and
// nobody else's. Both are the caller's, to read.
func (s *splitter) split(p []byte) (all, shown []byte) {
	b := append(s.held, p...)
	s.held = nil
	if s.skip {
		end := stringEnd(b, 0)
		if end < 0 {
			s.held = append(s.held, b[len(b)-1:]...) // the first half of ST, perhaps
			return nil, nil
		}
		b, s.skip = b[end:], false
	}
	done, cut := 0, false
	for done < len(b) {
		k, n := piece(b[done:], s.seen)
		s.seen = 0
		if k == partial {
			break
		}
		if query(k, b[done:done+n]) {
			if !cut {
				shown, cut = append(make([]byte, 0, len(b)), b[:done]...), true
			}
		} else if cut {
			shown = append(shown, b[done:done+n]...)
		}
		done += n
	}
	s.keep(b[done:])
	if !cut {
		shown = b[:done]
	}
	return b[:done:done], shown
}

func (s *splitter) keep(rest []byte) {
	if s.skip = len(rest) > maxString; s.skip {
		rest = rest[len(rest)-1:]
	}
	s.held = append(s.held, rest...)
	if s.seen = len(rest); s.skip {
		s.seen = 0
	}
}

// piece returns what b starts with and how long it is. Its first seen bytes are known to be an unfinished piece.
func piece(b []byte, seen int) (kind, int) {
	if b[0] != esc {
		return plain(b)
	}
	if len(b) == 1 {
		return partial, 0
	}
	switch b[1] {
	case '[':
		return sequence(b, csi, 0x3f, 0x40)
	case ']':
		return stringPiece(b, osc, seen)
	case 'P', 'X', '^', '_':
		return stringPiece(b, str, seen)
	}
	return sequence(b, escape, 0x2f, 0x30)
}

// plain is everything up to the next sequence; the start of a character at the end waits for its rest.
func plain(b []byte) (kind, int) {
	n := bytes.IndexByte(b, esc)
	if n > 0 {
		return text, n
	}
	n = len(b)
	for i := 1; i < utf8.UTFMax && i <= n; i++ {
		if c := b[n-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[n-i:]) {
				n -= i
			}
			break
		}
	}
	if n == 0 {
		return partial, 0
	}
	return text, n
}

// sequence goes to the first byte from final on; those up to last go before it.
func sequence(b []byte, k kind, last, final byte) (kind, int) {
	from := 1
	if k == csi {
		from = 2
	}
	for i := from; i < len(b); i++ {
		c := b[i]
		switch {
		case i >= maxSequence, c == esc, c > 0x7e:
			return broken, i
		case c == can || c == sub:
			return broken, i + 1
		case c >= final:
			return k, i + 1
		case c > last:
			return broken, i + 1
		}
	}
	return partial, 0
}

func stringPiece(b []byte, k kind, seen int) (kind, int) {
	end := stringEnd(b, max(seen, 2))
	switch {
	case end < 0:
		return partial, 0
	case b[end-1] == bel || b[end-1] == '\\' && b[end-2] == esc:
		return k, end
	}
	return broken, end
}

// stringEnd returns where a string ends that goes on at from, or -1 if its end is still to come. The byte before from may be the
// first half of its end.
func stringEnd(b []byte, from int) int {
	if from > 2 && b[from-1] == esc {
		from--
	}
	for i := from; i < len(b); i++ {
		switch b[i] {
		case bel, can, sub:
			return i + 1
		case esc:
			switch {
			case i+1 == len(b):
				return -1
			case b[i+1] == '\\':
				return i + 2
			}
			return i // another sequence cuts it off
		}
	}
	return -1
}
