package store

import (
	"context"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"
)

const (
	// batchUnits and batchTime bound what is committed together, and so how long the first of it waits.
	batchUnits = 16
	batchTime  = 5 * time.Millisecond

	batchSavepoint = "lap_batch"
)

// writer lets units of work use SQLite's one writing transaction by turns: when one has ended and others wait, the next goes on in
// the same transaction, above a savepoint, and one commit, which costs more than most units do, is for all of them. No unit is told
// that it has succeeded, nor is anybody told of it, before that.
type writer struct {
	publish func([]Change)
	within  time.Duration // a unit may join a transaction that is no older

	mu      sync.Mutex // guards the rest
	busy    bool       // somebody has the turn
	waiting []*waiter
}

// waiter is a unit of work whose turn has not come.
type waiter struct {
	turn  chan *batch // buffered 1: gets the open transaction, or nil if it is to begin one
	alone bool        // it may take long: what was done before it is committed first
}

// batch is one transaction. Who has the turn may use it.
type batch struct {
	tx      *gorm.DB
	begun   time.Time
	units   int      // that are to be kept
	touched []Change // by them
	broken  bool     // what it holds is unknown
	done    chan struct{}
	err     error // of the commit; set before done is closed
}

// join waits for the turn of a unit of work. It ends with leave.
func (w *writer) join(ctx context.Context, db *gorm.DB, alone bool) (*batch, error) {
	b, err := w.wait(ctx, alone)
	if err != nil {
		return nil, err
	}
	if b == nil {
		// Each unit has a context of its own: the end of one must not undo what another did.
		tx := db.WithContext(context.WithoutCancel(ctx)).Begin()
		if tx.Error != nil {
			w.pass(nil)
			return nil, tx.Error
		}
		return &batch{tx: tx, begun: time.Now(), done: make(chan struct{})}, nil
	}
	if err := b.tx.Exec("SAVEPOINT " + batchSavepoint).Error; err != nil {
		b.broken = true
		w.pass(b)
		return nil, err
	}
	return b, nil
}

func (w *writer) wait(ctx context.Context, alone bool) (*batch, error) {
	w.mu.Lock()
	if !w.busy {
		w.busy = true
		w.mu.Unlock()
		return nil, nil
	}
	me := &waiter{make(chan *batch, 1), alone}
	w.waiting = append(w.waiting, me)
	w.mu.Unlock()
	select {
	case b := <-me.turn:
		return b, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	i := slices.Index(w.waiting, me)
	if i >= 0 {
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
	w.mu.Unlock()
	if i < 0 { // the turn has come meanwhile
		w.pass(<-me.turn)
	}
	return nil, ctx.Err()
}

// leave ends a unit of work. With keep it returns when all is committed; an error then means that it may not be.
func (w *writer) leave(b *batch, keep bool, touched []Change) error {
	if err := b.close(keep); err != nil {
		// SQLite has ended the transaction by itself, as it does when the disk is full: what came next was committed at once.
		b.broken = true
	}
	if keep {
		b.units++
		b.touched = append(b.touched, touched...)
	}
	w.pass(b)
	if !keep {
		return nil
	}
	<-b.done
	return b.err
}

// close keeps what a unit did, or undoes it. The first one has no savepoint: without it the transaction is nothing.
func (b *batch) close(keep bool) error {
	if b.units == 0 {
		b.broken = b.broken || !keep
		return nil
	}
	if !keep {
		if err := b.tx.Exec("ROLLBACK TO SAVEPOINT " + batchSavepoint).Error; err != nil {
			return err
		}
	}
	return b.tx.Exec("RELEASE SAVEPOINT " + batchSavepoint).Error
}

// pass gives the turn to the next unit, with the transaction if that may go on. Else it ends.
func (w *writer) pass(b *batch) {
	w.mu.Lock()
	if b != nil && !b.broken && len(w.waiting) > 0 && !w.waiting[0].alone && b.units < batchUnits && time.Since(b.begun) < w.within {
		w.next(b)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	if b != nil {
		b.end()
	}
	w.mu.Lock()
	w.next(nil)
	w.mu.Unlock()
	if b != nil {
		// A commit whose answer got lost may have taken effect: subscribers look.
		w.publish(merged(b.touched))
		close(b.done)
	}
}

// next wakes who waits longest; w.mu is held.
func (w *writer) next(b *batch) {
	w.busy = len(w.waiting) > 0
	if w.busy {
		w.waiting[0].turn <- b
		w.waiting = slices.Delete(w.waiting, 0, 1)
	}
}

// end commits, or undoes everything if nobody can say what there is.
func (b *batch) end() {
	if b.broken {
		b.tx.Rollback()
		b.err = errBroken
	} else {
		b.err = b.tx.Commit().Error
	}
}
