package terminal

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// stateful reports whether a sequence changes what a terminal remembers besides its cells.
func stateful(k kind, p []byte) bool {
	switch k {
	case escape:
		return strings.ContainsRune("c=>()78", rune(p[1]))
	case osc:
		code, _, ok := oscParts(p)
		return ok && (code == 0 || code == 2)
	case csi:
		prefix, _, inter, final, _ := params(p)
		switch final {
		case 'h', 'l':
			return true
		case 'm', 'u':
			return prefix != 0
		case 'n':
			return prefix == '>'
		case 'r':
			return prefix == 0 && inter == ""
		case 'q':
			return inter == " "
		case 'p':
			return inter == "!"
		}
	}
	return false
}

func (s *screen) escape(p []byte) {
	switch p[1] {
	case 'c':
		s.state, s.wrap, s.last = state{modes: map[int]bool{}}, false, ""
		s.feed("\x1bc")
	case 'E':
		s.newline()
	case '=', '>':
		s.keypad = p[1] == '='
	case '7':
		*s.saved() = s.spot()
	case '8':
		s.restore()
	case 'D', 'M':
		at := s.emu.CursorPosition()
		s.wrap = false
		s.put(at.X, at.Y) // the emulator wraps after it
		s.feed(string(p))
	case 'H':
		s.feed(string(p))
	case '(', ')':
		if set := p[len(p)-1]; len(p) == 3 && (set == '0' || set == 'A' || set == 'B') {
			s.designate(int(p[1]-'('), set)
		}
	}
}

// csi feeds what the emulator does right and does the rest by other means. Numbers are limited: some mean work.
func (s *screen) csi(p []byte) {
	prefix, list, inter, final, ok := params(p)
	if !ok || len(list) > 32 || strings.ContainsFunc(inter, func(r rune) bool { return r < ' ' }) {
		return
	}
	switch {
	case prefix == 0 && inter == "":
		s.plainCSI(p, list, final)
	case prefix == '?' && inter == "" && (final == 'h' || final == 'l'):
		for _, mode := range list {
			s.setMode(mode, final == 'h')
		}
	case final == 'u':
		s.kittyKeys(prefix, list)
	case prefix == '>' && (final == 'm' || final == 'n') && first(list, 4) == 4:
		s.keys = 0
		if final == 'm' && len(list) > 1 {
			s.keys = max(list[1], 0)
		}
	case inter == " " && final == 'q':
		s.cursor = min(first(list, 0), 6)
	case inter == "!" && final == 'p':
		s.softReset()
	}
}

// softReset is DECSTR. The cursor stays where it is.
func (s *screen) softReset() {
	at := s.emu.CursorPosition()
	for _, q := range []string{"\x1b[?25h", "\x1b[?1l", "\x1b[?6l", "\x1b[?7h", "\x1b[4l", "\x1b[r", "\x1b[m"} {
		s.csi([]byte(q))
	}
	s.designate(0, 0)
	s.designate(1, 0)
	s.useG1(false)
	s.keypad = false
	*s.saved() = spot{}
	s.put(at.X, at.Y)
}

