package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const (
	anAgent  = `{"id":"a1"}`
	aSession = `{"id":"s1","status":"ready"}`
)

var (
	errReset = &net.OpError{Op: "read", Err: errors.New("connection reset")}
	errDial  = &net.OpError{Op: "dial", Err: errors.New("connection refused")}
)

func create(ctx context.Context, a *client.API) error {
	r, err := a.CreateAgentWithResponse(ctx, nil, client.AgentCreate{Model: "m"})
	if err == nil && r.JSON200.ID != "a1" {
		err = fmt.Errorf("agent %q", r.JSON200.ID)
	}
	return err
}

func change(ctx context.Context, a *client.API) error {
	_, err := a.UpdateAgentWithResponse(ctx, "a1", nil, client.AgentUpdate{})
	return err
}

func remove(ctx context.Context, a *client.API) error {
	_, err := a.DeleteAgentWithResponse(ctx, "a1", nil)
	return err
}

func TestWhatIsSentAgainAndWhatIsNot(t *testing.T) {
	t.Parallel()
	ok, gone := says(http.StatusOK, anAgent), refuses(http.StatusNotFound, "not_found")
	busy := refuses(http.StatusServiceUnavailable, "server_busy", "Retry-After", "1")
	for name, c := range map[string]struct {
		do       func(context.Context, *client.API) error
		answers  []answer
		requests int
		code     client.Code // of the error; "" none, "-" one without a code
	}{
		"a lost answer":                          {create, []answer{fails(errReset), ok}, 2, ""},
		"no connection":                          {create, []answer{fails(errDial), fails(errDial), ok}, 3, ""},
		"an answer that breaks off":              {create, []answer{breaksOff(`{"id":`, "application/json"), ok}, 2, ""},
		"busy":                                   {create, []answer{busy, busy, ok}, 3, ""},
		"rate":                                   {create, []answer{refuses(http.StatusTooManyRequests, "session_rate_exceeded", "Retry-After", "2"), ok}, 2, ""},
		"rate without a time":                    {create, []answer{refuses(http.StatusTooManyRequests, "too_many_queued_turns"), ok}, 2, ""},
		"a proxy without its server":             {create, []answer{says(http.StatusBadGateway, "<html>"), says(http.StatusServiceUnavailable, ""), ok}, 3, ""},
		"a turn that failed":                     {create, []answer{refuses(http.StatusBadGateway, "turn_interrupted")}, 1, client.CodeTurnInterrupted},
		"what does not pass":                     {create, []answer{refuses(http.StatusServiceUnavailable, "gateway_not_configured")}, 1, client.CodeGatewayNotConfigured},
		"a fault":                                {create, []answer{refuses(http.StatusInternalServerError, "internal")}, 1, client.CodeInternal},
		"bad input":                              {create, []answer{refuses(http.StatusBadRequest, "invalid_request")}, 1, client.CodeInvalidRequest},
		"too long to wait":                       {create, []answer{refuses(http.StatusServiceUnavailable, "too_many_sessions", "Retry-After", "61")}, 1, client.CodeTooManySessions},
		"never":                                  {create, []answer{busy}, 5, client.CodeServerBusy},
		"something else at the URL":              {create, []answer{says(http.StatusOK, "<html>", "Content-Type", "text/html")}, 1, "-"},
		"a change that was refused":              {change, []answer{busy, ok}, 2, ""},
		"a change that was not sent":             {change, []answer{fails(errDial), ok}, 2, ""},
		"a change that may be done":              {change, []answer{fails(errReset), ok}, 1, "-"},
		"a delete that was done":                 {remove, []answer{fails(errReset), gone}, 2, ""},
		"a delete of nothing":                    {remove, []answer{gone}, 1, client.CodeNotFound},
		"a delete of nothing, after no answer":   {remove, []answer{busy, gone}, 2, client.CodeNotFound},
		"a delete of nothing, with no way to it": {remove, []answer{fails(errDial), gone}, 2, client.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, w := api(t, client.Options{}, c.answers...)
				err := c.do(t.Context(), a)
				var status *client.StatusError
				switch {
				case c.code == "" && err != nil, c.code == "-" && (err == nil || errors.As(err, &status)), c.code != "" && c.code != "-" && !errors.Is(err, c.code):
					t.Errorf("error %v", err)
				}
				seen := w.requests()
				if len(seen) != c.requests {
					t.Errorf("%d requests, want %d", len(seen), c.requests)
				}
				for _, r := range seen {
					if r != seen[0] || (r.key == "") != (r.method != http.MethodPost) {
						t.Errorf("requests differ, or have no key: %+v", seen)
					}
				}
			})
		})
	}
}

