package tty_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/oapi-codegen/nullable"
	"golang.org/x/sys/unix"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store"
)

const strict = "lap.tty.v1"

func TestAProgramIsUsedThroughItsTerminalFromStartToEnd(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{InitialPrompt: nullable.NewNullableWithValue("echo begun $((40+2))")})
	a := s.attach(sess.ID, "?cols=120&rows=40", strict)
	a.until("it is greeted", func() bool { return len(a.texts) > 0 })
	if a.texts[0] != `{"type":"ready","cols":120,"rows":40}` {
		t.Errorf("greeted with %s", a.texts[0])
	}
	a.sees("begun 42")
	a.types("stty size\r")
	a.sees("40 120")

	// Another client sees the same screen, and the smallest window counts.
	b := s.attach(sess.ID, "", "")
	b.sees("begun 42")
	b.says(`{"type":"resize","cols":90,"rows":50}`)
	b.says("echo $((1000+")
	b.types("1))\r")
	a.sees("1001")
	b.sees("1001")
	b.types("until stty size | grep 40.90; do :; done\r") // it is narrower for a moment, so that programs paint anew
	a.sees("40 90")
	if len(b.texts) != 0 {
		t.Errorf("a plain client gets %v", b.texts)
	}
	_ = b.ws.Close(websocket.StatusNormalClosure, "")

	a.says(`{"type":"ping"}`)
	a.until("the pong", func() bool { return slices.Contains(a.texts, `{"type":"pong"}`) })
	a.types("exit 3\r")
	if end := a.end(); end.Code != websocket.StatusNormalClosure || end.Reason != "the program has ended with code 3" {
		t.Errorf("closed with %+v", end)
	}
	if last := a.texts[len(a.texts)-1]; last != `{"type":"exit","code":3}` {
		t.Errorf("the last word is %s", last)
	}
	dead := s.await(sess.ID, client.SessionStatusDead)
	if reason, _ := dead.FailureReason.Get(); !strings.Contains(reason, "code 3") || !dead.TtyToken.IsNull() {
		t.Errorf("dead = %+v", dead)
	}
	s.eventually("nothing to be left of it", func() bool { return len(commands(s.dir)) == 0 })
}

func TestAProgramOutlivesItsClientsAndTheServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{})
	a := s.attach(sess.ID, "", "")
	a.types("kept=alive; echo set $((40+2))\r")
	a.sees("set 42")
	_ = a.ws.CloseNow()
	b := s.attach(sess.ID, "", "")
	b.types("echo still $kept\r")
	b.sees("still alive")
	s.stop()
	if end := b.end(); end.Code != websocket.StatusGoingAway {
		t.Errorf("closed with %+v", end)
	}
	s.start()
	c := s.attach(sess.ID, "", "")
	c.types("echo again $kept\r")
	c.sees("again alive")
}

