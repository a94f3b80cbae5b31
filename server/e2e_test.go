package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/server/servertest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// watcher is a subscriber that resumes whenever its stream breaks.
type watcher struct {
	mu   sync.Mutex // guards seen
	seen []string   // events as they came
	stop func()
}

func (s *server) watch(id string) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{}
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	s.t.Cleanup(func() {
		w.stop()
		if all := w.all(); s.t.Failed() {
			s.t.Logf("the last that was seen of session %s:\n%s", id, strings.Join(all[max(0, len(all)-20):], "\n"))
		}
	})
	wg.Go(func() {
		var after int64
		for ctx.Err() == nil {
			s.stream(ctx, id, after, func(seq int64, data string) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.seen = append(w.seen, data)
				after = seq
			})
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return w
}

func (w *watcher) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// stream reads the raw event stream until it breaks.
func (s *server) stream(ctx context.Context, id string, after int64, emit func(seq int64, data string)) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/v1/managed_agents/sessions/%s/events?after=%d", s.url, id, after), nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+masterKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return // a line that was cut is read again
		}
		data, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "data: ")
		if !ok {
			continue
		}
		var e struct{ Seq int64 }
		if json.Unmarshal([]byte(data), &e) != nil {
			return
		}
		emit(e.Seq, data)
	}
}

// replay reads the log from the start up to a seq.
func (s *server) replay(id string, upTo int64) []string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	s.stream(ctx, id, 0, func(seq int64, data string) {
		got = append(got, data)
		if seq >= upTo {
			cancel()
		}
	})
	return got
}

func count(events []string, typ, turn string) int {
	n := 0
	for _, e := range events {
		if strings.Contains(e, `"type":"`+typ+`"`) && strings.Contains(e, turn) {
			n++
		}
	}
	return n
}

// asked counts the requests whose last user message is this text: how often the harness ran it.
func (s *server) asked(text string) int {
	n := 0
	for _, r := range s.gateway.Requests() {
		if m := r.Messages; len(m) > 0 && m[len(m)-1].Role == "user" && strings.Contains(m[len(m)-1].Text, text) {
			n++
		}
	}
	return n
}

func demoAgent() client.AgentCreate {
	return client.AgentCreate{
		Model: "demo/echo", Prompt: nullable.NewNullableWithValue("prompt-canary"),
		EnvVars: nullable.NewNullableWithValue(map[string]string{"AGENT_SECRET": "agent-canary"}),
	}
}

func TestASessionGoesOnThroughKillsOfTheServer(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		s := newServer(t, kind)
		id := s.open(demoAgent(), client.SessionCreate{EnvVars: nullable.NewNullableWithValue(map[string]string{"SESSION_SECRET": "session-canary"})})
		live := s.watch(id)
		turns := []string{s.post(id, "marker-0 while creating")}
		s.kill() // before anything has started, or in the middle of it
		s.start()
		before := s.await(id, client.SessionStatusReady)
		s.ended(id, turns[0])

		// Between turns.
		s.kill()
		t.Logf("second start to ready: %v", s.start())
		turns = append(turns, s.post(id, "marker-1 between turns"))
		s.ended(id, turns[1])

		// During a turn, after its first words.
		turns = append(turns, s.post(id, "SLOW: 20 marker-2"))
		s.eventually("first words", 2*time.Minute, func() bool { return count(live.all(), "message.delta", turns[2]) > 0 })
		s.kill()
		s.start()
		s.ended(id, turns[2])

		// At any moment around the hand-over, twice in a row.
		for i, delay := range []time.Duration{0, 2 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
			turns = append(turns, s.post(id, fmt.Sprintf("marker-%d around the hand-over", i+3)))
			<-time.After(delay)
			s.kill()
			s.start()
		}
		s.ended(id, turns[len(turns)-1])

		after := s.session(id)
		if after.Status != client.SessionStatusReady || !equal(after.HarnessSessionID, before.HarnessSessionID) {
			t.Errorf("session after the kills = %+v", after)
		}
		var last int64
		page, err := s.api.StreamEventsWithResponse(t.Context(), id, &client.StreamEventsParams{Follow: new(bool), Limit: ptr(1000)})
		if err != nil || page.JSON200 == nil {
			t.Fatalf("events: %v", err)
		}
		last = page.JSON200.NextAfter
		for i, turn := range turns {
			got := s.turn(id, turn)
			events := s.replay(id, last)
			ends := count(events, "turn.completed", turn) + count(events, "turn.failed", turn) + count(events, "turn.aborted", turn)
			if got.Status != "completed" || ends != 1 || count(events, "turn.started", turn) != 1 || s.asked(fmt.Sprintf("marker-%d", i)) != 1 {
				t.Errorf("turn %d is %s with %d ends, %d starts, the model was asked %d times", i, got.Status, ends, count(events, "turn.started", turn), s.asked(fmt.Sprintf("marker-%d", i)))
			}
		}
		replay := s.replay(id, last)
		s.eventually("subscriber to catch up", time.Minute, func() bool { return slices.Contains(live.all(), replay[len(replay)-1]) })
		if seen := live.all(); !slices.Equal(s.folded(seen), s.folded(replay)) {
			t.Errorf("the subscriber saw %d events, the replay has %d, or others", len(seen), len(replay))
		}
		s.finish(id)
	})
}

