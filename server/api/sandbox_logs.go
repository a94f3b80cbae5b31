package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

const defaultTailLines = 1000

func (h sessions) GetSandboxLogs(ctx context.Context, r gen.GetSandboxLogsRequestObject) (gen.GetSandboxLogsResponseObject, error) {
	o := session.LogOptions{Tail: defaultTailLines, Follow: r.Params.Follow != nil && *r.Params.Follow}
	if n := r.Params.TailLines; n != nil {
		o.Tail = int(*n)
	}
	if n := r.Params.SinceSeconds; n != nil {
		o.Since = time.Duration(*n) * time.Second
	}
	log, err := h.sessions.Logs(ctx, r.SessionID, o)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	return logAnswer{ctx: ctx, log: log, timeout: h.writeTimeout}, nil
}

// logAnswer is a log as text, for as long as there is more of it and the client reads. It owns the log and the request's context,
// for it is written after the handler has returned.
type logAnswer struct {
	ctx     context.Context
	log     io.ReadCloser
	timeout time.Duration // of one write
}

// VisitGetSandboxLogsResponse writes the log. Once it has begun, an error can only end it.
func (a logAnswer) VisitGetSandboxLogsResponse(w http.ResponseWriter) error {
	defer func() { _ = a.log.Close() }()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for n := 0; ; {
		err := rc.SetWriteDeadline(time.Now().Add(a.timeout))
		if err == nil {
			_, err = w.Write(buf[:n])
		}
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			return nil // the reader is gone or too slow
		}
		if n, err = a.log.Read(buf); errors.Is(err, io.EOF) || err != nil && a.ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
	}
}
