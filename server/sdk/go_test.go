package sdk_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

const clientModule = "github.com/litellm-agent-platform/lap"

// The Go client against the real server with real OpenCode, over a good line and a bad one.
func TestGo(t *testing.T) {
	t.Parallel()
	s := startLive(t)
	t.Run("quick start", func(t *testing.T) { t.Parallel(); goQuickStart(t, s) })
	t.Run("once", func(t *testing.T) { t.Parallel(); goOnce(t, s) })
	t.Run("lists", func(t *testing.T) { t.Parallel(); goLists(t, s) })
	t.Run("turns", func(t *testing.T) { t.Parallel(); goTurns(t, s) })
}

// goClient talks to the server at a URL and keeps no connections after the test.
func goClient(t *testing.T, url string) *client.API {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	a, err := client.New(client.Options{URL: url, Key: masterKey, HTTPClient: &http.Client{Transport: base}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// goQuickStart builds the program of the README, as it stands there, in a module of its own, and runs it, over a line that breaks.
func goQuickStart(t *testing.T, s liveServer) {
	line := newBadLine(t, s.url)
	line.set(func() { line.every = 3 })
	tree, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source := fenced(t, filepath.Join(tree, "gen/client/README.md"), "go")
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"GOFLAGS=-mod=mod", "GOPROXY=off", "GOSUMDB=off", "GOWORK=off", "LAP_URL=" + line.url, "LAP_KEY=" + masterKey}
	run(t, dir, append(os.Environ(), env...), "go", "mod", "init", "quickstart")
	run(t, dir, append(os.Environ(), env...), "go", "mod", "edit", "-require="+clientModule+"@v0.0.0", "-replace="+clientModule+"="+tree)
	run(t, dir, append(os.Environ(), env...), "go", "build", "-o", "quickstart", ".")
	if out := run(t, dir, append(os.Environ(), env...), filepath.Join(dir, "quickstart")); !strings.HasPrefix(out, "[demo] ") || !strings.Contains(out, "You said: What can you do for me?") || strings.Count(out, "You said") != 1 {
		t.Errorf("it printed %q", out)
	}
	if line.cut() == 0 {
		t.Error("no stream was cut")
	}
}

// goOnce loses the answers to what the server has done: it is sent again, and done once.
func goOnce(t *testing.T, s liveServer) {
	line := newBadLine(t, s.url)
	line.set(func() {
		line.lose["POST /api/v1/managed_agents/agents"] = 2
		line.lose["POST /api/v1/skills"] = 1
		line.lose["/session"] = 1
		line.lose["/stop"] = 1
	})
	a, direct := goClient(t, line.url), goClient(t, s.url)
	name := "once " + t.Name()
	agent, err := a.CreateAgentWithResponse(t.Context(), nil, client.AgentCreate{Model: "demo/echo", Name: client.Value(name)})
	if err != nil || agent.JSON200.ID == "" {
		t.Fatalf("create agent: %v", err)
	}
	skill, err := a.CreateSkillWithResponse(t.Context(), nil, client.SkillCreate{Name: "once", Content: "x"})
	if err != nil || skill.JSON201.ID == "" {
		t.Fatalf("create skill: %v", err)
	}
	session, err := a.CreateSessionWithResponse(t.Context(), agent.JSON200.ID, nil, client.SessionCreate{})
	if err != nil {
		t.Fatalf("open session: %v", err)
	}
	if stopped, err := a.StopSessionWithResponse(t.Context(), session.JSON200.ID, nil); err != nil || stopped.JSON200.Status != client.SessionStatusDead {
		t.Fatalf("stop session: %v", err)
	}
	n := 0
	for v, err := range direct.Agents(t.Context(), &client.ListAgentsParams{Search: &name}) {
		if n++; err != nil || v.ID != agent.JSON200.ID {
			t.Errorf("agent %s: %v", v.ID, err)
		}
	}
	sessions := 0
	for _, err := range direct.Sessions(t.Context(), &client.ListSessionsParams{AgentID: &agent.JSON200.ID}) {
		if sessions++; err != nil {
			t.Error(err)
		}
	}
	if n != 1 || sessions != 1 {
		t.Errorf("%d agents, %d sessions", n, sessions)
	}
	if asked := line.count("POST /api/v1/managed_agents/agents"); asked != 3 {
		t.Errorf("the server was asked %d times for the agent", asked)
	}
	line.set(func() { line.lose["DELETE /api/v1/managed_agents/agents/"+agent.JSON200.ID] = 1 })
	if _, err := a.DeleteAgentWithResponse(t.Context(), agent.JSON200.ID, nil); err != nil {
		t.Errorf("a delete whose answer was lost: %v", err)
	}
}

// goLists goes over more than two pages of each kind of list, while rows are added.
func goLists(t *testing.T, s liveServer) {
	a := goClient(t, s.url)
	name := "lists " + t.Name()
	made := make([]string, 7)
	for i := range made {
		r, err := a.CreateAgentWithResponse(t.Context(), nil, client.AgentCreate{Model: "m", Name: client.Value(fmt.Sprint(name, i))})
		if err != nil {
			t.Fatal(err)
		}
		made[i] = r.JSON200.ID
	}
	var got []string
	for v, err := range a.Agents(t.Context(), &client.ListAgentsParams{Search: &name, Limit: new(2)}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, v.ID); len(got) == 3 {
			if _, err := a.CreateAgentWithResponse(t.Context(), nil, client.AgentCreate{Model: "m", Name: client.Value(name)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Reverse(got)
	if !slices.Equal(got, made) {
		t.Errorf("agents %v, made %v", got, made)
	}
	skill, err := a.CreateSkillWithResponse(t.Context(), nil, client.SkillCreate{Name: "lists", Content: "0"})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 5; i++ {
		if _, err := a.UpdateSkillWithResponse(t.Context(), skill.JSON201.ID, nil, client.SkillUpdate{Content: new(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	var contents strings.Builder
	for v, err := range a.SkillVersions(t.Context(), skill.JSON201.ID, &client.ListSkillVersionsParams{Limit: new(2)}) {
		if err != nil {
			t.Fatal(err)
		}
		contents.WriteString(v.Content)
	}
	if contents.String() != "43210" {
		t.Errorf("versions %q", contents.String())
	}
}

// goTurns holds a conversation over a line that cuts every stream after a few events.
func goTurns(t *testing.T, s liveServer) {
	line := newBadLine(t, s.url)
	line.set(func() { line.every = 4 })
	a, direct := goClient(t, line.url), goClient(t, s.url)
	agent, err := a.CreateAgentWithResponse(t.Context(), nil, client.AgentCreate{Model: "demo/echo"})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := a.CreateSessionWithResponse(t.Context(), agent.JSON200.ID, nil, client.SessionCreate{})
	if err != nil {
		t.Fatal(err)
	}
	id := opened.JSON200.ID
	live := make(chan []client.Event, 1)
	go func() {
		var all []client.Event
		for e, err := range a.Events(t.Context(), id, 0) {
			if err != nil {
				t.Errorf("events: %v", err)
				break
			}
			if all = append(all, e); e.Type == "session.status" && e.Data["status"] == "dead" {
				break
			}
		}
		live <- all
	}()

	want := "[demo] 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 "
	var reply client.Reply
	var shown strings.Builder
	turns := map[string]bool{}
	for e, err := range a.Turn(t.Context(), id, nil, client.Text("SLOW: 20")) {
		if err != nil {
			t.Fatal(err)
		}
		d := reply.Add(e)
		if shown.WriteString(d.Text); d.Anew {
			t.Errorf("the reply begins anew after %q", shown.String())
		}
		turn, err := e.TurnID.Get()
		if turns[turn] = true; err != nil {
			t.Errorf("event of no turn: %+v", e)
		}
	}
	if err := reply.Err(); err != nil || reply.Text() != want || shown.String() != want || len(turns) != 1 {
		t.Errorf("%v: %q, shown %q, %d turns", err, reply.Text(), shown.String(), len(turns))
	}
	line.set(func() { line.lose["/message"] = 1 }) // the whole answer is lost, and asked for again
	if m, err := a.SendMessageWithResponse(t.Context(), id, nil, client.Text("whole")); err != nil || !strings.Contains(m.JSON200.Text(), "You said: whole") {
		t.Errorf("%v", err)
	}
	var said []string
	for m, err := range direct.Messages(t.Context(), id, &client.ListMessagesParams{Limit: new(1)}) {
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, string(m.Info.Role))
	}
	if got := strings.Join(said, " "); got != "user assistant user assistant" {
		t.Errorf("the transcript is %s", got)
	}
	if _, err := a.StopSessionWithResponse(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}

	// What came live, over all the cuts, is what was stored; deltas of a turn that has ended may be gone from there.
	seqs := map[int64]int{}
	before := int64(0)
	for _, e := range <-live {
		if seqs[e.Seq]++; e.Seq <= before {
			t.Errorf("event %d after %d", e.Seq, before)
		}
		before = e.Seq
	}
	for e, err := range direct.EventLog(t.Context(), id, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if seqs[e.Seq] != 1 && e.Seq <= before {
			t.Errorf("event %d, %s, came %d times", e.Seq, e.Type, seqs[e.Seq])
		}
	}
	if line.cut() < 2 { // how many is up to how deltas come
		t.Errorf("only %d streams were cut", line.cut())
	}
}
