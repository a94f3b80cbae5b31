package main_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/cli/clitest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// command is a client command of a person who has a directory for settings.
func (s *server) command(settings string, args ...string) *exec.Cmd {
	cmd := exec.Command(lap, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "XDG_CONFIG_HOME=" + settings}
	return cmd
}

func TestClientCommandsFromLoginToStop(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	settings := t.TempDir()
	run := func(args ...string) (string, string, int) { return clitest.Run(t, s.command(settings, args...)) }
	ok := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := run(args...)
		if code != 0 {
			t.Fatalf("lap %s: %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	login := func(key string) (string, int) {
		cmd := s.command(settings, "login", s.url)
		cmd.Stdin = strings.NewReader(key + "\n")
		_, stderr, code := clitest.Run(t, cmd)
		return stderr, code
	}
	if stderr, code := login("wrong-key-canary"); code != 1 || !strings.Contains(stderr, "does not accept the key") || strings.Contains(stderr, "canary") {
		t.Errorf("login with a wrong key: %d %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(settings, "lap")); !os.IsNotExist(err) {
		t.Errorf("a wrong key was stored: %v", err)
	}
	if stderr, code := login(masterKey); code != 0 {
		t.Fatalf("login: %d %s", code, stderr)
	}
	agent := demoAgent()
	agent.Name = nullable.NewNullableWithValue("Reviewer")
	a, err := s.api.CreateAgentWithResponse(t.Context(), nil, agent)
	if err != nil || a.JSON200 == nil {
		t.Fatalf("create agent: %v", err)
	}
	s.skill("Release notes", "Group by area.")
	if out := ok("agents"); !strings.Contains(out, a.JSON200.ID+"  Reviewer  opencode  demo/echo  0") {
		t.Errorf("agents:\n%s", out)
	}
	if out := ok("skills"); !strings.Contains(out, "Release notes  1 ") {
		t.Errorf("skills:\n%s", out)
	}

	_, stderr, code := run("run", "reviewer", "-m", "FAIL: 400 no such luck", "-title", "first")
	if code != 1 || !strings.Contains(stderr, "ready\n") || !strings.Contains(stderr, "as it was asked to") {
		t.Fatalf("a turn that fails: %d %s", code, stderr)
	}
	if out, stderr, code := run("attach", "first", "-m", `RUN: echo "$((40+2)) $SESSION_SECRET"`); code != 0 || !strings.Contains(out, "[demo] RESULT: 42") || !strings.Contains(stderr, "● bash") {
		t.Errorf("%d\n%s%s", code, out, stderr)
	}
	var all []client.Session
	if err := json.Unmarshal([]byte(ok("sessions", "--json", "-agent", "Reviewer")), &all); err != nil || len(all) != 1 || all[0].TurnCount != 2 {
		t.Fatalf("%v %+v", err, all)
	}
	id := all[0].ID
	if out := ok("logs", id[:20]); !strings.Contains(out, "opencode") {
		t.Errorf("logs:\n%s", out)
	}
	if _, stderr, code := run("stop", "first", "nothing"); code != 1 || !strings.Contains(stderr, "Stopped "+id) || !strings.Contains(stderr, `no session "nothing"`) {
		t.Errorf("stop: %d %s", code, stderr)
	}
	if got := s.session(id); got.Status != client.SessionStatusDead {
		t.Errorf("the session is %s", got.Status)
	}
	if _, stderr, code := run("attach", "first", "-m", "x"); code != 1 || !strings.Contains(stderr, "-restart starts it again") {
		t.Errorf("attach: %d %s", code, stderr)
	}
	if out, stderr, code := run("attach", "first", "-restart", "-m", "back"); code != 0 || !strings.Contains(out, "You said: back") {
		t.Errorf("%d\n%s%s", code, out, stderr)
	}
	if r, err := s.api.DeleteSessionWithResponse(t.Context(), id); err != nil || r.StatusCode() != http.StatusNoContent {
		t.Errorf("delete: %v", err)
	}
}

func TestAChatGoesOnThroughAKillOfTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	agent := demoAgent()
	agent.Name = nullable.NewNullableWithValue("chatter")
	if a, err := s.api.CreateAgentWithResponse(t.Context(), nil, agent); err != nil || a.JSON200 == nil {
		t.Fatalf("create agent: %v", err)
	}
	cmd := s.command(t.TempDir(), "run", "chatter", "-stop", "-env", "SESSION_SECRET=mine")
	cmd.Env = append(cmd.Env, "LAP_URL="+s.url, "LAP_KEY="+masterKey)
	x := clitest.Start(t, 100, 30, cmd)
	x.Expect("waiting_harness")
	x.ExpectWithin("Ctrl-D leaves", 5*clitest.Patience)
	x.Expect("> ")
	x.AwaitMode(true)
	x.Type("RUN: echo \"is $SESSION_SECRET\"\r")
	x.Expect("● bash")
	x.Expect("[demo] RESULT: is mine")
	x.Expect("> ")

	x.AwaitMode(true)
	x.Type("SLOW: 30 pieces\r")
	x.Expect("[demo] 1 2 3 ")
	s.kill()
	x.Expect("connection lost")
	s.start()
	x.Expect("29 30")
	x.Expect("> ")
	whole := []string{}
	for i := range 30 {
		whole = append(whole, string(rune('0'+(i+1)/10))+string(rune('0'+(i+1)%10)))
	}
	text := strings.NewReplacer("\r\n", "", "[connection lost, trying again]", "").Replace(x.Output()[strings.LastIndex(x.Output(), "[demo] 1 2"):])
	for _, n := range whole {
		if n = strings.TrimPrefix(n, "0"); strings.Count(text, " "+n+" ") != 1 {
			t.Errorf("piece %s is there %d times in %q", n, strings.Count(text, " "+n+" "), text)
		}
	}

	x.AwaitMode(true)
	x.Type("SLOW: 300 until aborted\r")
	x.Expect("[demo] 1 2 ")
	x.Type("\x03")
	x.Expect("Aborted.")
	x.Expect("> ")
	x.AwaitMode(true)
	x.Type("\x04")
	if code := x.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	sessions, err := s.api.ListSessionsWithResponse(t.Context(), nil)
	if err != nil || sessions.JSON200 == nil || len(sessions.JSON200.Data) != 1 || sessions.JSON200.Data[0].Status != client.SessionStatusDead {
		t.Errorf("sessions after -stop: %v %s", err, sessions.Body)
	}
}