func TestRetryAfterIsHonouredAndPausesGrow(t *testing.T) {
	t.Parallel()
	at := func(s int) string {
		return time.Now().Add(time.Duration(s) * time.Second).UTC().Format(http.TimeFormat)
	}
	for name, c := range map[string]struct {
		answer   func() answer
		min, max time.Duration // for four pauses
	}{
		"seconds":  {func() answer { return refuses(http.StatusServiceUnavailable, "shutting_down", "Retry-After", "7") }, 28 * time.Second, 32 * time.Second},
		"a time":   {func() answer { return refuses(http.StatusTooManyRequests, "x", "Retry-After", at(9)) }, 9 * time.Second, 13 * time.Second},
		"no time":  {func() answer { return refuses(http.StatusTooManyRequests, "x") }, 1875 * time.Millisecond, 3750 * time.Millisecond},
		"nonsense": {func() answer { return refuses(http.StatusTooManyRequests, "x", "Retry-After", "soon") }, 1875 * time.Millisecond, 3750 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, w := api(t, client.Options{}, c.answer())
				begun := time.Now()
				err := create(t.Context(), a)
				if took := time.Since(begun); err == nil || len(w.requests()) != 5 || took < c.min || took > c.max {
					t.Errorf("%d requests in %v: %v", len(w.requests()), took, err)
				}
			})
		})
	}
}

func TestTheContextEndsAWait(t *testing.T) {
	t.Parallel()
	busy := refuses(http.StatusServiceUnavailable, "server_busy", "Retry-After", "30")
	synctest.Test(t, func(t *testing.T) {
		a, w := api(t, client.Options{}, busy)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		// Waiting beyond the deadline is of no use: the caller learns at once why.
		if err := create(ctx, a); !errors.Is(err, client.CodeServerBusy) || time.Since(begun) != 0 || len(w.requests()) != 1 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		if err := create(ctx, a); err == nil || time.Since(begun) != 5*time.Second || len(w.requests()) != 2 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

func TestOptionsOfRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for retries, want := range map[int]int{-1: 1, 0: 5, 1: 2} {
			a, w := api(t, client.Options{Retries: retries}, fails(errReset))
			if err := create(t.Context(), a); !errors.Is(err, errReset) || len(w.requests()) != want {
				t.Errorf("%d: %v, %d requests", retries, err, len(w.requests()))
			}
		}
		a, w := api(t, client.Options{LongestWait: time.Second}, refuses(http.StatusTooManyRequests, "x", "Retry-After", "2"))
		if err := create(t.Context(), a); err == nil || len(w.requests()) != 1 {
			t.Errorf("%v, %d requests", err, len(w.requests()))
		}
		a, w = api(t, client.Options{}, fails(errReset), says(http.StatusOK, anAgent))
		if _, err := a.CreateAgentWithBodyWithResponse(t.Context(), &client.CreateAgentParams{IdempotencyKey: new("mine")}, "application/json", strings.NewReader(`{}`)); err != nil || w.requests()[1].key != "mine" {
			t.Errorf("%v %+v", err, w.requests())
		}
		// A body that cannot be read twice is sent once.
		a, w = api(t, client.Options{}, fails(errReset))
		if _, err := a.CreateAgentWithBodyWithResponse(t.Context(), nil, "application/json", io.MultiReader(strings.NewReader(`{}`))); err == nil || len(w.requests()) != 1 {
			t.Errorf("%v %+v", err, w.requests())
		}
	})
}

func TestErrorsAreTypedAndNeverShowTheKey(t *testing.T) {
	t.Parallel()
	a, _ := api(t, client.Options{Retries: -1}, says(http.StatusBadRequest, `{"error":"request is invalid","code":"invalid_request","request_id":"r1",
		"details":[{"field":"/model","message":"is required"}]}`))
	err := create(t.Context(), a)
	var status *client.StatusError
	if !errors.As(err, &status) || status.Status != http.StatusBadRequest || status.Answer.RequestID != "r1" || status.Answer.Details[0].Field != "/model" {
		t.Fatalf("%#v", err)
	}
	if err.Error() != "request is invalid; /model: is required" {
		t.Errorf("%v", err)
	}
	broken, _ := api(t, client.Options{Retries: -1}, fails(errReset))
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", a, a, *a), fmt.Sprint(create(t.Context(), broken))} {
		if strings.Contains(text, "canary") {
			t.Errorf("the key is shown: %s", text)
		}
	}
	for _, o := range []client.Options{{}, {URL: "lap.test", Key: "k"}, {URL: "ftp://lap.test", Key: "k"}, {URL: "http://lap.test"}, {URL: "http://lap.test", Key: "a\nb"}} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	one, err := client.Decode[client.Agent](a.GetAgent(t.Context(), "a1", nil))
	if err == nil || one.ID != "" {
		t.Errorf("%v %v", one, err)
	}
}
