package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// rig is a platform without HTTP: real store, real service and controller, fake runtime.
type rig struct {
	t       *testing.T
	o       session.Options
	rt      *fakeRuntime
	service *session.Service
	stop    func() // ends the controller, as losing the process would
}

func each(t *testing.T, fn func(t *testing.T, r *rig)) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) { fn(t, newRig(t, s)) })
}

func newRig(t *testing.T, s *store.Store) *rig {
	keyring := storetest.Keyring(t)
	rt := newFakeRuntime(t)
	r := &rig{t: t, rt: rt, o: session.Options{
		Store: s, Runtime: rt, Settings: fakeSettings{rt}, Keyring: keyring, Harnesses: []string{"opencode", "codex"},
		Gateway: sandboxd.Gateway{BaseURL: "http://gateway", APIKey: "sk-gw"}, Env: map[string]string{"A": "operator", "B": "operator", "C": "operator"},
		GitToken: "platform-token", GitHosts: []string{"git.example.com"}, GitProtocols: []string{"https"},
		StartTimeout: time.Minute, Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}}
	r.service = session.NewService(r.o)
	t.Cleanup(r.service.Close)
	r.lead()
	return r
}

// lead starts a controller.
func (r *rig) lead() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := session.NewController(r.o)
	r.service.HandTo(c)
	go func() { defer close(done); c.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
	r.t.Cleanup(r.stop)
}

func (r *rig) agent(change func(*store.Agent)) string {
	r.t.Helper()
	a := store.Agent{HarnessID: "opencode", AgentConfig: store.AgentConfig{Model: "m"}}
	if change != nil {
		change(&a)
	}
	if err := r.o.Store.CreateAgent(r.t.Context(), &a); err != nil {
		r.t.Fatal(err)
	}
	return a.ID
}

func (r *rig) open(p session.CreateParams) string {
	r.t.Helper()
	if p.AgentID == "" {
		p.AgentID = r.agent(nil)
	}
	s, err := r.service.Create(r.t.Context(), p)
	if err != nil {
		r.t.Fatal(err)
	}
	return s.ID
}

func (r *rig) session(id string) store.Session {
	r.t.Helper()
	s, err := r.o.Store.GetSession(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) await(id, status string) store.Session {
	r.t.Helper()
	eventually(r.t, "session "+status, func() bool { return r.session(id).Status == status })
	return r.session(id)
}

func text(s string) session.Message {
	return session.Message{Parts: []sandboxd.InputPart{{Type: "text", Text: &s}}, Body: []byte(s)}
}

func (r *rig) send(id, s string) store.Turn {
	r.t.Helper()
	turn, err := r.service.Send(r.t.Context(), id, text(s))
	if err != nil {
		r.t.Fatal(err)
	}
	return turn
}

func (r *rig) wait(turn store.Turn) store.Turn {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	ended, err := r.service.Wait(ctx, turn.SessionID, turn.ID)
	if err != nil {
		r.t.Fatalf("wait for turn: %v", err)
	}
	return ended
}

func (r *rig) events(id string) []store.Event {
	r.t.Helper()
	events, err := r.o.Store.Events(r.t.Context(), id, 0, 10000)
	if err != nil {
		r.t.Fatal(err)
	}
	return events
}

func (r *rig) count(id, typ string) int {
	n := 0
	for _, e := range r.events(id) {
		if e.Type == typ {
			n++
		}
	}
	return n
}

func TestASessionBecomesReadyAndAnswersInOrder(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.keep(true)
		id := r.open(session.CreateParams{})
		first, second := r.send(id, "one"), r.send(id, "two") // while creating
		r.rt.keep(false)
		if got := r.wait(second); got.Status != session.TurnCompleted {
			t.Fatalf("second turn is %s", got.Status)
		}
		ended := r.wait(first)
		info, parts, err := session.Reply(ended)
		if err != nil || len(parts) != 1 || *parts[0].Text != "re: one" || info.Tokens.Input != 3 || info.Cost != 0.5 || info.Error != nil {
			t.Errorf("reply = %+v %+v %v", info, parts, err)
		}
		s := r.session(id)
		if s.Status != session.Ready || *s.Phase != "ready" || *s.HarnessSessionID != "native-1" || *s.Response != "re: two" || s.TurnCount != 2 || *s.TitlePreview != "one" {
			t.Errorf("session = %+v", s)
		}
		var types []string
		for _, e := range r.events(id) {
			if e.TurnID == nil || *e.TurnID == first.ID {
				types = append(types, e.Type)
			}
		}
		want := []string{"session.status", "turn.queued", "session.phase", "session.phase", "session.status", "turn.started", "message.part", "turn.completed"} // the delta went with the end of its turn
		if !slices.Equal(types, want) {
			t.Errorf("events = %v", types)
		}
	})
}

