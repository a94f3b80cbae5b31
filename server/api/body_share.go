package api

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"
)

const (
	freeBody    = 64 << 10  // bytes of a body that cost no share; what such bodies hold is bounded by the number of connections
	maxArriving = 128 << 20 // bytes of larger bodies that are received at once
	maxWorkedOn = 32 << 20  // bytes of larger bodies that are decoded, checked and stored at once, which takes several times as much
	busyRetry   = 5         // seconds
)

// shares bounds the memory of large bodies. Those that find no room wait in the order they came. Receiving and working on bodies
// are bounded apart, so that clients who send slowly keep nobody else from the processor.
type shares struct {
	arriving, workedOn *semaphore.Weighted
	timeout            time.Duration // of waiting
}

func newShares(room int64, timeout time.Duration) *shares {
	return &shares{arriving: semaphore.NewWeighted(maxArriving), workedOn: semaphore.NewWeighted(room), timeout: timeout}
}

// share is what one request holds. A nil share is that of a request with a small body. It belongs to the request's goroutine.
type share struct {
	of                 *shares
	arriving, workedOn int64
}

type shareKey struct{}

// admit gives requests whose body may be large a share, which they fill as they go on, and takes it back at their end.
func (of *shares) admit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if 0 <= r.ContentLength && r.ContentLength <= freeBody {
			return next(c)
		}
		s := &share{of: of}
		defer s.release()
		c.SetRequest(r.WithContext(context.WithValue(r.Context(), shareKey{}, s)))
		return next(c)
	}
}

func shareOf(ctx context.Context) *share {
	s, _ := ctx.Value(shareKey{}).(*share)
	return s
}

// releaseBody ends the share of a request that is done with its body and waits for something else.
func releaseBody(ctx context.Context) { shareOf(ctx).release() }

// receive waits for room to receive n bytes.
func (s *share) receive(ctx context.Context, n int64) error {
	if s == nil || n <= freeBody {
		return nil
	}
	if err := s.of.wait(ctx, s.of.arriving, n); err != nil {
		return err
	}
	s.arriving = n
	return nil
}

// work waits for room to work on n bytes.
func (s *share) work(ctx context.Context, n int64) error {
	if s == nil || n <= freeBody {
		return nil
	}
	if err := s.of.wait(ctx, s.of.workedOn, n); err != nil {
		return err
	}
	s.workedOn = n
	return nil
}

// received tells that the bytes as they came are not needed any more.
func (s *share) received() {
	if s != nil {
		s.of.arriving.Release(s.arriving)
		s.arriving = 0
	}
}

func (s *share) release() {
	if s != nil {
		s.received()
		s.of.workedOn.Release(s.workedOn)
		s.workedOn = 0
	}
}

func (of *shares) wait(ctx context.Context, room *semaphore.Weighted, n int64) error {
	bound, cancel := context.WithTimeout(ctx, of.timeout)
	defer cancel()
	if room.Acquire(bound, n) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err // the client is gone
	}
	return &problem{status: http.StatusServiceUnavailable, code: codeBusy, unread: true, retryAfter: busyRetry,
		text: "the server is busy with other large bodies"}
}
