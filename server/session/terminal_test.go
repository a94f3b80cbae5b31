package session_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

func (b *box) serveTerminal(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{session.TerminalProtocol}})
	if err != nil {
		b.r.t.Error(err)
		return
	}
	b.mu.Lock()
	b.attached = append(b.attached, c)
	b.mu.Unlock()
	b.ends <- c
}

// active says when bytes last went through the terminal.
func (b *box) active(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.activeAt = &at
}

// tui opens a session of a harness with a terminal that is idle after so long.
func (r *rig) tui(after time.Duration, p session.CreateParams) string {
	ms := after.Milliseconds()
	p.AgentID = r.agent(func(a *store.Agent) { a.HarnessID, a.IdleTimeoutMs = "codex", &ms })
	p.EnvVars = map[string]string{"K": "v"}
	return r.open(p)
}

// attach opens the terminal of a session and returns the sandbox's end of it too.
func (r *rig) attach(id string) (*session.Terminal, *websocket.Conn) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	term, err := r.service.OpenTerminal(ctx, id, &session.TerminalSize{Cols: 80, Rows: 24})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(term.Close)
	return term, <-r.rt.only().ends
}

// ended receives until the terminal is over.
func ended(term *session.Terminal) error {
	for {
		if _, _, err := term.Receive(make([]byte, 100)); err != nil {
			return err
		}
	}
}

func TestAttachingWakesASuspendedSessionAndWaitsForIt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(200*time.Millisecond, session.CreateParams{})
		r.suspended(id)
		r.rt.keep(true)
		type result struct {
			term *session.Terminal
			err  error
		}
		opened := make(chan result, 2)
		for range 2 { // together they wake it once
			go func() {
				term, err := r.service.OpenTerminal(context.Background(), id, nil)
				opened <- result{term, err}
			}()
		}
		eventually(t, "the session to be woken", func() bool { return r.session(id).SandboxState == "waking" })
		r.rt.only()
		// Whoever leaves while it wakes does not wait for it.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.service.OpenTerminal(ctx, id, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a client that left gets %v", err)
		}
		if len(opened) != 0 {
			t.Error("a terminal is open before the session is ready")
		}
		r.rt.keep(false)
		for range 2 {
			o := <-opened
			if o.err != nil {
				t.Fatal(o.err)
			}
			defer o.term.Close()
		}
		if s := r.session(id); s.Attempt != 2 || s.Status != session.Ready {
			t.Errorf("woken = %+v", s)
		}
		if boxes, _, _ := r.rt.count(); boxes != 1 {
			t.Errorf("%d sandboxes", boxes)
		}
	})
}

func TestAWakeByAttachingThatCannotBeIsRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(200*time.Millisecond, session.CreateParams{})
		r.suspended(id)
		o := r.o
		o.Gateway.BaseURL = ""
		without := session.NewService(o)
		defer without.Close()
		if _, err := without.OpenTerminal(t.Context(), id, nil); !errors.Is(err, session.ErrNoGateway) {
			t.Errorf("without a gateway: %v", err)
		}
		full := r.bounded(1, 0)
		other := r.open(session.CreateParams{})
		if _, err := full.OpenTerminal(t.Context(), id, nil); !errors.Is(err, session.ErrCapacity) {
			t.Errorf("without a place: %v", err)
		}
		if s := r.session(id); s.Attempt != 1 || s.SandboxState != "suspended" {
			t.Errorf("the refusals changed the session: %+v", s)
		}
		r.await(other, session.Ready)
		if err := r.service.Delete(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other sandbox to be gone", func() bool { boxes, _, _ := r.rt.count(); return boxes == 0 })
		r.rt.keep(true)
		opened := make(chan error, 1)
		go func() {
			_, err := r.service.OpenTerminal(context.Background(), id, nil)
			opened <- err
		}()
		r.rt.only().crash("out of memory")
		if err := <-opened; !errors.Is(err, session.ErrNotWoken) {
			t.Errorf("a wake that failed: %v", err)
		}
		if s := r.session(id); s.SandboxState != "suspended" || s.FailureReason == nil || !contains(*s.FailureReason, "out of memory") {
			t.Errorf("after a wake that failed: %+v", s)
		}
		// Closing the service ends the wait.
		closing := session.NewService(r.o)
		go func() {
			_, err := closing.OpenTerminal(context.Background(), id, nil)
			opened <- err
		}()
		eventually(t, "it to be woken again", func() bool { return r.session(id).SandboxState == "waking" })
		closing.Close()
		if err := <-opened; !errors.Is(err, session.ErrClosing) {
			t.Errorf("the service closed: %v", err)
		}
	})
}

func TestBytesThroughTheTerminalAreActivity(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(time.Second, session.CreateParams{})
		ready := r.await(id, session.Ready)
		term, end := r.attach(id)
		go func() { _ = ended(term) }()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		// Three times the idle timeout with keystrokes, then three times with output.
		for i, start := 0, time.Now(); time.Since(start) < 6*time.Second; i++ {
			<-tick.C
			var err error
			if time.Since(start) < 3*time.Second {
				if err = term.Type([]byte("k")); err == nil {
					_, _, err = end.Read(t.Context())
				}
			} else {
				err = end.Write(t.Context(), websocket.MessageBinary, []byte("o"))
			}
			if err != nil {
				t.Fatalf("the active terminal ended: %v", err)
			}
		}
		if s := r.session(id); s.SandboxState != "running" || s.Attempt != 1 || !s.LastSeenAt.After(ready.LastSeenAt.Add(4*time.Second)) {
			t.Errorf("active = %+v", s)
		}
		// Attached and silent is idle.
		r.suspended(id)
		<-term.Over()
		var over *session.TerminalEnd
		if err := term.Why(); !errors.As(err, &over) || over.Again {
			t.Errorf("over because %v", err)
		}
	})
}

