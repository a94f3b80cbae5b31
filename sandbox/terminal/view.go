package terminal

import "sync"

// view is the model of the screen and who waits for it to change.
type view struct {
	mu     sync.Mutex // guards the fields below; taken before output.mu
	screen *screen
	change chan struct{} // closed at the next change
	over   bool
}

func (v *view) init(size Size) {
	v.screen, v.change = newScreen(size), make(chan struct{})
}

func (v *view) changedLocked() {
	close(v.change)
	v.change = make(chan struct{})
}

// watch returns a channel that is closed at the next change, and whether there will be none.
func (v *view) watch() (change <-chan struct{}, over bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.change, v.over
}

func (v *view) finish() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
}

func (v *view) resize(size Size) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.screen.resize(size)
	v.changedLocked()
}