func TestTheClockOfASandboxMayBeWrong(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for _, ahead := range []time.Duration{-10 * time.Minute, -time.Minute, 10 * time.Minute} {
			r.rt.mu.Lock()
			r.rt.ahead = ahead
			r.rt.mu.Unlock()
			id := r.open(session.CreateParams{})
			r.await(id, session.Ready)
			if got := r.wait(r.send(id, "one")); got.Status != session.TurnCompleted {
				t.Errorf("%v ahead: %+v", ahead, got)
			}
			if d, err := r.service.Diagnose(t.Context(), id); err != nil || d.Probe == nil || d.Probe.Err != "" {
				t.Errorf("%v ahead: %+v, %v", ahead, d.Probe, err)
			}
			if err := r.service.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			eventually(t, "nothing is left", func() bool { boxes, _, _ := r.rt.count(); return boxes == 0 })
		}
	})
}

func TestANoteOfTheStartStaysWhenTheSessionIsReady(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.note = "the remote has no main, its HEAD was taken"
		s := r.await(r.open(session.CreateParams{}), session.Ready)
		if *s.Phase != "ready" || s.PhaseDetail == nil || *s.PhaseDetail != r.rt.note {
			t.Errorf("phase %s, detail %v", *s.Phase, s.PhaseDetail)
		}
	})
}

func TestAnInitialPromptIsTheFirstTurn(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		prompt := "begin  with\nthis"
		id := r.open(session.CreateParams{InitialPrompt: &prompt})
		eventually(t, "the first turn to end", func() bool { return r.count(id, "turn.completed") == 1 })
		if s := r.session(id); *s.TitlePreview != "begin with this" || *s.Response != "re: "+prompt {
			t.Errorf("session = %+v", s)
		}
	})
}

func TestALostSandboxFailsItsTurnsOnceAndNothingRunsAgain(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) { b.emit("turn.started", turn.ID, `{}`) } // never ends
		id := r.open(session.CreateParams{})
		running, queued := r.send(id, "runs"), r.send(id, "waits")
		eventually(t, "the turn to start", func() bool { return r.count(id, "turn.started") == 1 })
		b := r.rt.only()
		b.crash("killed by the kernel")
		if got := r.wait(running); got.Status != session.TurnFailed || *got.ErrorName != session.TurnInterrupted || !contains(*got.ErrorMessage, "killed by the kernel") {
			t.Errorf("running turn = %+v", got)
		}
		if got := r.wait(queued); got.Status != session.TurnFailed || *got.ErrorName != session.TurnNotReady {
			t.Errorf("queued turn = %+v", got)
		}
		s := r.await(id, session.Dead)
		if !contains(*s.FailureReason, "killed by the kernel") {
			t.Errorf("reason = %s", *s.FailureReason)
		}
		eventually(t, "the sandbox to be gone", func() bool { n, _, _ := r.rt.count(); return n == 0 })
		if _, workspaces, _ := r.rt.count(); workspaces != 1 || r.rt.made != 1 || b.ran(queued.ID) != 0 || r.count(id, "turn.failed") != 2 {
			t.Errorf("workspaces %d, sandboxes made %d, queued turn ran %d times", workspaces, r.rt.made, b.ran(queued.ID))
		}
	})
}

