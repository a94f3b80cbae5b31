package terminal

import (
	"io"
	"strings"
	"unicode/utf8"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
)

// screen is the model of a terminal. It is fed whole pieces of output, never a part of one: what the emulator misunderstands is
// translated or kept from it, and so is what it would answer. It is not safe for concurrent use.
type screen struct {
	emu  *vt.Emulator
	size Size
	held []byte // text at the end that may go on with a mark: it is fed with what follows, or when somebody looks
	wrap bool   // the last column is full and the next character goes to the next line; the emulator forgets it after a wide one
	last string // the last character, which can be repeated
	wide int    // its width
	state
}

// state is what a terminal remembers besides its cells.
type state struct {
	modes  map[int]bool // DEC private modes that were set or reset, by number
	alt    bool         // the alternate screen is shown
	title  string
	kitty  []int // flags of the kitty keyboard protocol, a stack
	keys   int   // modifyOtherKeys of xterm
	cursor int   // style of the cursor, DECSCUSR
	top    int   // scroll region, from 1; 0: none
	bottom int
	keypad bool
	sets   [2]byte // designations of G0 and G1; 0: ASCII
	shift  bool    // G1 is in use
	insert bool    // characters push what is right of them, IRM
	lines  bool    // a line feed is a new line as well, LNM
	link   string  // what follows OSC 8, while a link is open
	pen    uv.Style
	spots  [2]spot   // cursors of the main and of the alternate screen as DECSC saved them
	hidden []uv.Line // the main screen while the other one is shown
}

const (
	maxModes = 128
	maxKitty = 16
	maxTitle = 1024 // bytes
	maxLink  = 2048 // bytes
	maxHeld  = 64   // bytes; the longest characters have about half of that
)

func newScreen(size Size) *screen {
	s := &screen{size: size, state: state{modes: map[int]bool{}}}
	s.start()
	return s
}

// start makes an empty emulator.
func (s *screen) start() {
	s.emu = vt.NewEmulator(s.size.Cols, s.size.Rows)
	s.emu.SetScrollbackSize(1)
	s.emu.RegisterCsiHandler('m', func(p ansi.Params) bool {
		uv.ReadStyle(p, &s.pen)
		return false
	})
	if answers, ok := s.emu.InputPipe().(io.Closer); ok {
		_ = answers.Close() // it would wait for ever for somebody to read one
	}
}

func (s *screen) resize(size Size) {
	s.flush()
	defer s.mend()
	at, pending := s.emu.CursorPosition(), s.wrap
	pending = pending && size.Cols > s.size.Cols
	s.size, s.top, s.bottom, s.wrap = size, 0, 0, false
	s.emu.Resize(size.Cols, size.Rows)
	for y := range size.Rows {
		s.setRow(y, s.row(y))
	}
	if s.alt {
		s.hidden = fit(s.hidden, size)
	}
	if pending { // the next column is there now
		s.put(at.X+1, min(at.Y, size.Rows-1))
	}
}

// write feeds whole pieces and returns what the terminal answers. lost says that output before b is missing, which may have ended
// styles and links.
func (s *screen) write(b []byte, lost bool) (answers []byte) {
	if lost {
		s.take(csi, []byte("\x1b[m"))
		s.take(osc, []byte("\x1b]8;;\x07"))
	}
	for len(b) > 0 {
		k, n := piece(b, 0)
		if k == partial {
			break // never of a splitter
		}
		answers = append(answers, s.take(k, b[:n])...)
		b = b[n:]
	}
	return answers
}

// mend, deferred, makes a fault of the emulator cost the picture and nothing else.
func (s *screen) mend() {
	if recover() == nil {
		return
	}
	old := s.state
	s.held, s.wrap, s.last, s.state = nil, false, "", state{modes: map[int]bool{}}
	s.start()
	s.modes, s.title, s.kitty, s.keys, s.cursor = old.modes, old.title, old.kitty, old.keys, old.cursor
	if s.alternate(old.alt); !s.on(7) {
		s.feed("\x1b[?7l")
	}
	delete(s.modes, 6)
}

// take feeds one piece.
func (s *screen) take(k kind, p []byte) (answers []byte) {
	defer s.mend()
	if k == text {
		s.print(p)
		return nil
	}
	s.flush()
	if p[len(p)-1] != 'b' {
		s.last = "" // only what comes right after a character repeats it
	}
	if query(k, p) {
		return s.answer(k, p)
	}
	switch k {
	case escape:
		s.escape(p)
	case csi:
		s.csi(p)
	case osc:
		s.osc(p)
	}
	return nil
}

func (s *screen) feed(b string) { _, _ = s.emu.WriteString(b) }