func TestNothingIsLeftOfATerminalWhoseSandboxdIsKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{})
	a := s.attach(sess.ID, "", "")
	a.types("trap '' HUP TERM; setsid sh -c 'trap \"\" HUP; sleep 7411 & wait' & sleep 7412 & echo set $((40+2))\r")
	a.sees("set 42")
	for pid, line := range processes(s.dir) {
		if strings.Contains(line, " sandboxd ") {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if end := a.end(); end.Code == websocket.StatusNormalClosure {
		t.Errorf("closed with %+v", end)
	}
	s.await(sess.ID, client.SessionStatusDead)
	s.eventually("nothing to be left of it", func() bool { return len(commands(s.dir)) == 0 })
}

func TestAttachingWakesWhatWasSuspended(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{})
	a := s.attach(sess.ID, "", "")
	a.types("echo on disk > kept; echo written $((40+2))\r")
	a.sees("written 42")
	err := s.store.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { tx.Session.IdleTimeoutMs = 1000; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if end := a.end(); end.Code != websocket.StatusNormalClosure || end.Reason != "the session was idle and is suspended" {
		t.Errorf("closed with %+v", end)
	}
	s.eventually("it is suspended", func() bool { return s.session(sess.ID).SandboxState == "suspended" && len(commands(s.dir)) == 0 })
	err = s.store.Session(t.Context(), sess.ID, func(tx *store.SessionTx) error { tx.Session.IdleTimeoutMs = 3600_000; return nil })
	if err != nil {
		t.Fatal(err)
	}
	b := s.attach(sess.ID, "", "")
	b.types("cat kept\r")
	b.sees("on disk")
}

func TestNoTokenOrKeystrokeIsInALog(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{})
	token, err := sess.TtyToken.Get()
	if err != nil {
		t.Fatal(err)
	}
	a := s.attach(sess.ID, "", "")
	a.types("echo canary-$((5000+55))\r")
	a.sees("canary-5055")
	for _, query := range []string{"?token=" + token, "?token=" + masterKey, "?token=" + token + ";x", "?token=" + token + "%zz", "?cols=" + token} {
		resp, err := http.Get(s.url + "/api/v1/managed_agents/sessions/" + sess.ID + "/tty" + query)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%d", resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	box, err := s.client.GetSandboxLogsWithResponse(t.Context(), sess.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.client.StreamEventsWithResponse(t.Context(), sess.ID, &client.StreamEventsParams{Follow: new(false)})
	if err != nil {
		t.Fatal(err)
	}
	diagnosis, err := s.client.DiagnoseSessionWithResponse(t.Context(), sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"server": s.logs.String(), "sandbox": string(box.Body), "events": string(events.Body), "diagnosis": string(diagnosis.Body),
		"arguments": strings.Join(commands(s.dir), "\n"),
	} {
		if text == "" {
			t.Errorf("%s: nothing was written", name)
		}
		for what, secret := range map[string]string{"the token": token[5:40], "the key": masterKey, "what was typed": "canary-", "the gateway's key": "sk-canary"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: it holds %s", name, what)
			}
		}
	}
}

func TestAStoppedReaderHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{})
	stopped, reads := s.attach(sess.ID, "", ""), s.attach(sess.ID, "", "")
	stopped.sees("> ")
	reads.types("yes | head -c 20000000; echo; echo all $((40+2)) seen\r")
	began := time.Now()
	reads.sees("all 42 seen")
	t.Logf("%d bytes in %v beside a reader that stopped", reads.raw.Len(), time.Since(began))
	// It is painted anew when it reads again.
	stopped.types("echo back $((50+5))\r")
	stopped.sees("back 55")
	if n := stopped.raw.Len(); n > 16<<20 {
		t.Errorf("%d bytes were kept for it", n)
	}
}

var memoryFactor = 1

func TestFiftyStoppedReadersCostSandboxdLittle(t *testing.T) {
	t.Parallel()
	s := start(t)
	sess := s.open(client.AgentCreate{}, client.SessionCreate{})
	reads := s.attach(sess.ID, "", "")
	flood := func(n int) {
		reads.types(fmt.Sprintf("yes | head -c 2000000; echo; echo flood $((%d+1)) over\r", n))
		reads.sees(fmt.Sprintf("flood %d over", n+1))
	}
	flood(0)
	before := s.sandboxdMemory()
	const readers = 50
	for range readers {
		s.attach(sess.ID, "", "") // reads no more than the greeting
	}
	flood(1)
	each := (s.sandboxdMemory() - before) / readers
	t.Logf("%d KiB for each reader", each>>10)
	if each > memoryFactor<<20 {
		t.Errorf("%d bytes for each reader", each)
	}
}

// sandboxdMemory is what is resident of the only sandboxd, in bytes.
func (s *stack) sandboxdMemory() int {
	s.t.Helper()
	for pid, line := range processes(s.dir) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, rest, found := strings.Cut(string(status), "VmRSS:")
		if err != nil || !found || !strings.Contains(line, " sandboxd ") {
			continue
		}
		kb, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			s.t.Fatal(err)
		}
		return kb << 10
	}
	s.t.Fatal("no sandboxd runs")
	return 0
}
