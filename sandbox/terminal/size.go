package terminal

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// nudgeGap is how long a program gets to see a size before it gets another one: two changes at once cancel each other out.
const nudgeGap = 300 * time.Millisecond

// sizes is how large the clients want the terminal to be, and how large it is: as the smallest of them, which is kept when the
// last one leaves.
type sizes struct {
	mu      sync.Mutex // guards the fields below; taken before view.mu
	now     Size
	wanted  map[*Client]Size
	nudging bool // the program sees one column less

	wish chan struct{} // a token: the program is to paint everything again
}

func (s *sizes) init(now Size) {
	s.now, s.wanted, s.wish = now, map[*Client]Size{}, make(chan struct{}, 1)
}

func (s *sizes) get() Size {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// request makes the program paint everything again, soon.
func (s *sizes) request() { signal(s.wish) }

// set reports whether the size of the terminal has changed.
func (s *sizes) set(t *Terminal, c *Client, size Size) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.left {
		return false
	}
	s.wanted[c] = size
	return s.apply(t)
}

func (s *sizes) leave(t *Terminal, c *Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.left = true
	delete(s.wanted, c)
	s.apply(t)
}

func (s *sizes) apply(t *Terminal) bool {
	want := Size{Cols: maxCells, Rows: maxCells}
	for _, w := range s.wanted {
		want = Size{Cols: min(want.Cols, w.Cols), Rows: min(want.Rows, w.Rows)}
	}
	if len(s.wanted) == 0 || want == s.now {
		return false
	}
	s.now = want
	t.view.resize(want)
	s.tell(t)
	return true
}

// tell sets the size the program sees. It is told of a change by the kernel.
func (s *sizes) tell(t *Terminal) {
	w := unix.Winsize{Col: uint16(s.now.Cols), Row: uint16(s.now.Rows)}
	switch {
	case s.nudging && w.Col > 1:
		w.Col--
	case s.nudging:
		w.Col++
	}
	conn, err := t.pty.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &w) })
}

// nudge makes the program paint everything again when it is wished: by a change of the size and back.
func (t *Terminal) nudge() {
	for {
		select {
		case <-t.size.wish:
		case <-t.gone:
			return
		}
		for _, on := range []bool{true, false} {
			t.size.mu.Lock()
			t.size.nudging = on
			t.size.tell(t)
			t.size.mu.Unlock()
			gap := time.NewTimer(nudgeGap)
			select {
			case <-gap.C:
			case <-t.gone:
				gap.Stop()
				return
			}
		}
	}
}
