package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
)

// readBody returns the body as it came, when there is room to work on it: who waits for that must hold no transaction.
func (op *operation) readBody(c echo.Context, timeout time.Duration) ([]byte, error) {
	r := c.Request()
	types := r.Header.Values("Content-Type")
	if op.body != nil && len(types) > 0 && !isJSON(types) {
		return nil, unsupportedMedia(true)
	}
	if r.ContentLength > op.limit {
		return nil, op.tooLarge()
	}
	data, err := op.readAll(c, timeout)
	switch {
	case err != nil:
		return nil, err
	case op.body != nil && len(data) > 0 && len(types) == 0:
		return nil, unsupportedMedia(false)
	}
	return data, shareOf(r.Context()).work(r.Context(), int64(len(data)))
}

// decodeBody returns the decoded body; ok is false if there is none and none is needed.
func (op *operation) decodeBody(c echo.Context, data []byte) (body any, ok bool, err error) {
	if len(data) == 0 {
		if op.required {
			err = badJSON("", "the body is empty")
		}
		return nil, false, err
	}
	body, err = decodeJSON(data)
	shareOf(c.Request().Context()).received()
	return body, err == nil, err
}

// readAll reads the body when there is room for it. How large one without a length is shows when its free part has been read.
func (op *operation) readAll(c echo.Context, timeout time.Duration) ([]byte, error) {
	r := c.Request()
	share := shareOf(r.Context())
	var buf bytes.Buffer
	body := http.MaxBytesReader(c.Response(), r.Body, op.limit)
	if r.ContentLength > 0 {
		if err := share.receive(r.Context(), r.ContentLength); err != nil {
			return nil, err
		}
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	// This fails only where there is no connection, as in benchmarks. net/http takes the deadline away when the body has ended.
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Now().Add(timeout))
	if r.ContentLength < 0 {
		if n, err := buf.ReadFrom(io.LimitReader(body, freeBody)); err != nil || n < freeBody {
			return buf.Bytes(), op.bodyError(err)
		}
		if err := share.receive(r.Context(), op.limit); err != nil {
			return nil, err
		}
	}
	_, err := buf.ReadFrom(body)
	return buf.Bytes(), op.bodyError(err)
}

func (op *operation) bodyError(err error) error {
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return op.tooLarge()
	default: // too slow, ill-formed, or the client is gone, which then does not see the answer
		return &problem{status: http.StatusBadRequest, code: codeInvalidRequest, text: "the body did not arrive whole", unread: true}
	}
}

func (op *operation) tooLarge() error {
	return &problem{status: http.StatusRequestEntityTooLarge, code: codeTooLarge, unread: true,
		text: fmt.Sprintf("body is larger than %d bytes", op.limit)}
}

func unsupportedMedia(unread bool) error {
	return &problem{status: http.StatusUnsupportedMediaType, code: codeUnsupportedMedia,
		text: "Content-Type must be application/json", unread: unread}
}

func isJSON(types []string) bool {
	if len(types) != 1 {
		return false
	}
	media, params, err := mime.ParseMediaType(types[0])
	charset := params["charset"]
	return err == nil && media == "application/json" && (charset == "" || strings.EqualFold(charset, "utf-8"))
}
