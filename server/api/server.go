package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// NewServer returns a server with bounds on everything a slow or greedy client could hold. It has no write timeout: streams set
// their own deadlines, replies to messages wait for turns, and every other answer gets one when it begins.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}

// boundAnswers drops clients that do not read their answer in time, which begins with its first byte: what a handler waits for
// does not count. net/http takes the deadline away when the answer has ended.
func boundAnswers(timeout time.Duration) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Response().Before(func() {
				// This fails only where there is no connection, as in benchmarks.
				_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(timeout))
			})
			return next(c)
		}
	}
}
