package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/litellm-agent-platform/lap/store"
)

const (
	headerKey      = "Idempotency-Key"
	headerReplayed = "Idempotency-Replayed"
)

// doesOnce tells whether a key makes an operation happen once. Where messages are sent it names the turn instead.
func doesOnce(operationID string) bool {
	return operationID != "sendMessage" && operationID != "streamMessage"
}

// waits tells whether an operation waits for something after its transaction, so that its handler calls Once itself.
func waits(operationID string) bool { return operationID == "abortTurn" }

// keyOf returns the key that makes a request happen once; empty if it has none, or one that validation will refuse.
func (op *operation) keyOf(r *http.Request) string {
	values := r.Header.Values(headerKey)
	if op.key == nil || len(values) != 1 || op.key.VisitJSON(values[0]) != nil {
		return ""
	}
	return values[0]
}

// onceRequest is what repeats of a request have in common. The body is hashed, so that it need not be kept as it came.
func onceRequest(r *http.Request, key string, body []byte) store.Request {
	sum := sha256.Sum256(body)
	return store.Request{Scope: r.Method + " " + r.URL.EscapedPath(), Key: key, Body: sum[:]}
}

type onceRequestKey struct{}

// pendingOnce returns what the handler of an operation that waits shall do once; ok is false for a request without a key.
func pendingOnce(ctx context.Context) (r store.Request, ok bool) {
	r, ok = ctx.Value(onceRequestKey{}).(store.Request)
	return r, ok
}

// once answers a request with what work answers to the first one with its key. Nothing is sent before it is committed.
func once(st *store.Store, c echo.Context, r store.Request, work func() error) error {
	answer, replayed, err := st.Once(c.Request().Context(), r, func(ctx context.Context) (store.Answer, error) {
		return record(ctx, c, work)
	})
	if err != nil {
		return err
	}
	h := c.Response().Header()
	for name, value := range answer.Header {
		h.Set(name, value)
	}
	if replayed {
		h.Set(headerReplayed, "true")
	}
	c.Response().WriteHeader(answer.Status)
	_, _ = c.Response().Write(answer.Body) // fails only if the client is gone
	return nil
}

// record runs work under ctx and returns its answer, or its error where the answer to that is not to be stored.
func record(ctx context.Context, c echo.Context, work func() error) (store.Answer, error) {
	request, response, rec := c.Request(), c.Response(), &recorder{header: http.Header{}}
	defer func() {
		c.SetRequest(request)
		c.SetResponse(response)
	}()
	c.SetRequest(request.WithContext(ctx))
	c.SetResponse(echo.NewResponse(rec, c.Echo()))
	if err := work(); err != nil {
		if !lasts(toProblem(err).status) {
			return store.Answer{}, err
		}
		_ = writeError(c, err)
	}
	if !lasts(rec.status) {
		return store.Answer{}, fmt.Errorf("a handler answered %d and returned no error", rec.status)
	}
	answer := store.Answer{Status: rec.status, Header: map[string]string{}, Body: rec.body.Bytes()}
	for name := range rec.header {
		answer.Header[name] = rec.header.Get(name)
	}
	return answer, nil
}

// lasts tells whether a repeat would be answered with this status too, so that the answer is stored.
func lasts(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return false
	}
	return 200 <= status && status < 500
}

// recorder keeps an answer instead of sending it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
