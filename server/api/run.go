package api

import (
	"context"
	"time"
)

// run is a request from its beginning to the end of its answer, which may outlive the handler.
type run struct {
	id      string
	began   time.Time
	chunked bool             // an answer without a length is sent in chunks
	later   chan func(error) // not nil: the answer outlives the handler; gets what concludes it
}

type runKey struct{}

// runOf is the run of the request that ctx belongs to.
func runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{}).(*run)
	return r
}

// requestID is the id of the request that ctx belongs to.
func requestID(ctx context.Context) string {
	if r := runOf(ctx); r != nil {
		return r.id
	}
	return ""
}

// outlive is called by a handler, the last thing it does, whose answer goes on after it. Then conclude has to be called.
func (r *run) outlive() { r.later = make(chan func(error), 1) }

// conclude counts and logs a request that outlived its handler; fault is what went wrong in the server, if anything did.
func (r *run) conclude(fault error) { (<-r.later)(fault) }
