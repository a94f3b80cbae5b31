package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const maxErrorBody = 1 << 20

// StatusError is an answer that is not a success.
type StatusError struct {
	Status     int           // of HTTP
	Answer     Error         // what the server said; Answer.Code is empty if it was not the API that answered
	RetryAfter time.Duration // 0: the answer does not say
	Location   string        // of the turn that failed, where the answer is about one
}

// Error says what the server said: its sentence, then each violation.
func (e *StatusError) Error() string {
	if e.Answer.Code == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	}
	var b strings.Builder
	b.WriteString(e.Answer.Error)
	for _, d := range e.Answer.Details {
		fmt.Fprintf(&b, "; %s: %s", d.Field, d.Message)
	}
	return b.String()
}

// Is matches the Code of the error: errors.Is(err, client.CodeNotFound).
func (e *StatusError) Is(target error) bool {
	code, ok := target.(Code)
	return ok && string(code) == e.Answer.Code
}

// Code is the stable name of an error of the API. There may be others: treat those by their status.
type Code string

// Error makes a Code a target of errors.Is.
func (c Code) Error() string { return string(c) }

// The codes of errors that a client may want to tell apart. The specification says what each means.
const (
	CodeDatabaseUnavailable   Code = "database_unavailable"
	CodeGatewayNotConfigured  Code = "gateway_not_configured"
	CodeHarnessHasNoTerminal  Code = "harness_has_no_terminal"
	CodeHarnessIsTUI          Code = "harness_is_tui"
	CodeHarnessNotAvailable   Code = "harness_not_available"
	CodeIdempotencyKeyReused  Code = "idempotency_key_reused"
	CodeInternal              Code = "internal"
	CodeInvalidJSON           Code = "invalid_json"
	CodeInvalidRequest        Code = "invalid_request"
	CodeMethodNotAllowed      Code = "method_not_allowed"
	CodeNotFound              Code = "not_found"
	CodeOriginNotAllowed      Code = "origin_not_allowed"
	CodePayloadTooLarge       Code = "payload_too_large"
	CodePreconditionFailed    Code = "precondition_failed"
	CodeSandboxNotAnswering   Code = "sandbox_not_answering"
	CodeSandboxNotFound       Code = "sandbox_not_found"
	CodeServerBusy            Code = "server_busy"
	CodeSessionExpired        Code = "session_expired"
	CodeSessionNotReady       Code = "session_not_ready"
	CodeSessionNotRestartable Code = "session_not_restartable"
	CodeSessionRateExceeded   Code = "session_rate_exceeded"
	CodeShuttingDown          Code = "shutting_down"
	CodeTooManyQueuedTurns    Code = "too_many_queued_turns"
	CodeTooManySessions       Code = "too_many_sessions"
	CodeTurnInterrupted       Code = "turn_interrupted"
	CodeUnauthorized          Code = "unauthorized"
	CodeUnsupportedMediaType  Code = "unsupported_media_type"
	CodeUpgradeRequired       Code = "upgrade_required"
)

// Check returns nil for an answer 2xx. Any other it reads, closes and returns as *StatusError.
func Check(res *http.Response) error {
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	e := &StatusError{Status: res.StatusCode, RetryAfter: retryAfter(res.Header), Location: res.Header.Get("Location")}
	if body, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody)); err != nil || json.Unmarshal(body, &e.Answer) != nil {
		e.Answer = Error{}
	}
	return e
}

// retryAfter reads both forms of the header: seconds, and a time.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// Decode reads an answer of the generated methods that return one, such as GetAgent, to its end. Of 204 it is the zero T.
func Decode[T any](res *http.Response, err error) (T, error) {
	var v T
	if err != nil {
		return v, err
	}
	if err := Check(res); err != nil {
		return v, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNoContent {
		return v, nil
	}
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return v, nil
}
