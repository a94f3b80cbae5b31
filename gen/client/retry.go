package client

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/bits"
	mathrand "math/rand/v2"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	firstPause   = 250 * time.Millisecond
	maxPause     = 8 * time.Second
	quietTimeout = 45 * time.Second // of an event stream; a heartbeat comes every 15 s
	maxAnswer    = 64 << 20
	headerKey    = "Idempotency-Key"
)

// ErrForeign is that something else than LAP answers at the URL.
var ErrForeign = errors.New("the server's answer is not one of LAP")

var errTooLong = fmt.Errorf("the server's answer is longer than %d bytes", maxAnswer)

// sender is how the generated client sends requests. It returns answers that are no success as *StatusError, and others whole,
// except streams. A POST has an idempotency key, so that it can be sent again; a PATCH is sent again only if it surely had no effect.
type sender struct {
	quick, patient *http.Client
	auth           func(http.Header)
	retries        int
	longest        time.Duration // that is waited at the server's wish
}

// Do sends a request, again if that may help.
func (s *sender) Do(r *http.Request) (*http.Response, error) {
	s.auth(r.Header)
	if r.Method == http.MethodPost && r.Header.Get(headerKey) == "" {
		r.Header.Set(headerKey, rand.Text())
	}
	unsure := false // whether an answer was lost
	for try := 0; ; try++ {
		res, err := s.send(r)
		if err == nil {
			return res, nil
		}
		if unsure && deleted(r, err) {
			return &http.Response{Status: "204 No Content", StatusCode: http.StatusNoContent, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
		wait, ok := transient(err)
		unsure = unsure || mayHaveEffect(err)
		if !ok || try >= s.retries || wait > s.longest || !repeatable(r, unsure) {
			return nil, err
		}
		ctx := r.Context()
		wait += backoff(try)
		if end, limited := ctx.Deadline(); ctx.Err() != nil || limited && time.Until(end) < wait {
			return nil, err
		}
		if pause(ctx, wait) != nil {
			return nil, err
		}
		r = r.Clone(ctx)
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// backoff doubles from try to try, with jitter so that clients which failed together do not come back together.
func backoff(try int) time.Duration {
	d := maxPause
	if try < bits.Len64(uint64(maxPause/firstPause)) {
		d = min(d, firstPause<<try)
	}
	return d/2 + mathrand.N(d/2)
}

func (s *sender) send(r *http.Request) (*http.Response, error) {
	http1 := s.quick
	if strings.HasSuffix(r.URL.Path, "/message") {
		http1 = s.patient // it is answered when the turn has ended
	}
	res, err := http1.Do(r)
	if err != nil {
		return nil, err
	}
	if err := Check(res); err != nil {
		return nil, err
	}
	switch media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); media {
	case "text/event-stream":
		body := res.Body
		res.Body = &watchedBody{ReadCloser: body, timer: time.AfterFunc(quietTimeout, func() { _ = body.Close() })}
		return res, nil
	case "text/plain": // the sandbox's log, which may go on
		return res, nil
	case "application/json", "application/yaml", "":
		return whole(res)
	}
	_ = res.Body.Close()
	return nil, ErrForeign
}

// whole reads an answer to its end, for one that breaks off is lost as well.
func whole(res *http.Response) (*http.Response, error) {
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the server's answer broke off: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errTooLong
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// watchedBody is a stream that is closed when nothing came for a while: the connection is dead, though nobody said so.
type watchedBody struct {
	io.ReadCloser
	timer *time.Timer
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		b.timer.Reset(quietTimeout)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}

// transient tells whether an error may go away by itself, and not before when. An answer of the API is transient if it says when to
// come again, that of a proxy if it is one of those that are given for a server which is away.
func transient(err error) (notBefore time.Duration, _ bool) {
	var certificate *tls.CertificateVerificationError
	var status *StatusError
	switch {
	case errors.Is(err, ErrForeign), errors.Is(err, errTooLong), errors.Is(err, bufio.ErrTooLong), errors.As(err, &certificate):
		return 0, false
	case !errors.As(err, &status):
		return 0, true
	}
	switch status.Status {
	case http.StatusTooManyRequests:
		return status.RetryAfter, true
	case http.StatusServiceUnavailable:
		return status.RetryAfter, status.RetryAfter > 0 || status.Answer.Code == ""
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return status.RetryAfter, status.Answer.Code == ""
	}
	return 0, false
}

// mayHaveEffect tells whether the server may have done what it was asked, though this is what came back.
func mayHaveEffect(err error) bool {
	var status *StatusError
	var op *net.OpError
	switch {
	case errors.As(err, &status):
		return status.Answer.Code == ""
	case errors.As(err, &op):
		return op.Op != "dial"
	}
	return true
}

func repeatable(r *http.Request, unsure bool) bool {
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return false
	}
	return !unsure || r.Method != http.MethodPatch
}

// deleted tells whether an error means that a delete, whose answer was lost, was done.
func deleted(r *http.Request, err error) bool {
	return r.Method == http.MethodDelete && errors.Is(err, CodeNotFound) && !strings.HasSuffix(r.URL.Path, "/skill")
}
