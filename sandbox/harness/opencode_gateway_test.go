package harness_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

func TestOpenCodeSaysWhatBecameOfTheGateway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		say     string
		down    bool
		want    string
		retries int
	}{
		"it refuses connections":         {say: "hello", down: true, want: "Cannot connect to API", retries: 5},
		"it asks for more patience":      {say: "FAIL: 429 0 7200", want: "fails with 429, as it was asked to (the model gateway is not waited for: it asks to wait for ", retries: 1},
		"it refuses the key, in its way": {say: "FAIL: 401", want: "fails with 401, as it was asked to (the model gateway answered 401)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			r := b.start(t)
			if c.down {
				b.stopGateway()
			}
			o := b.turn(t, r, say(c.say))
			if o.err != nil || o.status != harness.Failed || o.result.Error == nil || o.result.Error.Name != "APIError" || !strings.Contains(o.result.Error.Message, c.want) {
				t.Fatalf("%q, %+v, %v", o.status, o.result.Error, o.err)
			}
			checkRetries(t, o, c.retries)
			if c.down {
				b.startGateway(t)
			}
			if got := text(completed(t, b.turn(t, r, say("better?")))); !strings.HasSuffix(got, "You said: better?") {
				t.Errorf("the next reply is %q", got)
			}
		})
	}
}

// checkRetries wants n retries in sight, in order, and every delta folded into a part.
func checkRetries(t *testing.T, o outcome, n int) {
	t.Helper()
	open, seen := map[string]string{}, 0
	for _, e := range o.events {
		switch e.Type {
		case "harness.event":
			seen++
			got := decode[struct {
				Kind    string
				Attempt int
				Message string
				RetryAt time.Time `json:"retry_at"`
			}](t, e)
			if got.Kind != "retry" || got.Attempt != seen || got.Message == "" || time.Since(got.RetryAt) > 10*time.Minute {
				t.Errorf("retry %+v", got)
			}
			if len(open) > 0 {
				t.Errorf("a retry while parts are open: %v", open)
			}
		case "message.delta":
			d := decode[delta](t, e)
			open[d.PartID] += d.Text
		case "message.part":
			p := decode[whole](t, e)
			if open[p.PartID] != *p.Part.Text {
				t.Errorf("part %q, its deltas %q", *p.Part.Text, open[p.PartID])
			}
			delete(open, p.PartID)
		}
	}
	if seen != n || len(open) > 0 {
		t.Errorf("%d retries, open parts %v", seen, open)
	}
}

// stopGateway makes the gateway refuse connections until startGateway.
func (b *box) stopGateway() {
	b.server.CloseClientConnections()
	b.server.Close()
}

func (b *box) startGateway(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", b.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	again := &httptest.Server{Listener: l, Config: &http.Server{Handler: b.gateway, ReadHeaderTimeout: time.Minute}}
	again.Start()
	t.Cleanup(again.Close)
}

func TestARequestIsRepeatedWithinReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wait  time.Duration
		after []time.Duration
		want  string
	}{
		"at first":                {time.Second, nil, ""},
		"as long as it is short":  {2 * time.Minute, []time.Duration{time.Second, 4 * time.Minute}, ""},
		"a long wait":             {2*time.Minute + time.Second, []time.Duration{time.Second}, "it asks to wait for 2m1s"},
		"silent again and again":  {time.Second, []time.Duration{302 * time.Second}, "it has failed for 5m2s"},
		"a wait without an end":   {time.Duration(1<<31) * time.Millisecond, []time.Duration{time.Second}, "it asks to wait for 596h31m24s"},
		"a time that lies behind": {-time.Hour, []time.Duration{time.Second}, ""},
	} {
		if got := harness.GivesUp(c.wait, c.after...); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestOpenCodeDoesNotWaitForASilentGateway(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.config.Silence = time.Second
	r := b.start(t)
	for script, want := range map[string]string{"HANG: 0 1": "headers timed out after 1000ms", "HANG: 3 1": "read timed out"} {
		o := b.turn(t, r, say(script))
		completed(t, o)
		checkRetries(t, o, 1)
		if !strings.Contains(asJSON(t, o.events), want) {
			t.Errorf("%s: %s", script, asJSON(t, o.events))
		}
	}
}

func TestARepeatedRequestIsCountedOnce(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	r := b.start(t)
	plain := completed(t, b.turn(t, r, say("SLOW: 5"))).Tokens
	o := b.turn(t, r, say("CUT: 5 1"))
	result := completed(t, o)
	checkRetries(t, o, 1)
	// The same answer to a conversation that is a little longer.
	if got := result.Tokens; got.Output != plain.Output || got.Input <= plain.Input || got.Input > plain.Input+50 {
		t.Errorf("tokens %+v, without the cut %+v", got, plain)
	}
	if last := result.Parts[len(result.Parts)-1]; *last.Text != "[demo] 1 2 3 4 5 " {
		t.Errorf("reply %s", asJSON(t, result.Parts))
	}
	completed(t, b.turn(t, r, say("go on")))
	requests := b.gateway.Requests()
	t.Log(asJSON(t, requests[len(requests)-1].Messages[1:]))
	if n := len(slices.DeleteFunc(requests, func(q demoRequest) bool { return q.Messages[len(q.Messages)-1].Text != "CUT: 5 1" })); n != 2 {
		t.Errorf("the gateway was asked %d times", n)
	}
}

func TestWhatTheGatewaySaysIsBoundedAndShowsNoKey(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	said := "no such key " + gatewayKey + " " + strings.Repeat("é", 5000) + "\nsecond line"
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"error":{"message":`+asJSON(t, said)+`,"type":"auth_error","code":403}}`)
	}))
	t.Cleanup(gateway.Close)
	b.config.Gateway.BaseURL = gateway.URL
	o := b.turn(t, b.start(t), say("hello"))
	if o.err != nil || o.status != harness.Failed {
		t.Fatalf("%q, %v", o.status, o.err)
	}
	got := o.result.Error.Message
	if !strings.HasPrefix(got, "no such key ******** éé") || !strings.HasSuffix(got, "é… (the model gateway answered 403)") || len(got) > 1100 || !utf8.ValidString(got) {
		t.Errorf("message %q", got)
	}
	if all := asJSON(t, o.result) + asJSON(t, o.events); strings.Contains(all, gatewayKey) || strings.Contains(all, "second line") {
		t.Errorf("the turn says %s", all)
	}
}
