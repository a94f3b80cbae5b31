package terminal

import "fmt"

// Model is a screen for tests.
type Model struct {
	s     *screen
	split splitter
}

// NewModel is an empty one.
func NewModel(size Size) *Model { return &Model{s: newScreen(size)} }

// Write feeds any output and returns what a terminal answers, and what clients see of it.
func (m *Model) Write(b []byte) (answers, shown []byte) {
	all, shown := m.split.split(b)
	return m.s.write(all, false), shown
}

// Resize is what a change of the size does.
func (m *Model) Resize(size Size) { m.s.resize(size) }

// Repaint is what a client gets.
func (m *Model) Repaint() []byte { return m.s.repaint() }

// Feed gives the emulator what a screen keeps from it.
func (m *Model) Feed(b string) { m.s.feed(b) }

// Break makes the emulator fail.
func (m *Model) Break() { m.s.emu = nil }

// Text is the screen.
func (m *Model) Text() string { return m.s.text() }

// Dump is everything a client could see: the cells with their styles and links, and what else is known of the terminal.
func (m *Model) Dump() []string {
	m.s.flush()
	var all []string
	for y := range m.s.size.Rows {
		for x := range m.s.size.Cols {
			c := m.s.emu.CellAt(x, y)
			if c == nil || c.IsZero() {
				all = append(all, fmt.Sprintf("%d,%d:  ", y, x))
				continue
			}
			all = append(all, fmt.Sprintf("%d,%d: %s %d %s%v", y, x, c.Content, c.Width, c.Style.String(), c.Link))
		}
	}
	st := m.s.state
	at := m.s.emu.CursorPosition()
	pen := st.pen
	for y, row := range st.hidden {
		all = append(all, fmt.Sprintf("hidden %d: %q", y, row.Render()))
	}
	return append(all, fmt.Sprintf("cursor %v alt %v title %q kitty %v keys %d style %d region %d-%d keypad %v insert %v,%v link %q sets %q shift %v pen %q modes %s",
		at, st.alt, st.title, st.kitty, st.keys, st.cursor, st.top, st.bottom, st.keypad, st.insert, st.lines, st.link, st.sets, st.shift, pen.String(), m.s.modeList()))
}

func (s *screen) modeList() string {
	list := ""
	for mode := range 10_000 {
		if mode != 2026 && s.on(mode) {
			list += fmt.Sprintf(" %d", mode)
		}
	}
	return list
}

// Limits of what waits for a client, and of a string.
const (
	ClientMost = clientMost
	MaxString  = maxString
)

// Offline is a terminal without a program: its output is what a test publishes, and its model sees it when the test says so.
func Offline() *Terminal {
	t := &Terminal{input: make(chan input, inputItems)}
	t.out.init()
	t.view.init(DefaultSize)
	t.size.init(DefaultSize)
	return t
}

// Publish is what the goroutine that reads does.
func (t *Terminal) Publish(b string) {
	var split splitter
	t.out.publish(split.split([]byte(b)))
}

// Dump is that of the model, once it is up to date.
func (t *Terminal) Dump() []string {
	for t.catchUp() {
	}
	return (&Model{s: t.view.screen}).Dump()
}

// Full reports whether publishing n bytes would wait for a client.
func (t *Terminal) Full(n int) bool {
	t.out.mu.Lock()
	defer t.out.mu.Unlock()
	return t.out.full(n)
}

// BacklogMost bounds what waits for the model.
const BacklogMost = backlogMost
