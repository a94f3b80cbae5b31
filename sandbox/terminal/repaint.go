package terminal

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
)

// repaint returns what makes any terminal of the same size, whatever it shows, look and behave like this one.
func (s *screen) repaint() []byte {
	s.flush()
	var b strings.Builder
	b.WriteString("\x1bc")
	if s.title != "" {
		b.WriteString("\x1b]0;" + s.title + "\x07")
	}
	b.WriteString("\x1b[?2026h\x1b[?7l")
	if s.alt { // the main screen is under it, with the cursor that comes back
		for y, row := range s.hidden {
			paintRow(&b, y, row)
		}
		s.paintRegion(&b)
		s.paintSpot(&b, spot{}, s.spots[0])
		b.WriteString("\x1b[?1049h")
		s.paintSpot(&b, s.spots[0], spot{})
		b.WriteString("\x1b[2J")
	}
	for y := range s.size.Rows {
		paintRow(&b, y, s.row(y))
	}
	s.paintRegion(&b)
	if saved := *s.saved(); saved != (spot{}) {
		s.paintSpot(&b, spot{}, saved)
		b.WriteString("\x1b7")
		s.paintSpot(&b, saved, spot{})
	}
	s.paintModes(&b)
	s.paintCursor(&b)
	b.WriteString("\x1b[?2026l")
	return []byte(b.String())
}

// paintRegion is to be done on either screen: terminals do not agree on whether they share it.
func (s *screen) paintRegion(b *strings.Builder) {
	if s.top > 0 {
		fmt.Fprintf(b, "\x1b[%d;%dr", s.top, s.bottom)
	}
}

// paintSpot moves the cursor, once the scroll region is right, and does what belongs to it.
func (s *screen) paintSpot(b *strings.Builder, from, to spot) {
	s.paintMove(b, from, to)
	paintPen(b, from, to)
}

func (s *screen) paintMove(b *strings.Builder, from, to spot) {
	y := to.at.Y
	if to.origin {
		y = max(y-max(s.top-1, 0), 0)
	}
	if to.origin != from.origin {
		fmt.Fprintf(b, "\x1b[?6%c", letter(to.origin))
	}
	fmt.Fprintf(b, "\x1b[%d;%dH", y+1, to.at.X+1)
}

func paintPen(b *strings.Builder, from, to spot) {
	for i, set := range to.sets {
		if set == from.sets[i] {
			continue
		}
		if set == 0 {
			set = 'B'
		}
		b.Write([]byte{esc, '(' + byte(i), set})
	}
	switch {
	case to.shift && !from.shift:
		b.WriteByte(0x0e)
	case from.shift && !to.shift:
		b.WriteByte(0x0f)
	}
	b.WriteString(uv.StyleDiff(nil, &to.pen))
}

// paintCursor has the last word. If the next character is to go to the next line, only writing the last one again says so.
func (s *screen) paintCursor(b *strings.Builder) {
	now := s.spot()
	before := spot{at: now.at, origin: now.origin}
	if s.wrap {
		before.at.X = s.size.Cols - s.wide
	}
	s.paintMove(b, spot{}, before)
	if c := s.emu.CellAt(before.at.X, before.at.Y); s.wrap {
		b.WriteString(uv.StyleDiff(nil, &c.Style))
		b.WriteString(ansi.SetHyperlink(c.Link.URL, c.Link.Params))
		b.WriteString(c.Content)
		b.WriteString(ansi.ResetHyperlink())
	}
	paintPen(b, before, now)
	if s.link != "" {
		b.WriteString("\x1b]8;" + s.link + "\x1b\\")
	}
	if s.insert {
		b.WriteString("\x1b[4h")
	}
}

func letter(set bool) byte {
	if set {
		return 'h'
	}
	return 'l'
}

// paintRow says where each wide character's successor is: a client may think otherwise of its width.
func paintRow(b *strings.Builder, y int, row uv.Line) {
	var pen uv.Style
	var link uv.Link
	blanks, begun := 0, false
	for x := 0; x < len(row); x++ {
		c := &row[x]
		if c.IsZero() || c.Equal(&uv.EmptyCell) {
			blanks++
			continue
		}
		if !begun || blanks > 0 {
			fmt.Fprintf(b, "\x1b[%d;%dH", y+1, x+1)
			begun, blanks = true, 0
		}
		b.WriteString(uv.StyleDiff(&pen, &c.Style))
		if pen = c.Style; c.Link != link {
			link = c.Link
			b.WriteString(ansi.SetHyperlink(link.URL, link.Params))
		}
		if c.Content == "" {
			b.WriteByte(' ')
			continue
		}
		b.WriteString(c.Content)
		if c.Width > 1 {
			x += c.Width - 1
			if x+1 < len(row) {
				fmt.Fprintf(b, "\x1b[%dG", x+2)
			}
		}
	}
	if !link.IsZero() {
		b.WriteString(ansi.ResetHyperlink())
	}
	if !pen.IsZero() {
		b.WriteString("\x1b[m")
	}
}

// paintModes restores everything but the cells, the scroll region and what belongs to the cursor.
func (s *screen) paintModes(b *strings.Builder) {
	b.WriteString("\x1b[?7h")
	for _, mode := range slices.Sorted(maps.Keys(s.modes)) {
		if set := s.modes[mode]; mode != 6 && mode != 2026 && set != (mode == 7 || mode == 25) {
			fmt.Fprintf(b, "\x1b[?%d%c", mode, letter(set))
		}
	}
	for _, flags := range s.kitty {
		fmt.Fprintf(b, "\x1b[>%du", flags)
	}
	if s.keys > 0 {
		fmt.Fprintf(b, "\x1b[>4;%dm", s.keys)
	}
	if s.cursor > 0 {
		fmt.Fprintf(b, "\x1b[%d q", s.cursor)
	}
	if s.keypad {
		b.WriteString("\x1b=")
	}
	if s.lines {
		b.WriteString("\x1b[20h")
	}
}

// withoutQueries is b without what the terminal is asked.
func withoutQueries(b []byte) []byte {
	var s splitter
	_, shown := s.split(b)
	return shown
}