func TestANewLeaderGoesOnInTheMiddleOfATurn(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(b *box, turn sandboxd.Turn) { b.emit("turn.started", turn.ID, `{}`) }
		id := r.open(session.CreateParams{})
		turn, next := r.send(id, "long"), r.send(id, "next")
		eventually(t, "the turn to start", func() bool { return r.count(id, "turn.started") == 1 })
		r.stop()
		b := r.rt.only()
		for i := range 100 {
			b.emit("message.delta", turn.ID, fmt.Sprintf(`{"part_id":"p1","offset":%d,"text":"x"}`, i))
		}
		b.emit("turn.completed", turn.ID, `{"parts":[],"tokens":{"input":0,"output":0,"cache_read":0,"cache_write":0},"cost":0}`)
		r.lead()
		r.wait(turn)
		eventually(t, "the next turn to start", func() bool { return b.ran(next.ID) == 1 })
		if b.ran(turn.ID) != 1 || r.count(id, "turn.started") != 2 && r.count(id, "turn.completed") != 1 || r.count(id, "message.delta") != 100 || r.rt.made != 1 {
			t.Errorf("turn ran %d times, %d deltas, %d sandboxes", b.ran(turn.ID), r.count(id, "message.delta"), r.rt.made)
		}
	})
}

func TestATurnWhoseHandOverBreaksIsSentAgainToTheSameAttempt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		b := r.rt.only()
		b.mu.Lock()
		b.failTurns = 3
		b.mu.Unlock()
		turn := r.send(id, "hello")
		if got := r.wait(turn); got.Status != session.TurnCompleted {
			t.Fatalf("turn = %+v", got)
		}
		next := r.wait(r.send(id, "again"))
		if b.ran(turn.ID) != 1 || next.Status != session.TurnCompleted || r.count(id, "turn.completed") != 2 {
			t.Errorf("ran %d times, next %s, %d ends", b.ran(turn.ID), next.Status, r.count(id, "turn.completed"))
		}
	})
}

func TestHostileRecordsChangeNothingTheyMayNot(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.onTurn = func(*box, sandboxd.Turn) {}
		other := r.open(session.CreateParams{})
		r.await(other, session.Ready)
		foreign := r.send(other, "of another session")
		eventually(t, "the foreign turn to be handed", func() bool {
			turn, err := r.o.Store.GetTurn(t.Context(), other, foreign.ID)
			return err == nil && turn.Status == session.Handed
		})
		id := r.open(session.CreateParams{})
		r.await(id, session.Ready)
		var b *box
		r.rt.mu.Lock()
		for _, x := range r.rt.boxes {
			if x.spec.SessionID == id {
				b = x
			}
		}
		r.rt.mu.Unlock()
		running, queued := r.send(id, "mine"), r.send(id, "queued")
		eventually(t, "my turn to run", func() bool { return b.ran(running.ID) == 1 })
		end := `{"parts":[],"tokens":{"input":0,"output":0,"cache_read":0,"cache_write":0},"cost":0}`
		b.emit("turn.completed", foreign.ID, end)
		b.emit("turn.completed", queued.ID, end)
		b.emit("turn.completed", "no-such-turn", end)
		b.emit("message.delta", queued.ID, `{}`)
		b.emit("session.status", "", `{"status":"dead"}`)
		b.emit("message.part", running.ID, `"not an object"`)
		b.emit("phase", "", `{"phase":"cloning_repo"}`) // backwards
		b.emit("ready", "", `[1]`)
		b.emit("message.part", running.ID, `{"part_id":"p1","part":{"id":"p1","type":"text","text":"nul \u0000 and lone \ud800"}}`)
		b.emit("turn.completed", running.ID, end)
		b.emit("turn.failed", running.ID, end)
		b.emit("message.part", running.ID, `{"part_id":"late"}`)
		b.emit("harness.event", "", `{"kind":"last"}`)
		r.wait(running)
		eventually(t, "the last record", func() bool { return r.count(id, "harness.event") == 1 })
		for _, probe := range []struct{ session, turn, want string }{{other, foreign.ID, session.Handed}, {id, queued.ID, session.Handed}} {
			turn, err := r.o.Store.GetTurn(t.Context(), probe.session, probe.turn)
			if err != nil || turn.Status != probe.want && turn.Status != session.Queued {
				t.Errorf("turn %s is %s, %v", probe.turn, turn.Status, err)
			}
		}
		if s := r.session(id); s.Status != session.Ready || *s.Phase != "ready" || r.count(id, "turn.completed") != 1 || r.count(id, "turn.failed") != 0 || r.count(id, "message.part") != 1 {
			t.Errorf("session = %+v with %d ends and %d parts", s, r.count(id, "turn.completed"), r.count(id, "message.part"))
		}
		for _, e := range r.events(id) {
			if !json.Valid(session.EncodeEvent(e)) {
				t.Errorf("event %d is not JSON", e.Seq)
			}
		}
		b.mu.Lock()
		b.emitLocked(int64(len(b.log))+5, "harness.event", "", `{}`)
		b.mu.Unlock()
		if s := r.await(id, session.Dead); !contains(*s.FailureReason, "gap") {
			t.Errorf("reason = %s", *s.FailureReason)
		}
	})
}