func (s *screen) plainCSI(p []byte, list []int, final byte) {
	switch final {
	case 'm':
		s.feed(string(p))
		return
	case 'h', 'l':
		s.insert = s.insert && !slices.Contains(list, 4) || final == 'h' && slices.Contains(list, 4)
		s.lines = s.lines && !slices.Contains(list, 20) || final == 'h' && slices.Contains(list, 20)
		return
	case 'b':
		for n := count(list); n > 0 && s.last != ""; n-- {
			s.cluster(s.last, s.wide)
		}
		return
	}
	at := s.emu.CursorPosition()
	if final == 'J' && first(list, 0) == 3 {
		return // what has left the screen is not kept
	}
	if s.wrap && strings.IndexByte("@ABCDEFGHIJKLMPSTXZ`adefrsu", final) >= 0 {
		s.wrap = false
		s.put(at.X, at.Y) // the emulator forgets it with some of them only
	}
	switch final {
	case 's':
		s.escape([]byte("\x1b7"))
	case 'u':
		s.escape([]byte("\x1b8"))
	case 'r':
		s.region(list)
	case '@':
		s.shiftCells(count(list))
	case 'P':
		s.shiftCells(-count(list))
	case 'L', 'M':
		if at.Y+1 >= s.top && (s.bottom == 0 || at.Y+1 <= s.bottom) {
			s.feed(limited(list, final))
			s.put(0, at.Y)
		}
	case 'J':
		s.eraseDisplay(list)
	case 'E', 'F':
		s.feed(limited([]int{count(list)}, map[byte]byte{'E': 'B', 'F': 'A'}[final]))
		s.carriageReturn()
	case 'f':
		s.feed(limited(list, 'H')) // the emulator's own knows no origin
	case '`':
		s.feed(limited(list, 'G')) // nor these
	case 'a':
		s.feed(limited(list, 'C'))
	case 'A', 'B', 'C', 'D', 'G', 'H', 'I', 'K', 'S', 'T', 'X', 'Z', 'd', 'e', 'g':
		s.feed(limited(list, final))
	}
}

// eraseDisplay does what the emulator does to whole lines or without the background.
func (s *screen) eraseDisplay(list []int) {
	at := s.emu.CursorPosition()
	switch first(list, 0) {
	case 0:
		s.feed("\x1b[J")
	case 1:
		if s.feed("\x1b[1K"); at.Y > 0 {
			s.put(0, at.Y-1)
			s.feed("\x1b[1J")
			s.put(at.X, at.Y)
		}
	case 2:
		s.erase()
	}
}

// count is the number of a sequence that means at least one.
func count(list []int) int { return min(max(first(list, 1), 1), maxCells) }

func limited(list []int, final byte) string {
	var b strings.Builder
	b.WriteString("\x1b[")
	if len(list) > 0 && list[0] == 0 && strings.IndexByte("ABCDGILMXSTZde", final) >= 0 {
		list = []int{1} // which the emulator takes for none
	}
	for i, n := range list {
		if i > 0 {
			b.WriteByte(';')
		}
		if n >= 0 {
			b.WriteString(strconv.Itoa(min(n, maxCells)))
		}
	}
	b.WriteByte(final)
	return b.String()
}

func (s *screen) region(list []int) {
	top, bottom := max(first(list, 1), 1), s.size.Rows
	if len(list) > 1 && list[1] > 0 {
		bottom = min(list[1], bottom)
	}
	if top >= bottom {
		return
	}
	s.top, s.bottom = top, bottom
	s.feed(fmt.Sprintf("\x1b[%d;%dr", top, bottom))
}

func (s *screen) setMode(mode int, set bool) {
	switch mode {
	case 47, 1047:
		s.alternate(set)
		return
	case 1048:
		s.save(set)
		return
	case 1049:
		if set && s.alt {
			return
		}
		if set {
			s.save(true)
		}
		if s.alternate(set); !set {
			s.save(false)
		}
		return
	case 3, 69, 2048:
		return // nothing draws with them
	}
	if _, known := s.modes[mode]; mode < 0 || !known && len(s.modes) >= maxModes {
		return
	}
	s.modes[mode] = set
	switch mode {
	case 6:
		s.wrap = false
		s.feed(fmt.Sprintf("\x1b[?6%c\x1b[H", letter(set)))
	case 7:
		s.wrap = s.wrap && set
		s.feed(fmt.Sprintf("\x1b[?7%c", letter(set)))
	}
}

// save saves the cursor or brings it back.
func (s *screen) save(set bool) {
	if set {
		*s.saved() = s.spot()
	} else {
		s.restore()
	}
}

