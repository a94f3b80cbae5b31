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

// Check returns nil for an answer 2xx. Any other it reads, closes and returns as *StatusError.
func Check(res *http.Response) error {
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	e := &StatusError{Status: res.StatusCode}
	if body, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody)); err != nil || json.Unmarshal(body, &e.Answer) != nil {
		e.Answer = Error{}
	}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}
