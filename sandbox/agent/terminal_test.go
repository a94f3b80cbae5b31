package agent_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
)

func TestAClientTypesIntoTheTerminalSeesItAndHearsOfItsEnd(t *testing.T) {
	t.Parallel()
	b := bootShell(t, `read go; echo in $(basename "$PWD"), size $(stty size); read x; echo "got <$x>"; read y; exit 7`)
	v := b.attach("")
	if v.texts[0] != `{"type":"ready","cols":100,"rows":30}` {
		t.Errorf("greeting %s", v.texts[0])
	}
	v.types("\r")
	v.sees("in repo, size 30 ") // 100 columns, or 99 within the nudge
	v.types("hällo\r")
	v.sees("got <hällo>")
	v.says(`{"type":"ping"}`)
	v.until("pong", func() bool { return v.texts[len(v.texts)-1] == `{"type":"pong"}` })
	v.types("\r")
	if status := v.end(); status != websocket.StatusNormalClosure || v.texts[len(v.texts)-1] != `{"type":"exit","code":7}` {
		t.Errorf("closed with %d after %v", status, v.texts)
	}
	all := b.until("harness.exited")
	if reason := field(t, all[len(all)-1], "reason"); reason != "the program exited with code 7" {
		t.Errorf("reason %q", reason)
	}
	if n := len(b.tty.starts()); n != 1 {
		t.Errorf("the program was started %d times", n)
	}
	eventually(t, "state is failed", func() bool { return b.health().State == "failed" })
	if _, status, err := b.dial(""); err == nil || status != http.StatusConflict {
		t.Errorf("attaching after the end: %d %v", status, err)
	}
}

func TestTheSmallestClientDecidesOnTheSize(t *testing.T) {
	t.Parallel()
	b := bootShell(t, `trap 'echo "now $(stty size)."' WINCH; echo up; while :; do sleep 0.05; done`)
	first := b.attach("?cols=90&rows=40")
	if first.texts[0] != `{"type":"ready","cols":90,"rows":40}` {
		t.Errorf("greeting %s", first.texts[0])
	}
	first.sees("now 40 90.")
	second := b.attach("?cols=120&rows=20")
	first.sees("now 20 90.")
	second.says(`{"type":"resize","cols":70,"rows":50}`)
	first.sees("now 40 70.")
	_ = second.ws.Close(websocket.StatusNormalClosure, "")
	first.raw.Reset()
	first.sees("now 40 90.")
	_ = first.ws.CloseNow()
	third := b.attach("")
	if third.texts[0] != `{"type":"ready","cols":90,"rows":40}` {
		t.Errorf("greeting of one with no size after all left: %s", third.texts[0])
	}
}

func TestOneWhoAttachesLaterSeesTheScreen(t *testing.T) {
	t.Parallel()
	b := bootShell(t, `stty -echo; printf '\033]0;\342\234\263 title\007\033[?1049h\033[?2004h\033[2J\033[5;5H\033[1;31m\344\275\240here\033[m'; read x`)
	first := b.attach("")
	first.sees("here")
	later := b.attach("")
	later.sees("\x1b[?2026l")
	for _, want := range []string{"\x1b]0;✳ title\x07", "\x1b[?1049h", "\x1b[5;5H", "你\x1b[7Ghere", "\x1b[?2004h", "\x1b[5;11H"} {
		if !strings.Contains(later.raw.String(), want) {
			t.Errorf("%q is missing in %q", want, later.raw.String())
		}
	}
}

func TestAStoppedReaderDelaysNobodyAndCostsLittle(t *testing.T) {
	t.Parallel()
	b := bootTerminal(t, "/bin/sh", "-c", `stty -echo; echo up; while read n; do head -c 131072 /dev/zero | tr '\0' x; echo; echo "burst $n."; done`)
	fast := b.attach("")
	fast.sees("up")
	var stopped []*viewer
	for range 50 {
		stopped = append(stopped, b.attach("")) // reads no more than the greeting
	}
	const bursts = 512 // of 128 KiB, which is less than may wait for a client: 64 MiB
	for n := range bursts {
		fast.types(fmt.Sprintf("%d\r", n))
		fast.raw.Reset()
		fast.sees(fmt.Sprintf("burst %d.", n))
		if got := fast.raw.Len(); got < 128<<10 {
			t.Fatalf("burst %d: %d bytes", n, got)
		}
	}
	for _, v := range stopped[:3] {
		v.sees(fmt.Sprintf("burst %d.", bursts-1))
		if got := v.raw.Len(); got > 2<<20 {
			t.Errorf("%d bytes were kept for a stopped reader", got)
		}
	}
}

