package harness

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	claudeRetries   = 7 // of one request to the gateway, which take about a minute
	claudeDenials   = 3 // times that the gateway may refuse the key
	claudeAPIFailed = "api_error"
)

// claudeResult is the line that ends what a message began.
type claudeResult struct {
	IsError   bool                   `json:"is_error"` // also with the subtype success
	Words     string                 `json:"result"`   // the answer, or what is wrong
	Errors    []string               `json:"errors"`
	Terminal  string                 `json:"terminal_reason"`
	APIStatus int                    `json:"api_error_status"`
	Usage     map[string]claudeUsage `json:"model_usage_since_last_result"` // of sub-agents, too
}

// claudeUsage is what a model used.
type claudeUsage struct {
	Input      int64   `json:"inputTokens"`
	Output     int64   `json:"outputTokens"`
	CacheRead  int64   `json:"cacheReadInputTokens"`
	CacheWrite int64   `json:"cacheCreationInputTokens"`
	Cost       float64 `json:"costUSD"`
}

// claudeSpending adds up what results say.
type claudeSpending struct {
	tokens sandboxd.Tokens
	cost   float64
}

func (s *claudeSpending) add(l *claudeLine) {
	for _, u := range l.Usage {
		s.tokens.Input += max(u.Input, 0)
		s.tokens.Output += max(u.Output, 0)
		s.tokens.CacheRead += max(u.CacheRead, 0)
		s.tokens.CacheWrite += max(u.CacheWrite, 0)
		s.cost += max(u.Cost, 0)
	}
}

// retry shows that claude will repeat a request to the gateway, and ends the turn if there is no sense in that.
func (t *claudeTurn) retry(l *claudeLine) {
	now := time.Now()
	next := now.Add(time.Duration(min(max(l.RetryDelay, 0), int64(24*time.Hour/time.Millisecond))) * time.Millisecond).UTC()
	words := "no whole answer came from the model gateway"
	if l.RetryStatus != 0 {
		words = fmt.Sprintf("the model gateway answered %d", l.RetryStatus)
	}
	if problem := t.run.words(l.RetryProblem); problem != "" && problem != "unknown" {
		words += " (" + problem + ")"
	}
	t.parts.abandon()
	t.emit("harness.event", retryEvent{"retry", l.Attempt, words, next})
	why := t.retries.spent(l.Attempt, now, next)
	if why == "" && l.RetryStatus == 401 && l.Attempt >= claudeDenials {
		why = "it does not accept the key"
	}
	if why != "" && !t.aborting {
		t.gaveUp = &sandboxd.TurnError{Name: gatewayFailed, Message: words + " (the model gateway is not waited for: " + why + ")"}
		t.abortOnce.Do(func() { close(t.abort) })
	}
}

// outcome judges by the result that came last.
func (t *claudeTurn) outcome() (string, *sandboxd.TurnError) {
	switch {
	case t.result != nil && !t.result.IsError && t.result.Terminal == "completed":
		return Completed, nil
	case t.gaveUp != nil:
		return Failed, t.gaveUp
	case t.aborting:
		return Aborted, &sandboxd.TurnError{Name: "MessageAbortedError", Message: "the turn was aborted"}
	case t.result == nil:
		return Failed, &sandboxd.TurnError{Name: "NoAnswer", Message: "claude ended the turn without an answer"}
	case !t.result.IsError:
		return Completed, nil
	}
	return Failed, t.run.turnError(t.result)
}

// claudePrefix is what claude puts before the gateway's own words.
var claudePrefix = regexp.MustCompile(`^((Failed to authenticate|Please run /login)[.·]? *)?API Error: *([0-9]{3} *)?`)

func (r *claudeRun) turnError(result *claudeResult) *sandboxd.TurnError {
	words := result.Words
	if words == "" {
		words = strings.Join(result.Errors, "; ")
	}
	message, name := r.words(claudePrefix.ReplaceAllString(words, "")), "HarnessError"
	if message == "" {
		message = "claude gave no reason"
	}
	switch {
	case result.APIStatus != 0:
		name, message = gatewayFailed, fmt.Sprintf("%s (the model gateway answered %d)", message, result.APIStatus)
	case result.Terminal == claudeAPIFailed:
		name, message = gatewayFailed, message+" (no whole answer came from the model gateway)"
	}
	return &sandboxd.TurnError{Name: name, Message: message}
}

// words is what somebody else said about a failure: its first line, without secrets, bounded.
func (r *claudeRun) words(s string) string {
	s = r.redact(firstLine(s))
	if len(s) > maxReason {
		s = s[:maxReason] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

// end is the result of the turn. What was used since the last one is its, too.
func (t *claudeTurn) end(failure *sandboxd.TurnError) sandboxd.TurnResult {
	r := t.run
	r.mu.Lock()
	spent := r.spent
	r.spent = claudeSpending{}
	r.mu.Unlock()
	return sandboxd.TurnResult{Parts: t.parts.finish(), Model: &t.model, Tokens: spent.tokens, Cost: spent.cost, Error: failure}
}
