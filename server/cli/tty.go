package cli

import (
	"os"
	"sync"

	"golang.org/x/term"
)

// tty is the terminal a person sits at, and how it was when the command started.
type tty struct {
	fd int

	mu    sync.Mutex // guards the terminal's mode
	saved *term.State
	over  bool // the mode is not changed any more
}

func newTTY(f *os.File) *tty {
	t := &tty{fd: int(f.Fd())}
	t.saved, _ = term.GetState(t.fd)
	return t
}

// raw hands every key to the command as it is pressed.
func (t *tty) raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return nil
	}
	_, err := term.MakeRaw(t.fd)
	return err
}

// cooked gives back the mode of the start.
func (t *tty) cooked() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		_ = term.Restore(t.fd, t.saved)
	}
}

// restore is cooked for good.
func (t *tty) restore() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.cooked()
}

// guard is deferred in every goroutine that runs while the terminal may be raw: a panic would leave it so.
func (t *tty) guard() {
	if fault := recover(); fault != nil {
		t.restore()
		panic(fault)
	}
}

// size is the terminal's size, or the usual one if it has none.
func (t *tty) size() (cols, rows int) {
	cols, rows, err := term.GetSize(t.fd)
	if err != nil || cols < 1 || rows < 1 {
		return 80, 24
	}
	return min(cols, 1000), min(rows, 1000)
}
