package terminal

import (
	"fmt"
	"slices"

	uv "github.com/charmbracelet/ultraviolet"
)

// row is a copy of a row.
func (s *screen) row(y int) uv.Line {
	row := make(uv.Line, s.size.Cols)
	for x := range row {
		row[x] = *s.emu.CellAt(x, y)
	}
	return row
}

// setRow replaces a row. It goes around the emulator's own way to set a cell, which blanks what is beside a wide one.
func (s *screen) setRow(y int, row uv.Line) {
	whole(row)
	for x, c := range row {
		*s.emu.CellAt(x, y) = c
	}
}

// whole makes blanks of the halves of wide characters in a row whose other half is elsewhere.
func whole(row uv.Line) {
	for x := 0; x < len(row); x++ {
		c := &row[x]
		n := 1
		for c.Width > 1 && n < c.Width && x+n < len(row) && row[x+n].IsZero() {
			n++
		}
		if c.IsZero() || n < c.Width {
			*c = uv.Cell{Content: " ", Width: 1, Style: uv.Style{Bg: c.Style.Bg}}
			continue
		}
		x += n - 1
	}
}

// fit crops rows at the right and at the bottom, or fills them up with blanks.
func fit(rows []uv.Line, size Size) []uv.Line {
	rows = rows[:min(len(rows), size.Rows)]
	for len(rows) < size.Rows {
		rows = append(rows, uv.NewLine(size.Cols))
	}
	for y, row := range rows {
		row = slices.Clone(row[:min(len(row), size.Cols)])
		whole(row)
		rows[y] = append(row, uv.NewLine(size.Cols-len(row))...)
	}
	return rows
}

// shiftCells inserts n blanks at the cursor, or deletes -n cells there.
func (s *screen) shiftCells(n int) {
	at := s.emu.CursorPosition()
	row := s.row(at.Y)
	whole(row[at.X:]) // a wide character that the cursor stands in the middle of loses both halves
	blanks := uv.NewLine(min(max(n, -n), len(row)-at.X))
	for x := range blanks {
		blanks[x].Style.Bg = s.pen.Bg
	}
	if n > 0 {
		row = slices.Insert(row, at.X, blanks...)[:s.size.Cols]
	} else {
		row = append(slices.Delete(row, at.X, at.X+len(blanks)), blanks...)
	}
	s.setRow(at.Y, row)
}

// put moves the cursor, whatever the origin is.
func (s *screen) put(x, y int) { s.feed(fmt.Sprintf("\x1b[%d;%df", y+1, x+1)) }

// carriageReturn is not the emulator's: that one leaves the row if the origin is that of the scroll region.
func (s *screen) carriageReturn() {
	s.wrap = false
	s.put(0, s.emu.CursorPosition().Y)
}

// erase clears the whole screen to the background of the pen.
func (s *screen) erase() {
	at := s.emu.CursorPosition()
	s.put(0, 0)
	s.feed("\x1b[J")
	s.put(at.X, at.Y)
}

// alternate shows the other screen, for which the main one is put aside. The emulator's own alternate screen is not used: it keeps
// 10,000 lines that have left it.
func (s *screen) alternate(set bool) {
	if s.alt == set {
		return
	}
	s.alt, s.wrap = set, false
	if set {
		s.hidden = nil
		for y := range s.size.Rows {
			s.hidden = append(s.hidden, s.row(y))
		}
		s.erase()
		return
	}
	for y, row := range s.hidden {
		s.setRow(y, row)
	}
	s.hidden = nil
}

// spot is a cursor and what is saved with it.
type spot struct {
	at     uv.Position
	pen    uv.Style
	sets   [2]byte
	shift  bool
	origin bool
}

func (s *screen) spot() spot {
	return spot{at: s.emu.CursorPosition(), pen: s.pen, sets: s.sets, shift: s.shift, origin: s.on(6)}
}

// saved is where a screen's saved cursor is kept: each screen has one.
func (s *screen) saved() *spot {
	if s.alt {
		return &s.spots[1]
	}
	return &s.spots[0]
}

// restore brings a saved cursor back. Without one it is that of an empty screen.
func (s *screen) restore() {
	to := *s.saved()
	s.wrap = false
	if s.on(6) != to.origin {
		s.setMode(6, to.origin)
	}
	for i, set := range to.sets {
		s.designate(i, set)
	}
	s.useG1(to.shift)
	s.feed("\x1b[m" + to.pen.String())
	x, y := min(to.at.X, s.size.Cols-1), min(to.at.Y, s.size.Rows-1)
	if to.origin && s.top > 0 {
		y = min(max(y, s.top-1), s.bottom-1)
	}
	s.put(x, y)
}

// designate makes a character set G0 or G1; 0 and B are ASCII.
func (s *screen) designate(i int, set byte) {
	if s.sets[i] = set; set == 'B' {
		s.sets[i] = 0
	}
	s.useG1(s.shift)
}

// useG1 shifts to G1 or to G0. The emulator knows no shifts: its G0 is what is in use.
func (s *screen) useG1(shift bool) {
	s.shift = shift
	set := s.sets[0]
	if shift {
		set = s.sets[1]
	}
	if set == 0 {
		set = 'B'
	}
	s.feed("\x1b(" + string([]byte{set}))
}