func (s *screen) kittyKeys(prefix byte, list []int) {
	switch prefix {
	case '>':
		if len(s.kitty) == maxKitty {
			s.kitty = s.kitty[1:]
		}
		s.kitty = append(s.kitty, first(list, 0))
	case '<':
		s.kitty = s.kitty[:max(0, len(s.kitty)-max(first(list, 1), 1))]
	case '=':
		if len(s.kitty) == 0 {
			s.kitty = append(s.kitty, 0)
		}
		top := &s.kitty[len(s.kitty)-1]
		how := 1
		if len(list) > 1 {
			how = list[1]
		}
		switch flags := first(list, 0); how {
		case 2:
			*top |= flags
		case 3:
			*top &^= flags
		default:
			*top = flags
		}
	}
}

// osc keeps the title and feeds links. Bytes beyond ASCII are not fed: the emulator takes some of them for the end of the string.
func (s *screen) osc(p []byte) {
	code, data, _ := oscParts(p)
	switch code {
	case 0, 2:
		s.title = printable(strings.ToValidUTF8(string(data[:min(len(data), maxTitle)]), ""), false)
	case 8:
		how, link, _ := strings.Cut(printable(string(data), true), ";")
		link = strings.ReplaceAll(link, ";", "%3B") // the emulator takes it for the end
		if s.link = how + ";" + link; link == "" || len(data) > maxLink {
			s.link = ""
		}
		s.openLink()
	}
}

func (s *screen) openLink() {
	if s.link == "" {
		s.feed("\x1b]8;;\x1b\\")
		return
	}
	s.feed("\x1b]8;" + s.link + "\x1b\\")
}

// printable leaves control characters out, and makes a question mark of what is not ASCII if there must be none.
func printable(text string, asciiOnly bool) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return -1
		case r > 0x7f && asciiOnly:
			return '?'
		}
		return r
	}, text)
}

// answer is what a terminal says to a query. Some stay without an answer: what they ask for is not known, or nobody's business.
func (s *screen) answer(k kind, p []byte) []byte {
	switch k {
	case escape:
		return []byte("\x1b[?62;1;6;22c")
	case csi:
		return []byte(s.answerCSI(p))
	case osc:
		colour := map[int]string{10: "ffff/ffff/ffff", 11: "0000/0000/0000", 12: "ffff/ffff/ffff"}
		if code, _, _ := oscParts(p); colour[code] != "" {
			return fmt.Appendf(nil, "\x1b]%d;rgb:%s\x1b\\", code, colour[code])
		}
	}
	return nil
}

func (s *screen) answerCSI(p []byte) string {
	prefix, list, _, final, _ := params(p)
	n := first(list, 0)
	switch final {
	case 'c':
		switch prefix {
		case 0:
			return "\x1b[?62;1;6;22c"
		case '>':
			return "\x1b[>1;10;0c"
		}
	case 'n':
		at := s.emu.CursorPosition()
		if s.on(6) {
			at.Y -= max(s.top-1, 0)
		}
		switch {
		case prefix == 0 && n == 5:
			return "\x1b[0n"
		case prefix == 0 && n == 6:
			return fmt.Sprintf("\x1b[%d;%dR", at.Y+1, at.X+1)
		case prefix == '?' && n == 6:
			return fmt.Sprintf("\x1b[?%d;%d;1R", at.Y+1, at.X+1)
		}
	case 'p':
		if prefix == '?' {
			return fmt.Sprintf("\x1b[?%d;%d$y", n, s.report(n))
		}
		return fmt.Sprintf("\x1b[%d;0$y", max(n, 0))
	}
	return ""
}

// report is 1 for a mode that is set, 2 for one that is not, 0 for one that is not known.
func (s *screen) report(mode int) int {
	switch mode {
	case 47, 1047, 1049:
		if s.alt {
			return 1
		}
		return 2
	case 1, 6, 7, 25, 1000, 1002, 1003, 1004, 1006, 2004, 2026:
		if s.on(mode) {
			return 1
		}
		return 2
	}
	return 0
}
