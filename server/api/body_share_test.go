package api

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestLargeBodiesAreReceivedInTheOrderTheyCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		of := newShares(maxWorkedOn, 10*time.Second)
		first := &share{of: of}
		if err := first.receive(t.Context(), maxArriving); err != nil {
			t.Fatal(err)
		}
		order := make(chan int64, 3)
		for _, n := range []int64{maxArriving, freeBody + 1, freeBody + 2} { // the small ones would fit much earlier
			s := &share{of: of}
			go func() {
				if err := s.receive(t.Context(), n); err != nil {
					t.Error(err)
				}
				order <- n
				s.release()
			}()
			synctest.Wait()
		}
		if len(order) != 0 {
			t.Errorf("admitted beyond the limit: %d", <-order)
		}
		first.release()
		synctest.Wait()
		if n := <-order; len(order) != 2 || n != maxArriving {
			t.Errorf("%d was admitted first, %d after it", n, len(order))
		}
	})
}

func TestWaitingForRoomEndsWithTheTimeoutOrTheClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		of := newShares(maxWorkedOn, 10*time.Second)
		holder := &share{of: of}
		if err := errors.Join(holder.receive(t.Context(), 1<<20), holder.work(t.Context(), maxWorkedOn)); err != nil {
			t.Fatal(err)
		}
		holder.received()
		begun := time.Now()
		err := (&share{of: of}).work(t.Context(), freeBody+1)
		if p := toProblem(err); p.status != 503 || p.code != codeBusy || p.retryAfter == 0 || time.Since(begun) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		gone, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- (&share{of: of}).work(gone, maxWorkedOn) }()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left got %v", err)
		}
		holder.release()
		holder.release()
		for _, n := range []int64{maxWorkedOn, 1} {
			s := &share{of: of}
			if err := errors.Join(s.receive(t.Context(), maxArriving), s.work(t.Context(), n)); err != nil {
				t.Errorf("nobody holds anything: %v", err)
			}
			s.release()
		}
	})
}

func TestEveryLimitOfABodyFitsIntoItsRoom(t *testing.T) {
	t.Parallel()
	limits := []int64{defaultBodyLimit}
	for _, n := range bodyLimits {
		limits = append(limits, n)
	}
	if largest := slices.Max(limits); largest > maxWorkedOn || largest > maxArriving {
		t.Errorf("a body of %d bytes could never be admitted", largest)
	}
}
