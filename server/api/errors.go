package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// Stable error codes, as the OpenAPI document lists them.
const (
	codeInvalidJSON        = "invalid_json"
	codeInvalidRequest     = "invalid_request"
	codeUnauthorized       = "unauthorized"
	codeNotFound           = "not_found"
	codeMethodNotAllowed   = "method_not_allowed"
	codeTooLarge           = "payload_too_large"
	codeUnsupportedMedia   = "unsupported_media_type"
	codeSessionNotReady    = session.TurnNotReady
	codeTurnInterrupted    = session.TurnInterrupted
	codeHarnessIsTUI       = "harness_is_tui"
	codeTooManyTurns       = "too_many_queued_turns"
	codeKeyReused          = "idempotency_key_reused"
	codePrecondition       = "precondition_failed"
	codeBusy               = "server_busy"
	codeNoGateway          = "gateway_not_configured"
	codeHarnessUnavailable = "harness_not_available"
	codeDatabase           = "database_unavailable"
	codeNotRestartable     = "session_not_restartable"
	codeExpired            = "session_expired"
	codeCapacity           = "too_many_sessions"
	codeRate               = "session_rate_exceeded"
	codeNoSandbox          = "sandbox_not_found"
	codeNoTerminal         = "harness_has_no_terminal"
	codeUnreachable        = "sandbox_not_answering"
	codeOrigin             = "origin_not_allowed"
	codeUpgrade            = "upgrade_required"
	codeShuttingDown       = "shutting_down"
	codeInternal           = "internal"
)

// statusClientGone is logged for a request whose client did not wait for the answer. It is never sent.
const statusClientGone = 499

// problem is an answer other than success. Handlers return it, or an error that toProblem knows.
type problem struct {
	status     int
	code       string
	text       string // one sentence; never holds what the caller sent, but ids
	details    []gen.ErrorDetail
	retryAfter int    // seconds, 0: unknown
	location   string // of the turn the problem is about
	replayOf   string // id of the earlier request that was answered so; empty: there was none
	unread     bool   // the body was not read, so the connection cannot be used again
	cause      error  // for the log only
}

func (p *problem) Error() string { return p.code + ": " + p.text }

func (p *problem) Unwrap() error { return p.cause }

func agentNotFound(id string) error {
	return &problem{status: http.StatusNotFound, code: codeNotFound, text: fmt.Sprintf("agent '%s' not found", showID(id))}
}

func sessionNotFound(id string) error {
	return &problem{status: http.StatusNotFound, code: codeNotFound, text: fmt.Sprintf("session %s not found", showID(id))}
}

func turnNotFound(id string) error {
	return &problem{status: http.StatusNotFound, code: codeNotFound, text: fmt.Sprintf("turn %s not found", showID(id))}
}

func skillNotFound(id string) error {
	return &problem{status: http.StatusNotFound, code: codeNotFound, text: fmt.Sprintf("skill '%s' not found", showID(id))}
}

// showID returns an id as it may stand in an error: only if it looks like one.
func showID(id string) string {
	if isToken(id, 64) {
		return id
	}
	return "…"
}

// orNotFound turns a store's "no such row" into the given answer.
func orNotFound(err, notFound error) error {
	if errors.Is(err, store.ErrNotFound) {
		return notFound
	}
	return err
}

func invalid(details []gen.ErrorDetail) error {
	text := "request is invalid"
	if n := len(details); n > maxDetails {
		text += fmt.Sprintf("; the first %d of %d violations are listed", maxDetails, n)
		details = details[:maxDetails]
	}
	return &problem{status: http.StatusBadRequest, code: codeInvalidRequest, text: text, details: details}
}