func TestOutputThatNobodySeesIsActivityToo(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(300*time.Millisecond, session.CreateParams{})
		b := r.rt.only()
		b.active(time.Now().Add(time.Hour)) // a hostile sandbox says so, and is told its time
		ready := r.await(id, session.Ready)
		for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
			b.active(time.Now())
			<-time.After(20 * time.Millisecond)
		}
		s := r.session(id)
		if s.SandboxState != "running" || s.Attempt != 1 || !s.LastSeenAt.After(ready.LastSeenAt.Add(time.Second)) || s.LastSeenAt.After(time.Now()) {
			t.Errorf("active = %+v", s)
		}
		r.suspended(id)
	})
}

func TestASandboxThatDoesNotTellItsActivityIsNotSuspended(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(500*time.Millisecond, session.CreateParams{})
		b := r.rt.only()
		r.await(id, session.Ready)
		b.mu.Lock()
		asked := make(chan struct{})
		b.unwell = asked
		b.mu.Unlock()
		<-asked
		if s := r.session(id); s.SandboxState != "running" {
			t.Errorf("it is %s", s.SandboxState)
		}
		r.suspended(id) // the next answer is a good one
	})
}

func TestAnInitialPromptIsTypedInTheFirstAttemptOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(time.Hour, session.CreateParams{InitialPrompt: new("fix the build")})
		s := r.await(id, session.Ready)
		b := r.rt.only()
		if got := b.bound.InitialPrompt; got == nil || *got != "fix the build" || s.TurnCount != 1 || *s.TitlePreview != "fix the build" {
			t.Errorf("bound with %v: %+v", got, s)
		}
		entries, _, err := r.service.Transcript(t.Context(), id, session.Place{}, 0, 10)
		if err != nil || len(entries) != 2 || *entries[0].Parts[0].Text != "fix the build" || len(entries[1].Parts) != 0 || entries[1].Info.Error != nil {
			t.Errorf("transcript %+v %v", entries, err)
		}
		if n := b.ran(entries[0].Info.TurnID); n != 0 {
			t.Errorf("the turn was handed over %d times", n)
		}
		if _, err := r.service.Send(t.Context(), id, text("more")); !errors.Is(err, session.ErrTUI) {
			t.Errorf("message: %v", err)
		}
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another sandbox", func() bool { s := r.session(id); return s.Attempt == 2 && s.Status == session.Ready })
		if got := r.rt.only().bound; got.InitialPrompt != nil || got.HarnessSessionID == nil {
			t.Errorf("the second attempt is bound with %+v", got)
		}
		if got := r.types(id); !slices.Equal(got, []string{"turn.queued", "turn.completed"}) {
			t.Errorf("events %v", got)
		}
	})
}

// types are the types of the events of a session's turns.
func (r *rig) types(id string) (out []string) {
	for _, e := range r.events(id) {
		if e.TurnID != nil {
			out = append(out, e.Type)
		}
	}
	return out
}

func TestAnInitialPromptFailsWithItsAttempt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.rt.keep(true)
		id := r.tui(time.Hour, session.CreateParams{InitialPrompt: new("fix the build")})
		r.rt.only().crash("no such image")
		r.await(id, session.Failed)
		if got := r.types(id); !slices.Equal(got, []string{"turn.queued", "turn.failed"}) {
			t.Errorf("events %v", got)
		}
		r.rt.keep(false)
		if _, err := r.service.Restart(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		r.await(id, session.Ready)
		if got := r.rt.only().bound.InitialPrompt; got != nil {
			t.Errorf("it is typed later: %q", *got)
		}
	})
}

func TestAServiceClosesWhenItsTerminalsHave(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(time.Hour, session.CreateParams{})
		r.await(id, session.Ready)
		s := session.NewService(r.o)
		term, err := s.OpenTerminal(t.Context(), id, nil)
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() { s.Close(); close(closed) }()
		<-term.Over()
		if err := ended(term); !errors.Is(err, session.ErrClosing) {
			t.Errorf("the terminal is over because %v", err)
		}
		select {
		case <-closed:
			t.Error("the service is closed, its terminal is not")
		default:
		}
		term.Close()
		term.Close()
		<-closed
		if _, err := s.OpenTerminal(t.Context(), id, nil); !errors.Is(err, session.ErrClosing) {
			t.Errorf("a terminal of a closed service: %v", err)
		}
	})
}

func TestEachServerSignsItsCallsForTheSandboxAlone(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		id := r.tui(time.Hour, session.CreateParams{})
		r.await(id, session.Ready)
		// The row names a key that this server does not have.
		if err := r.o.Store.Session(t.Context(), id, func(tx *store.SessionTx) error { tx.Session.KeyID = "00000000"; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := r.service.OpenTerminal(t.Context(), id, nil); !errors.Is(err, session.ErrUnreachable) {
			t.Errorf("without the sandbox's key: %v", err)
		}
		b := r.rt.only()
		r.rt.mu.Lock()
		delete(r.rt.boxes, b.spec.ID)
		r.rt.mu.Unlock()
		t.Cleanup(func() { b.crash("test ended") })
		if _, err := r.service.OpenTerminal(t.Context(), id, nil); !errors.Is(err, session.ErrUnreachable) || errors.Is(err, sandbox.ErrToken) {
			t.Errorf("without the sandbox: %v", err)
		}
	})
}