func TestWhoMayNotAttachIsRefusedBeforeTheUpgrade(t *testing.T) {
	t.Parallel()
	b := boot(t)
	upgrade := func(token string) (int, string) {
		r, err := http.NewRequest(http.MethodGet, "http://sandbox/v1/terminal", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
		}
		if token != "" {
			r.Header.Set(sandbox.TokenHeader, token)
		}
		resp, err := b.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	good := b.token(sandbox.ID(b.c.SandboxID), b.key, time.Hour)
	for _, token := range []string{"", "x", b.token("sb-other", b.key, time.Hour), b.token(sandbox.ID(b.c.SandboxID), b.key, -time.Hour)} {
		if status, body := upgrade(token); status != http.StatusUnauthorized {
			t.Errorf("token %q: %d %s", token, status, body)
		}
	}
	if status, body := upgrade(good); status != http.StatusConflict || !strings.Contains(body, "unbound") {
		t.Errorf("unbound: %d %s", status, body)
	}
	b.ready()
	if status, body := upgrade(good); status != http.StatusConflict || !strings.Contains(body, "no terminal") {
		t.Errorf("a harness without a terminal: %d %s", status, body)
	}
}

func TestAPlainRequestForTheTerminalIsToldToUpgrade(t *testing.T) {
	t.Parallel()
	b := bootShell(t, "cat")
	r, err := b.client.OpenTerminalWithResponse(context.Background(), nil)
	if err != nil || r.JSON426 == nil || r.HTTPResponse.Header.Get("Upgrade") != "websocket" {
		t.Errorf("%v %+v", err, r)
	}
}

func TestAHarnessWithATerminalTakesNoTurns(t *testing.T) {
	t.Parallel()
	b := bootShell(t, "cat")
	r, err := b.client.StartTurnWithResponse(context.Background(), turn("t1", "say hello"))
	if err != nil || r.JSON409 == nil || !strings.Contains(r.JSON409.Error, "the harness has a terminal") {
		t.Errorf("%v %+v", err, r)
	}
}

func TestTheInitialPromptIsForTheFirstAttempt(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int32]string{1: "do it", 2: ""} {
		b := boot(t, func(b *box) { b.tty = &ttyHarness{argv: []string{"/bin/cat"}} })
		b.ready(func(c *sandboxd.SessionConfig) {
			text := "do it"
			c.Attempt, c.InitialPrompt = attempt, &text
		})
		if got := b.tty.starts()[0].Typed; got != want {
			t.Errorf("attempt %d: %q", attempt, got)
		}
	}
}

func TestHealthSaysWhenTheTerminalWasLastActive(t *testing.T) {
	t.Parallel()
	b := bootShell(t, `stty -echo; echo up; cat >/dev/null`)
	v := b.attach("")
	v.sees("up")
	before := *b.health().TerminalActiveAt
	v.types("x")
	eventually(t, "typing is activity", func() bool { return b.health().TerminalActiveAt.After(before) })
	if other := boot(t); other.health().TerminalActiveAt != nil {
		t.Error("a sandbox without a terminal says when it was active")
	}
}

func TestGarbageEndsTheConnectionAndNothingElse(t *testing.T) {
	t.Parallel()
	b := bootShell(t, "echo up; cat")
	for _, text := range []string{"", "garbage", "null", `{"type":"resize"}`, `{"type":"resize","cols":-1,"rows":5}`, `{"type":"resize","cols":1e99,"rows":5}`, `{"type":"exit"}`, `["ping"]`} {
		v := b.attach("")
		v.says(text)
		if status := v.end(); status != websocket.StatusPolicyViolation {
			t.Errorf("%q: closed with %d", text, status)
		}
	}
	v := b.attach("")
	v.types(strings.Repeat("x", 1<<20+1))
	if status := v.end(); status != websocket.StatusMessageTooBig {
		t.Errorf("a huge message: closed with %d", status)
	}
	b.attach("?cols=100000&rows=0").sees("up")
	if size := b.attach("").texts[0]; size != `{"type":"ready","cols":1000,"rows":1}` {
		t.Errorf("a size beyond all limits: %s", size)
	}
}

func TestTheEndOfSandboxdEndsItsTerminalsAndTheirClients(t *testing.T) {
	t.Parallel()
	b := bootShell(t, `echo up; exec cat`)
	v := b.attach("")
	v.sees("up")
	silent := b.attach("") // does not answer the closing
	ended := make(chan websocket.StatusCode, 1)
	go func() { ended <- v.end() }()
	begun := time.Now()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if status := <-ended; status != websocket.StatusNormalClosure || v.texts[len(v.texts)-1] != `{"type":"exit","code":143}` {
		t.Errorf("closed with %d after %v", status, v.texts)
	}
	_ = silent.ws.CloseNow()
	if left := below(t, b.c.SandboxID); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