// refusals are the errors of the packages below that have an answer of their own.
var refusals = []struct {
	err    error
	answer problem
}{
	{session.ErrEnded, problem{status: http.StatusNotFound, code: codeSessionNotReady, text: session.ErrEnded.Error()}},
	{session.ErrTUI, problem{status: http.StatusConflict, code: codeHarnessIsTUI, text: session.ErrTUI.Error()}},
	{session.ErrQueueFull, problem{status: http.StatusTooManyRequests, code: codeTooManyTurns, text: session.ErrQueueFull.Error(), retryAfter: 5}},
	{store.ErrKeyReused, problem{status: http.StatusUnprocessableEntity, code: codeKeyReused, text: store.ErrKeyReused.Error()}},
	{session.ErrNoGateway, problem{status: http.StatusServiceUnavailable, code: codeNoGateway, text: session.ErrNoGateway.Error()}},
	{session.ErrHarness, problem{status: http.StatusServiceUnavailable, code: codeHarnessUnavailable, text: session.ErrHarness.Error()}},
	{session.ErrRestart, problem{status: http.StatusConflict, code: codeNotRestartable, text: session.ErrRestart.Error()}},
	{session.ErrExpired, problem{status: http.StatusConflict, code: codeExpired, text: session.ErrExpired.Error()}},
	{session.ErrNoSandbox, problem{status: http.StatusNotFound, code: codeNoSandbox, text: session.ErrNoSandbox.Error()}},
	{session.ErrNoTerminal, problem{status: http.StatusConflict, code: codeNoTerminal, text: session.ErrNoTerminal.Error()}},
	{session.ErrNotReady, problem{status: http.StatusConflict, code: codeSessionNotReady, text: session.ErrNotReady.Error()}},
	{session.ErrNotWoken, problem{status: http.StatusConflict, code: codeSessionNotReady, text: session.ErrNotWoken.Error()}},
	{session.ErrUnreachable, problem{status: http.StatusServiceUnavailable, code: codeUnreachable, text: session.ErrUnreachable.Error(), retryAfter: 1}},
	{session.ErrCapacity, problem{status: http.StatusServiceUnavailable, code: codeCapacity, text: session.ErrCapacity.Error(), retryAfter: 10}},
	{session.ErrRate, problem{status: http.StatusTooManyRequests, code: codeRate, text: session.ErrRate.Error()}},
	{session.ErrClosing, problem{status: http.StatusServiceUnavailable, code: codeShuttingDown, text: session.ErrClosing.Error(), retryAfter: 1}},
	{store.ErrUnavailable, problem{status: http.StatusServiceUnavailable, code: codeDatabase, text: "the database does not answer", retryAfter: 1}},
	{store.ErrNotFound, problem{status: http.StatusNotFound, code: codeNotFound, text: "not found"}},
	{echo.ErrNotFound, problem{status: http.StatusNotFound, code: codeNotFound, text: "no such path"}},
	{echo.ErrMethodNotAllowed, problem{status: http.StatusMethodNotAllowed, code: codeMethodNotAllowed, text: "this path does not have this method"}},
}

// toProblem finds the answer to an error. What it does not know is a fault of the server.
func toProblem(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			answer := r.answer
			answer.cause = err
			var rate *session.RateError
			if errors.As(err, &rate) {
				answer.retryAfter = int(math.Ceil(rate.After.Seconds()))
			}
			return &answer
		}
	}
	var he *echo.HTTPError
	if errors.As(err, &he) && he.Code == http.StatusBadRequest {
		return &problem{status: he.Code, code: codeInvalidRequest, text: "request is invalid", cause: err}
	}
	return &problem{status: http.StatusInternalServerError, code: codeInternal, text: "internal error", cause: err}
}

// writeError answers with an error, unless an answer has begun or nobody waits for one. It returns what it answered.
func writeError(c echo.Context, err error) *problem {
	if c.Request().Context().Err() != nil && errors.Is(err, context.Canceled) {
		return &problem{status: statusClientGone, cause: err}
	}
	p := toProblem(err)
	if c.Response().Committed {
		return p
	}
	h := c.Response().Header()
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case http.StatusUpgradeRequired:
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
	case http.StatusMethodNotAllowed:
		h.Set("Allow", strings.TrimPrefix(h.Get("Allow"), http.MethodOptions+", "))
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	if p.location != "" {
		h.Set("Location", p.location)
	}
	id := requestID(c.Request().Context())
	if p.replayOf != "" {
		h.Set(headerReplayed, "true")
		id = p.replayOf
	}
	if p.unread && c.Request().ContentLength != 0 {
		h.Set("Connection", "close")
	}
	details := p.details
	if details == nil {
		details = []gen.ErrorDetail{}
	}
	body, _ := json.Marshal(gen.Error{Error: p.text, Code: p.code, RequestID: id, Details: details})
	_ = c.Blob(p.status, "application/json", append(body, '\n')) // fails only if the client is gone
	return p
}
