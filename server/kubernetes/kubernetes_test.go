package kubernetes_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

func TestASessionLivesInAPodFromItsOpeningToItsDeletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.Postgres(t))
	s := w.start()
	begun := time.Now()
	id := s.open(client.AgentCreateHarnessIDOpencode)
	s.await(id, client.SessionStatusReady)
	t.Logf("ready after %v", time.Since(begun))
	if said := s.say(id, `RUN: echo "$AGENT_SECRET $SESSION_SECRET $FROM_OPERATOR"; echo kept > note`); !strings.Contains(said, "agent-canary session-canary operator-canary") {
		t.Errorf("the harness says %q", said)
	}
	names := w.objects()
	if !slices.Contains(names, "persistentvolumeclaim workspace-"+id) || !slices.Contains(names, "secret settings-"+id) || len(names) != 3 {
		t.Errorf("there are %v", names)
	}

	s.sessions().LooksWell(id, w.namespace, canaries)

	stopped, err := s.api.StopSessionWithResponse(t.Context(), id, nil)
	if err != nil || stopped.JSON200 == nil || stopped.JSON200.Status != client.SessionStatusDead {
		t.Fatalf("stop: %v", err)
	}
	w.eventually("its pod is gone", func() bool { return len(w.objects()) == 2 })
	restarted, err := s.api.RestartSessionWithResponse(t.Context(), id, nil)
	if err != nil || restarted.JSON200 == nil {
		t.Fatalf("restart: %v", err)
	}
	s.await(id, client.SessionStatusReady)
	if said := s.say(id, "RUN: cat note; echo $SESSION_SECRET"); !strings.Contains(said, "kept\nsession-canary") {
		t.Errorf("after the restart it says %q", said)
	}

	if r, err := s.api.DeleteSessionWithResponse(t.Context(), id); err != nil || r.StatusCode() != http.StatusNoContent {
		t.Fatalf("delete: %v", err)
	}
	w.eventually("nothing is left", func() bool { return len(w.objects()) == 0 })
}

func TestAPodThatIsDeletedByHandEndsItsSessionWhateverItsPhase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.Postgres(t))
	s := w.start()
	ready := s.open(client.AgentCreateHarnessIDOpencode)
	s.await(ready, client.SessionStatusReady)
	starting := s.open(client.AgentCreateHarnessIDOpencode)
	w.eventually("it has a pod", func() bool { return plane.DeletePods(t, w.namespace, starting) > 0 })
	if n := plane.DeletePods(t, w.namespace, ready); n != 1 {
		t.Fatalf("%d pods were deleted", n)
	}
	begun := time.Now()
	ended := func(id string, want client.SessionStatus) bool {
		got := s.session(id)
		if got.Status != want {
			return false
		}
		if reason := got.FailureReason.MustGet(); !strings.Contains(reason, "deleted") && !strings.Contains(reason, "gone") {
			t.Errorf("the reason is %q", reason)
		}
		return true
	}
	w.eventually("the one is dead", func() bool { return ended(ready, client.SessionStatusDead) })
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	// One that nobody has spoken to yet may as well be made again.
	w.eventually("the other has failed or is ready after all", func() bool {
		return ended(starting, client.SessionStatusFailed) || s.session(starting).Status == client.SessionStatusReady
	})
	if s.session(starting).Status == client.SessionStatusReady {
		if r, err := s.api.StopSessionWithResponse(t.Context(), starting, nil); err != nil || r.JSON200 == nil {
			t.Fatalf("stop: %v %s", err, r.Body)
		}
	}
	w.eventually("no pod is left", func() bool {
		return !slices.ContainsFunc(w.objects(), func(name string) bool { return strings.HasPrefix(name, "pod ") })
	})
}

func TestATerminalIsAttachedThroughAServerThatDoesNotLead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.Postgres(t))
	one, two := w.start(), w.start()
	w.eventually("one leads", func() bool { return one.leads() != two.leads() })
	if two.leads() {
		two = one
	}
	id := two.open(client.AgentCreateHarnessIDClaudeCode)
	sess := two.await(id, client.SessionStatusReady)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, two.url+sess.TtyURL.MustGet(), &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + sess.TtyToken.MustGet()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	var screen []byte
	for !strings.Contains(string(screen), "Claude") {
		_, b, err := ws.Read(ctx)
		if err != nil {
			t.Fatalf("%v after %q", err, screen)
		}
		screen = append(screen, b...)
	}
	if r, err := two.api.DeleteSessionWithResponse(t.Context(), id); err != nil || r.StatusCode() != http.StatusNoContent {
		t.Fatalf("delete: %v", err)
	}
	w.eventually("nothing is left", func() bool { return len(w.objects()) == 0 })
}

func TestOfTwoServersOneLeadsAndTheOtherTakesOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, storetest.Postgres(t))
	leader, other := w.start(), w.start()
	w.eventually("one leads", func() bool { return leader.leads() != other.leads() })
	if other.leads() {
		leader, other = other, leader
	}
	// The API and its streams work on both, whoever leads.
	id := other.open(client.AgentCreateHarnessIDOpencode)
	other.await(id, client.SessionStatusReady)
	if said := other.say(id, "marker-1"); !strings.Contains(said, "marker-1") {
		t.Errorf("it says %q", said)
	}
	begun := time.Now()
	leader.kill()
	w.eventually("the other leads", other.leads)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	} else {
		t.Logf("taken over after %v", took)
	}
	if said := other.say(id, "marker-2"); !strings.Contains(said, "marker-2") {
		t.Errorf("it says %q", said)
	}
	for _, marker := range []string{"marker-1", "marker-2"} {
		if n := w.asked(marker); n != 1 {
			t.Errorf("the model was asked %d times about %s", n, marker)
		}
	}
	if r, err := other.api.DeleteSessionWithResponse(t.Context(), id); err != nil || r.StatusCode() != http.StatusNoContent {
		t.Fatalf("delete: %v", err)
	}
	w.eventually("nothing is left", func() bool { return len(w.objects()) == 0 })
}