// flush feeds the text that was held back.
func (s *screen) flush() {
	defer s.mend()
	b := s.held
	s.held = nil
	s.characters(b, false)
}

// print feeds text, but for the last character.
func (s *screen) print(p []byte) {
	b := p
	if len(s.held) > 0 {
		b = append(s.held, p...)
	}
	s.held = append([]byte(nil), s.characters(b, true)...)
}

// characters feeds text and control characters. It does what the emulator does wrong: characters of two cells at the end of a line,
// and those of none. If asked to, it returns the last character instead: a mark may follow.
func (s *screen) characters(b []byte, hold bool) (last []byte) {
	for len(b) > 0 {
		n := 0
		for n < len(b) && b[n] < utf8.RuneSelf {
			n++
		}
		if n > 0 && b[n-1] >= ' ' && (n < len(b) || hold) {
			n-- // a mark may follow
		}
		if n > 0 {
			s.ascii(b[:n])
			b = b[n:]
			continue
		}
		cluster, width := ansi.FirstGraphemeCluster(b, ansi.GraphemeWidth)
		if hold && len(cluster) == len(b) && len(b) < maxHeld {
			return b
		}
		if len(cluster) == 0 {
			return nil
		}
		b = b[len(cluster):]
		for len(cluster) > maxHeld { // marks without end
			_, n := utf8.DecodeLastRune(cluster)
			cluster = cluster[:len(cluster)-n]
		}
		s.cluster(strings.ToValidUTF8(string(cluster), "\ufffd"), width)
	}
	return nil
}

func (s *screen) ascii(b []byte) {
	for len(b) > 0 {
		n := 0
		for n < len(b) && b[n] >= ' ' && b[n] != 0x7f {
			n++
		}
		if n > 0 {
			s.run(b[:n])
			b = b[n:]
			continue
		}
		s.control(b[0])
		b = b[1:]
	}
}

// run feeds characters of one cell.
func (s *screen) run(b []byte) {
	if s.insert || s.size.Cols < 3 { // one at a time: where they go to is not told by where the cursor is afterwards
		for _, c := range b {
			s.cluster(string(rune(c)), 1)
		}
		return
	}
	if s.wrap {
		s.newline()
	}
	most := len(b) - 1
	_, _ = s.emu.Write(b[:most])
	before := s.emu.CursorPosition().X
	_, _ = s.emu.Write(b[most:])
	edge := s.size.Cols - 1
	s.wrap = s.on(7) && before == edge && s.emu.CursorPosition().X == edge
	s.last, s.wide = string(rune(b[most])), 1
}

func (s *screen) control(c byte) {
	s.last = ""
	switch c {
	case 0x0e, 0x0f:
		s.useG1(c == 0x0e)
		return
	case '\r':
		s.carriageReturn()
		return
	case '\b', '\n', '\v', '\f':
		s.wrap = false
	case 0x7f:
		return
	}
	_, _ = s.emu.Write([]byte{c})
	if s.lines && c >= '\n' && c <= '\f' {
		s.carriageReturn()
	}
}

func (s *screen) cluster(c string, width int) {
	if c == "\ufffd" {
		width = 1
	}
	if width < 1 || width > s.size.Cols {
		return
	}
	wraps := s.on(7)
	if s.wrap {
		s.newline()
	}
	x := s.emu.CursorPosition().X
	if width > 1 && x > s.size.Cols-width {
		if !wraps {
			return
		}
		s.newline()
		x = 0
	}
	if s.insert {
		s.shiftCells(width)
	}
	s.feed(c)
	s.last, s.wide, s.wrap = c, width, wraps && x == s.size.Cols-width
	if half := s.emu.CellAt(x+width, s.emu.CursorPosition().Y); width > 1 && half != nil && half.IsZero() {
		*half = uv.EmptyCell // of a wide character that begins under this one: the emulator leaves it
	}
}

func (s *screen) newline() {
	s.carriageReturn()
	s.feed("\x1bD")
}

// on reports whether a DEC private mode is set.
func (s *screen) on(mode int) bool {
	set, known := s.modes[mode]
	return set || !known && (mode == 7 || mode == 25)
}

// text is the screen as plain text.
func (s *screen) text() string {
	s.flush()
	var b strings.Builder
	for y := range s.size.Rows {
		blanks := 0
		for x := range s.size.Cols {
			c := s.emu.CellAt(x, y)
			switch {
			case c != nil && c.Width == 0 && c.Content == "": // the other half of a wide character
			case c == nil || c.Content == "" || c.Content == " ":
				blanks++
			default:
				b.WriteString(strings.Repeat(" ", blanks))
				b.WriteString(c.Content)
				blanks = 0
			}
		}
		if y+1 < s.size.Rows {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