func TestAKeyNamesItsTurn(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.open(session.CreateParams{})
		m := text("once")
		m.Key = "k1"
		first, err := r.service.Send(t.Context(), id, m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.service.Send(t.Context(), id, m)
		if err != nil || again.ID != first.ID {
			t.Errorf("repeat: %v %v", again.ID, err)
		}
		m.Body = []byte("another")
		if _, err := r.service.Send(t.Context(), id, m); !errors.Is(err, store.ErrKeyReused) {
			t.Errorf("reuse: %v", err)
		}
		if ended := r.wait(first); ended.Status != session.TurnCompleted || r.session(id).TurnCount != 1 {
			t.Errorf("turn = %+v", ended)
		}
	})
}

func TestTheQueueOfASessionIsBounded(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.hold = true
		id := r.open(session.CreateParams{})
		for i := range session.MaxQueued {
			r.send(id, fmt.Sprint(i))
		}
		if _, err := r.service.Send(t.Context(), id, text("too many")); !errors.Is(err, session.ErrQueueFull) {
			t.Errorf("error = %v", err)
		}
	})
}

func TestRefusalsOfCreate(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		claude := r.agent(func(a *store.Agent) { a.HarnessID = "claude-code" })
		if _, err := r.service.Create(t.Context(), session.CreateParams{AgentID: claude}); !errors.Is(err, session.ErrHarness) {
			t.Errorf("harness: %v", err)
		}
		o := r.o
		o.Gateway = sandboxd.Gateway{}
		bare := session.NewService(o)
		defer bare.Close()
		if _, err := bare.Create(t.Context(), session.CreateParams{AgentID: r.agent(nil)}); !errors.Is(err, session.ErrNoGateway) {
			t.Errorf("gateway: %v", err)
		}
		if boxes, _, settings := r.rt.count(); boxes+settings != 0 {
			t.Errorf("%d sandboxes, %d settings left", boxes, settings)
		}
	})
}

func TestWhatASandboxIsBoundWith(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		repo, prompt := "https://git.example.com/x", "be kind"
		agent := r.agent(func(a *store.Agent) {
			a.RepoURL, a.Prompt = &repo, &prompt
			a.EnvVars = map[string]string{"B": "agent", "C": "agent", "GITHUB_TOKEN": "agents-own"}
			a.Files = []store.File{{Name: "n", Path: "~/n", ContentType: "text/plain", Content: []byte("content"), Size: 7}}
		})
		id := r.open(session.CreateParams{AgentID: agent, EnvVars: map[string]string{"C": "session"}})
		r.await(id, session.Ready)
		b := r.rt.only()
		b.mu.Lock()
		defer b.mu.Unlock()
		env := b.bound.Env
		for k, want := range map[string]string{
			"A": "operator", "B": "agent", "C": "session", "LITELLM_API_KEY": "sk-gw", "LITELLM_DEFAULT_MODEL": "m",
			"REPO_URL": repo, "BRANCH": "main", "AGENT_PROMPT": prompt, "GITHUB_TOKEN": "agents-own",
		} {
			if env[k] != want {
				t.Errorf("%s = %q, want %q", k, env[k], want)
			}
		}
		if _, ok := env["GIT_TOKEN"]; ok {
			t.Error("GIT_TOKEN is in the environment")
		}
		// The agent's GitHub token is for github.com only; this host gets the platform's.
		if b.bound.Repo == nil || *b.bound.Repo.Token != "platform-token" || b.bound.Repo.BranchSet || len(b.bound.Files) != 1 || string(b.bound.Files[0].Content) != "content" {
			t.Errorf("bound = %+v", b.bound)
		}
	})
}