// finish deletes the session and checks that nothing is left of it, and that no secret got where it must not be.
func (s *server) finish(id string) {
	s.t.Helper()
	r, err := s.api.DeleteSessionWithResponse(s.t.Context(), id)
	if err != nil || r.StatusCode() != http.StatusNoContent {
		s.t.Fatalf("delete: %v", err)
	}
	s.eventually("workspace, settings and sandbox to be gone", time.Minute, func() bool {
		left, _ := filepath.Glob(filepath.Join(s.dir, "s*s", "*"+id+"*"))
		boxes, _ := os.ReadDir(filepath.Join(s.dir, "sandboxes"))
		return len(left) == 0 && len(boxes) == 0
	})
	log, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	events := strings.Join(s.replay(id, 1<<62), "\n")
	for _, canary := range []string{"agent-canary", "session-canary", "operator-canary", "sk-gateway-canary", "prompt-canary", masterKey} {
		for where, text := range map[string]string{"log": string(log), "events": events} {
			if strings.Contains(text, canary) {
				s.t.Errorf("%s is in the %s", canary, where)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

func equal(a, b nullable.Nullable[string]) bool {
	x, errX := a.Get()
	y, errY := b.Get()
	return errX == nil && errY == nil && x == y
}

func TestARealHarnessUsesItsToolAndWhatTheAgentCarries(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	agent := demoAgent()
	agent.SandboxFiles = nullable.NewNullableWithValue([]client.SandboxFileCreate{{Name: "n", SandboxPath: "~/notes.md", Content: []byte("from the agent")}})
	agents, sessions := s.skill("Release: \"notes\"", "Group by area."), s.skill("Émile", "Write in French.")
	agent.SkillIds = nullable.NewNullableWithValue([]string{agents})
	id := s.open(agent, client.SessionCreate{
		EnvVars:  nullable.NewNullableWithValue(map[string]string{"SESSION_SECRET": "session-canary"}),
		SkillIds: nullable.NewNullableWithValue([]string{sessions}),
	})
	s.await(id, client.SessionStatusReady)
	m := s.say(id, `RUN: cat ~/notes.md; tail -n 1 ~/.claude/skills/*/SKILL.md; echo " $AGENT_SECRET $SESSION_SECRET $FROM_OPERATOR ${GIT_TOKEN-none} ${MASTER_KEY-none} ${ENCRYPTION_KEY-none}"`)
	for _, want := range []string{
		"from the agent", "release-notes/SKILL.md <==\nGroup by area.\n", "emile/SKILL.md <==\nWrite in French.\n",
		" agent-canary session-canary operator-canary none none none",
	} {
		if out := output(m); !strings.Contains(out, want) {
			t.Errorf("tool says %q", out)
		}
	}
	for _, want := range []string{
		"prompt-canary\n\n<!-- skill:" + agents + " -->\nGroup by area.\n\n<!-- skill:" + sessions + " -->\nWrite in French.",
		"<name>release-notes</name>", "<description>Release: \"notes\"</description>", "<name>emile</name>", // opencode's own list
	} {
		if !slices.ContainsFunc(s.gateway.Requests(), func(r demo.Request) bool {
			return slices.ContainsFunc(r.Messages, func(m demo.Message) bool { return m.Role == "system" && strings.Contains(m.Text, want) })
		}) {
			t.Errorf("%q did not reach the model", want)
		}
	}
}

// skill creates one and returns its id.
func (s *server) skill(name, content string) string {
	s.t.Helper()
	r, err := s.api.CreateSkillWithResponse(s.t.Context(), nil, client.SkillCreate{Name: name, Content: content})
	if err != nil || r.JSON201 == nil {
		s.t.Fatalf("create skill: %v", err)
	}
	return r.JSON201.ID
}

// output is what the last tool of a message said, empty if it did not complete.
func output(m client.Message) (out string) {
	for _, p := range m.Parts {
		if p.Type == "tool" && *p.Status == "completed" {
			out = *p.Output
		}
	}
	return out
}

func TestARestartedSessionGoesOnWithItsConversation(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	id := s.open(demoAgent(), client.SessionCreate{EnvVars: nullable.NewNullableWithValue(map[string]string{"SESSION_SECRET": "session-canary"})})
	before := s.await(id, client.SessionStatusReady)
	s.say(id, "remember the word marmalade")
	live := s.watch(id)
	turn := s.post(id, "SLOW: 300 until aborted")
	s.eventually("first words", 2*time.Minute, func() bool { return count(live.all(), "message.delta", turn) > 0 })
	begun := time.Now()
	aborted, err := s.api.AbortTurnWithResponse(t.Context(), id, nil)
	if err != nil || aborted.JSON200 == nil || !aborted.JSON200.Aborted || s.ended(id, turn).Status != "aborted" {
		t.Fatalf("abort: %v %s", err, aborted.Body)
	}
	t.Logf("aborted after %v", time.Since(begun))
	if again, err := s.api.AbortTurnWithResponse(t.Context(), id, nil); err != nil || again.JSON200 == nil || again.JSON200.Aborted {
		t.Errorf("abort without a turn: %v", err)
	}
	stopped, err := s.api.StopSessionWithResponse(t.Context(), id, nil)
	if err != nil || stopped.JSON200 == nil || stopped.JSON200.Status != client.SessionStatusDead {
		t.Fatalf("stop: %v", err)
	}
	s.eventually("its processes to end", time.Minute, func() bool { return len(processesWith(t, s.dir+"/s")) == 0 })
	restarted, err := s.api.RestartSessionWithResponse(t.Context(), id, nil)
	if err != nil || restarted.JSON200 == nil || restarted.JSON200.Status != client.SessionStatusCreating {
		t.Fatalf("restart: %v", err)
	}
	if twice, err := s.api.RestartSessionWithResponse(t.Context(), id, nil); err != nil || twice.JSON409 == nil {
		t.Errorf("restart while creating: %v %s", err, twice.Body)
	}
	if after := s.await(id, client.SessionStatusReady); !equal(after.HarnessSessionID, before.HarnessSessionID) {
		t.Errorf("the harness's session was %v and is %v", before.HarnessSessionID, after.HarnessSessionID)
	}
	m := s.say(id, "RUN: echo still $SESSION_SECRET")
	if !slices.ContainsFunc(m.Parts, func(p client.MessagePart) bool {
		return p.Output != nil && strings.Contains(*p.Output, "still session-canary")
	}) {
		t.Errorf("parts = %+v", m.Parts)
	}
	last := s.gateway.Requests()[len(s.gateway.Requests())-1]
	if !slices.ContainsFunc(last.Messages, func(m demo.Message) bool { return strings.Contains(m.Text, "marmalade") }) {
		t.Error("the restarted session has forgotten the conversation")
	}
}

func TestKilledProcessesFailTheirTurnOnceAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	id := s.open(demoAgent(), client.SessionCreate{})
	s.await(id, client.SessionStatusReady)
	s.say(id, "remember the word marmalade")
	live := s.watch(id)
	running := func(text string) string {
		turn := s.post(id, text)
		s.eventually("first words", 2*time.Minute, func() bool { return count(live.all(), "message.delta", turn) > 0 })
		return turn
	}

	// The harness: its turn fails, the next one goes on in the same conversation.
	turn := running("SLOW: 100 until the harness dies")
	kill(t, s.dir, "opencode serve")
	if got := s.ended(id, turn); got.Status != "failed" || got.Info.Error.MustGet().Name != "turn_interrupted" {
		t.Errorf("turn = %+v", got)
	}
	s.say(id, "and now")
	last := s.gateway.Requests()[len(s.gateway.Requests())-1]
	if !slices.ContainsFunc(last.Messages, func(m demo.Message) bool { return strings.Contains(m.Text, "marmalade") }) {
		t.Error("the restarted harness has forgotten the conversation")
	}

	// sandboxd: the session ends, truthfully, with every process of it.
	turn = running("SLOW: 100 until sandboxd dies")
	kill(t, s.dir, "sandboxd -config")
	if got := s.ended(id, turn); got.Status != "failed" || got.Info.Error.MustGet().Name != "turn_interrupted" {
		t.Errorf("turn = %+v", got)
	}
	if got := s.session(id); got.Status != client.SessionStatusDead || !strings.Contains(got.FailureReason.MustGet(), "killed") {
		t.Errorf("session = %+v", got)
	}
	s.eventually("its processes to end", time.Minute, func() bool { return len(processesWith(t, s.dir)) == 0 })
	if n := count(live.all(), "turn.failed", ""); n != 2 {
		t.Errorf("%d turns failed", n)
	}
}

func TestTheDemoEndsByItselfAndLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), lap, "demo", "--once")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "DATA_DIR=" + dir, "HARNESS_DIR=" + servertest.HarnessDir(t), "LISTEN_ADDR=127.0.0.1:0"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"ready", "[demo]", "tool bash", "hello from Linux", "This file came with the agent."} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output has no %q:\n%s", want, out)
		}
	}
	if left := processesWith(t, dir); len(left) > 0 {
		t.Errorf("left running: %v", left)
	}
}

func TestAWrongConfigurationNamesEveryProblem(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), lap, "serve")
	cmd.Env = []string{"DATA_DIR=" + t.TempDir(), "LISTEN_ADDR=0.0.0.0:1", "LOG_LEVEL=loud", "DATABASE_URL=postgres://user:pw-canary@127.0.0.1:1/x"}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(stderr)
	if err := cmd.Wait(); err == nil {
		t.Error("it started")
	}
	for _, want := range []string{"LISTEN_ADDR", "LOG_LEVEL", "MASTER_KEY", "ENCRYPTION_KEY"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is not named: %s", want, out)
		}
	}
	if strings.Contains(string(out), "pw-canary") {
		t.Errorf("a secret is shown: %s", out)
	}
}
