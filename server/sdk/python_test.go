package sdk_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// The Python client against the real server with real OpenCode, over a line that breaks.
func TestPython(t *testing.T) {
	t.Parallel()
	s := startLive(t)
	tree, err := filepath.Abs("../../gen/python")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("quick start", func(t *testing.T) { t.Parallel(); pythonQuickStart(t, s, tree) })
	t.Run("bad line", func(t *testing.T) { t.Parallel(); pythonBadLine(t, s, tree) })
}

func TestPythonAlone(t *testing.T) {
	t.Parallel()
	tree, err := filepath.Abs("../../gen/python")
	if err != nil {
		t.Fatal(err)
	}
	python(t, t.TempDir(), tree, "", "-W", "error::ResourceWarning", "-m", "unittest", "test_lap")
}

// python runs Python with lap.py on its path and returns what it printed. It leaves nothing in the tree.
func python(t *testing.T, dir, tree, url string, args ...string) string {
	t.Helper()
	env := []string{"PYTHONPATH=" + tree, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1", "LAP_URL=" + url, "LAP_KEY=" + masterKey}
	return run(t, dir, append(os.Environ(), env...), "python3", args...)
}

// pythonQuickStart runs the program of the README as it stands there.
func pythonQuickStart(t *testing.T, s liveServer, tree string) {
	line := newBadLine(t, s.url)
	line.set(func() { line.every = 3 })
	dir := t.TempDir()
	source := fenced(t, filepath.Join(tree, "README.md"), "python")
	if err := os.WriteFile(filepath.Join(dir, "main.py"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := python(t, dir, tree, line.url, "main.py"); !strings.HasPrefix(out, "[demo] ") || strings.Count(out, "You said: What can you do for me?\n") != 1 {
		t.Errorf("it printed %q", out)
	}
	if line.cut() == 0 {
		t.Error("no stream was cut")
	}
}

const pythonScript = `
import json, os, threading
import lap

api = lap.Client(os.environ["LAP_URL"], os.environ["LAP_KEY"])
agent = api.post("/api/v1/managed_agents/agents", {"model": "demo/echo", "name": "python"})
session = api.post(f"/api/v1/managed_agents/agents/{agent['id']}/session")
id, live = session["id"], []

def follow():
    for event in api.events(id):
        live.append(event["seq"])
        if event["type"] == "session.status" and event["data"]["status"] == "dead":
            return

follower = threading.Thread(target=follow)
follower.start()
reply, shown = lap.Reply(), ""
for event in api.turn(id, "SLOW: 12"):
    shown += reply.add(event)
reply.check()
whole = api.message(id, "whole")
roles = [m["info"]["role"] for m in api.messages(id, limit=1)]
try:
    api.post(f"/api/v1/managed_agents/sessions/{id}/message", {"text": "x", "parts": []})
    refused = None
except lap.BadRequest as err:
    refused = [err.code, [d["field"] for d in err.details]]
for n in range(5):
    api.post("/api/v1/skills", {"name": f"python {n}", "content": "x"})
skills = [s["name"] for s in api.skills(limit=2) if s["name"].startswith("python")]
api.post(f"/api/v1/managed_agents/sessions/{id}/stop")
follower.join()
api.delete(f"/api/v1/managed_agents/agents/{agent['id']}")
print(json.dumps({"agent": agent["id"], "session": id, "live": live, "reply": reply.text, "shown": shown, "roles": roles,
    "refused": refused, "skills": skills, "whole": whole["status"] + ": " + whole["parts"][-1]["text"]}))
`

// pythonBadLine loses answers and cuts streams: what was done is done once, no event is missing or comes twice.
func pythonBadLine(t *testing.T, s liveServer, tree string) {
	line := newBadLine(t, s.url)
	line.set(func() {
		line.every = 4
		line.lose["POST /api/v1/managed_agents/agents"] = 2
		line.lose["/session"] = 1
		line.lose["/stop"] = 1
		line.lose["POST /api/v1/skills"] = 3
	})
	var got struct {
		Agent, Session, Reply, Shown, Whole string

		Live          []int64
		Roles, Skills []string
		Refused       []any
	}
	if err := json.Unmarshal([]byte(python(t, t.TempDir(), tree, line.url, "-c", pythonScript)), &got); err != nil {
		t.Fatal(err)
	}
	if want := "[demo] 1 2 3 4 5 6 7 8 9 10 11 12 "; got.Reply != want || got.Shown != want {
		t.Errorf("reply %q, shown %q", got.Reply, got.Shown)
	}
	if roles := strings.Join(got.Roles, " "); roles != "user assistant user assistant" {
		t.Errorf("the transcript is %s", roles)
	}
	if !strings.HasPrefix(got.Whole, "completed: [demo]") || !strings.HasSuffix(got.Whole, "You said: whole") {
		t.Errorf("the whole turn is %q", got.Whole)
	}
	if names := strings.Join(got.Skills, ", "); names != "python 4, python 3, python 2, python 1, python 0" {
		t.Errorf("skills %s", names)
	}
	if len(got.Refused) != 2 || got.Refused[0] != "invalid_request" {
		t.Errorf("a bad message is %v", got.Refused)
	}
	if n := line.count("POST /api/v1/managed_agents/agents"); n != 3 {
		t.Errorf("the server was asked %d times for the agent", n)
	}
	a := goClient(t, s.url)
	sessions := 0
	for _, err := range a.Sessions(t.Context(), &client.ListSessionsParams{AgentID: &got.Agent}) {
		if sessions++; err != nil {
			t.Fatal(err)
		}
	}
	if sessions != 1 {
		t.Errorf("%d sessions", sessions)
	}
	seen, before := map[int64]bool{}, int64(0)
	for _, seq := range got.Live {
		if seq <= before {
			t.Errorf("event %d after %d", seq, before)
		}
		seen[seq], before = true, seq
	}
	for e, err := range a.EventLog(t.Context(), got.Session, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if !seen[e.Seq] && e.Seq <= before {
			t.Errorf("event %d, %s, is missing", e.Seq, e.Type)
		}
	}
	if line.cut() < 2 { // how many is up to how deltas come
		t.Errorf("only %d streams were cut", line.cut())
	}
}
