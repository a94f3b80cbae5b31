package store

import (
	"context"
	"testing"
	"time"
)

// Of a turn that comes and a caller that goes at the same time either may be seen first.
func TestATurnThatComesWhenItsCallerGoesIsPassedOn(t *testing.T) {
	t.Parallel()
	w := &writer{publish: func([]Change) {}}
	for range 2000 {
		if b, err := w.wait(t.Context(), false); b != nil || err != nil {
			t.Fatal(b, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		waited := make(chan error, 1)
		go func() {
			_, err := w.wait(ctx, false)
			waited <- err
		}()
		for !func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.waiting) > 0 }() {
			time.Sleep(time.Microsecond)
		}
		go cancel()
		w.pass(nil)
		if <-waited == nil {
			w.pass(nil)
		}
		cancel()
		w.mu.Lock()
		busy, waiting := w.busy, len(w.waiting)
		w.mu.Unlock()
		if busy || waiting > 0 {
			t.Fatalf("busy %v, %d waiting", busy, waiting)
		}
	}
}
