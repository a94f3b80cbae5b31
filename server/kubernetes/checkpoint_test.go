package kubernetes_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen/client"
	"github.com/litellm-agent-platform/lap/server/demo"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// forgetful is a server whose pods have workspaces of their own.
type forgetful struct {
	*server
	db store.Options
}

func newForgetful(t *testing.T) *forgetful {
	t.Helper()
	database := storetest.Postgres(t)
	return &forgetful{newWorld(t, database, "SANDBOX_VOLUME_SIZE=").start(), store.Options{DatabaseURL: database}}
}

// covered waits until what is kept of a session has this many turns in it.
func (f *forgetful) covered(id string, turns int) {
	f.t.Helper()
	f.eventually("its state is kept", func() bool {
		return storetest.Text(f.t, f.db, "SELECT covers FROM checkpoints WHERE session_id = $1", id) == fmt.Sprint(turns)
	})
}

func (f *forgetful) hasPod() bool {
	return slices.ContainsFunc(f.objects(), func(o string) bool { return strings.HasPrefix(o, "pod ") })
}

func (f *forgetful) stop(id string) {
	f.t.Helper()
	if r, err := f.api.StopSessionWithResponse(f.t.Context(), id, nil); err != nil || r.JSON200 == nil {
		f.t.Fatalf("stop: %v %s", err, r.Body)
	}
	f.eventually("its pod is gone", func() bool { return !f.hasPod() })
}

func (f *forgetful) restart(id string) client.Session {
	f.t.Helper()
	if r, err := f.api.RestartSessionWithResponse(f.t.Context(), id, nil); err != nil || r.JSON200 == nil {
		f.t.Fatalf("restart: %v %s", err, r.Body)
	}
	return f.await(id, client.SessionStatusReady)
}

// told is what a session's events say of its workspaces, its conversations and its checkpoints.
func (f *forgetful) told(id string) string {
	f.t.Helper()
	limit, follow := 1000, false
	r, err := f.api.StreamEventsWithResponse(f.t.Context(), id, &client.StreamEventsParams{Follow: &follow, Limit: &limit})
	if err != nil || r.JSON200 == nil {
		f.t.Fatalf("events: %v", err)
	}
	var told []string
	for _, e := range r.JSON200.Data {
		data, err := json.Marshal(e.Data)
		if err != nil {
			f.t.Fatal(err)
		}
		var d struct{ Workspace, Conversation, Kind, Status string }
		_ = json.Unmarshal(data, &d)
		switch {
		case d.Workspace != "":
			told = append(told, d.Workspace)
		case d.Conversation != "":
			told = append(told, d.Conversation)
		case d.Kind == "checkpoint":
			told = append(told, d.Kind+" "+d.Status)
		}
	}
	return strings.Join(told, ", ")
}

// heard is the user's side of the last request to the model, without what harnesses say of themselves.
func (f *forgetful) heard() string {
	all := f.gateway.Requests()
	var said []string
	for _, m := range all[len(all)-1].Messages {
		if m.Role == "user" {
			said = append(said, m.Text)
		}
	}
	return strings.Join(said, "\n---\n")
}

func TestAConversationGoesOnInAPodWithAFreshWorkspace(t *testing.T) {
	t.Parallel()
	for _, harness := range []client.AgentCreateHarnessID{client.AgentCreateHarnessIDOpencode, client.AgentCreateHarnessIDClaudeAgentSdk} {
		t.Run(string(harness), func(t *testing.T) {
			t.Parallel()
			f := newForgetful(t)
			id := f.open(harness)
			before := f.await(id, client.SessionStatusReady).HarnessSessionID.MustGet()
			f.say(id, "RUN: echo marmalade | tee note")

			// Stopped at once, and restarted: all of it is there, as it was.
			f.stop(id)
			if after := f.restart(id).HarnessSessionID.MustGet(); after != before {
				t.Errorf("the harness's conversation was %s and is %s", before, after)
			}
			if said := f.say(id, "RUN: cat note || echo no note"); !strings.Contains(said, "no note") {
				t.Errorf("in a fresh workspace it says %q", said)
			}
			if heard := f.heard(); !strings.Contains(heard, "RUN: echo marmalade") || strings.Contains(heard, "<user>") {
				t.Errorf("the model was sent %q", heard)
			}

			// Lost after a quiet moment, and once more.
			f.covered(id, 2)
			f.node.Kill(t, f.pod(id))
			f.await(id, client.SessionStatusDead)
			f.restart(id)
			f.say(id, "and now?")
			if heard := f.heard(); !strings.Contains(heard, "RUN: echo marmalade") || !strings.Contains(heard, "RUN: cat note") || strings.Contains(heard, "<user>") {
				t.Errorf("the model was sent %q", heard)
			}

			// Damaged: it is said so, and the conversation told again.
			f.stop(id)
			storetest.Exec(t, f.db, "UPDATE checkpoints SET sealed = substr(sealed, 1, 30) WHERE session_id = $1", id)
			after := f.restart(id).HarnessSessionID.MustGet()
			f.say(id, "still?")
			if heard := f.heard(); harness == client.AgentCreateHarnessIDOpencode && after == before || strings.Count(heard, "RUN: echo marmalade") != 1 || !strings.Contains(heard, "<user>") {
				t.Errorf("the model was sent %q", heard)
			}
			if told := f.told(id); told != "new, fresh, restored, fresh, restored, fresh, checkpoint unreadable, replayed" {
				t.Errorf("the events say %s", told)
			}
			f.covered(id, 4)
			if r, err := f.api.DeleteSessionWithResponse(t.Context(), id); err != nil || r.StatusCode() != http.StatusNoContent {
				t.Fatalf("delete: %v", err)
			}
			f.eventually("nothing is left", func() bool { return len(f.objects()) == 0 && storetest.Rows(t, f.db, "checkpoints") == 0 })
		})
	}
}

func TestATerminalGoesOnInAPodWithAFreshWorkspace(t *testing.T) {
	t.Parallel()
	for _, harness := range []client.AgentCreateHarnessID{client.AgentCreateHarnessIDClaudeCode, client.AgentCreateHarnessIDCodex} {
		t.Run(string(harness), func(t *testing.T) {
			t.Parallel()
			f := newForgetful(t)
			id := f.opened(harness, client.SessionCreate{InitialPrompt: nullable.NewNullableWithValue("remember marmalade")})
			f.await(id, client.SessionStatusReady)
			f.eventually("the model has answered", func() bool {
				return slices.ContainsFunc(f.gateway.Requests(), func(r demo.Request) bool {
					return r.CompletionTokens > 0 && slices.ContainsFunc(r.Messages, func(m demo.Message) bool { return strings.Contains(m.Text, "remember marmalade") })
				})
			})
			f.eventually("its state is kept", func() bool { return storetest.Rows(t, f.db, "checkpoints") == 1 })
			f.stop(id)
			native := storetest.Text(t, f.db, "SELECT conversation FROM checkpoints WHERE session_id = $1", id)
			if after := f.restart(id).HarnessSessionID.MustGet(); native == "" || after != native {
				t.Errorf("the harness's conversation was %q and is %q", native, after)
			}
			if told := f.told(id); told != "new, fresh, restored" {
				t.Errorf("the events say %s", told)
			}
		})
	}
}

// pod is the name of a session's pod.
func (f *forgetful) pod(id string) string {
	f.t.Helper()
	name := storetest.Text(f.t, f.db, "SELECT sandbox_id FROM sessions WHERE id = $1", id)
	if name == "" {
		f.t.Fatal("the session has no pod")
	}
	return name
}
