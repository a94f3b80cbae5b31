package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/contract"
	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// world is what the database must hold after the requests so far, kept independently of the code under test.
type world struct {
	agents   map[string]*agentState
	skills   map[string]*skillState
	sessions map[string]*sessionState
	files    map[string]bool // sums of contents
	turns    int
	hidden   int // skills outside the library
	answers  map[string]bool
}

type agentState struct {
	harness string
	version float64
	prompt  int // its bytes
	deleted bool
}

type skillState struct {
	version float64
	content int // its bytes
	deleted bool
}

type sessionState struct {
	agent, harness string
	live, deleted  bool
	queued         int
}

func newWorld() *world {
	return &world{
		agents: map[string]*agentState{}, skills: map[string]*skillState{}, sessions: map[string]*sessionState{}, files: map[string]bool{}, answers: map[string]bool{},
	}
}

func (s *sessionState) tui() bool { return s.harness == "codex" }

// want is an answer that a request may get; an empty code is that of a success.
type want struct {
	status int
	code   string
}

var success = want{}

// wanted lists the answers that the request may get in this world. There is more than one where rules of equal rank are broken.
func (w *world) wanted(q *contract.Request) []want {
	var list []want
	if len(q.Flaws) > 0 {
		list = []want{{q.Flaws[0].Status, q.Flaws[0].Code}}
		if q.Flaws[0].Rule != "unknown skill" {
			return list
		}
	}
	if refusal := w.refusal(q); refusal != success {
		list = append(list, refusal)
	}
	if len(list) == 0 {
		list = []want{success}
	}
	if q.Repeats != nil && q.Operation == "createSession" {
		list = append(list, want{http.StatusNotFound, "not_found"}) // what it names may have been deleted since
	}
	if w.longPrompt(q) {
		list = append(list, want{http.StatusBadRequest, "invalid_request"})
	}
	return list
}

// longPrompt tells whether the prompt may get too long by the skills of a request.
func (w *world) longPrompt(q *contract.Request) bool {
	sent, _ := q.Value.(map[string]any)
	prompt, _ := sent["prompt"].(string)
	content, _ := sent["content"].(string)
	n := len(prompt) + len(content)
	if a := w.agents[q.IDs["agent_id"]]; a != nil {
		n += a.prompt
	}
	ids, _ := sent["skill_ids"].([]any)
	for _, id := range append(ids, sent["skill_id"]) {
		if s, ok := id.(string); ok && w.skills[s] != nil {
			n += w.skills[s].content + 100
		}
	}
	return n > 1<<20-100
}

// refusal is how the state of its object forbids a good request.
func (w *world) refusal(q *contract.Request) want {
	s := w.sessions[q.IDs["session_id"]]
	switch q.Operation {
	case "createSession":
		if h := w.agents[q.IDs["agent_id"]].harness; h != "opencode" && h != "codex" {
			return want{http.StatusServiceUnavailable, "harness_not_available"}
		}
	case "restartSession":
		if s.live || s.deleted || w.agents[s.agent].deleted {
			return want{http.StatusConflict, "session_not_restartable"}
		}
	case "openTerminal":
		switch {
		case s.deleted:
			return want{http.StatusNotFound, "not_found"}
		case !s.tui():
			return want{http.StatusConflict, "harness_has_no_terminal"}
		}
		return want{http.StatusConflict, "session_not_ready"} // no controller runs
	case "getSandboxLogs":
		return want{http.StatusNotFound, "sandbox_not_found"} // no controller runs
	case "sendMessage", "streamMessage":
		switch {
		case s.tui():
			return want{http.StatusConflict, "harness_is_tui"}
		case !s.live:
			return want{http.StatusNotFound, "session_not_ready"}
		case s.queued >= 32:
			return want{http.StatusTooManyRequests, "too_many_queued_turns"}
		}
	}
	return success
}

// check says what is wrong with the status of an answer, and with what it says of the object.
func (w *world) check(x *contract.Exchange) (wrong []string) {
	q, status, body := x.Request, x.Status, x.Body
	if q.Repeats != nil {
		if done, wrong := contract.CheckRepeat(x); done {
			return wrong
		}
	}
	var e struct{ Code string }
	if status >= 400 {
		_ = json.Unmarshal(body, &e)
	}
	list := w.wanted(q)
	if !slices.ContainsFunc(list, func(x want) bool { return x == want{status, e.Code} || x == success && status < 300 }) {
		return []string{fmt.Sprintf("want one of %v", list)}
	}
	if status < 300 {
		return w.checkObject(q, body)
	}
	return nil
}

func field(body []byte, name string) any {
	var m map[string]any
	_ = json.Unmarshal(body, &m)
	return m[name]
}

// checkObject checks that an agent or skill has the version it must have, and the values that were sent.
func (w *world) checkObject(q *contract.Request, body []byte) (wrong []string) {
	var got map[string]any
	_ = json.Unmarshal(body, &got)
	switch q.Operation {
	case "getAgent":
		if a := w.agents[q.IDs["agent_id"]]; got["version"] != a.version {
			wrong = append(wrong, fmt.Sprintf("want version %v", a.version))
		}
	case "getSkill":
		if s := w.skills[q.IDs["skill_id"]]; got["version"] != s.version {
			wrong = append(wrong, fmt.Sprintf("want version %v", s.version))
		}
	case "getSession":
		s := w.sessions[q.IDs["session_id"]]
		if status := map[bool]string{true: "creating", false: "dead"}[s.live]; got["status"] != status {
			wrong = append(wrong, "want "+status)
		}
	case "createAgent", "updateAgent", "createSkill", "updateSkill", "createSession":
		sent, _ := q.Value.(map[string]any)
		for name, v := range sent {
			if have, ok := got[name]; ok && repeatsAsSent(name, v) && !reflect.DeepEqual(plain(v), have) {
				wrong = append(wrong, fmt.Sprintf("%s is %v, sent was %v", name, have, v))
			}
		}
	}
	return wrong
}

// repeatsAsSent tells whether an answer repeats a field as it was sent.
func repeatsAsSent(name string, v any) bool {
	switch name {
	case "prompt", "env_vars", "sandbox_files", "attached_skill_ids":
		return false
	}
	return v != nil
}

// plain returns a value as encoding/json reads it.
func plain(v any) any {
	b, _ := json.Marshal(v)
	var p any
	_ = json.Unmarshal(b, &p)
	return p
}

// learn changes the world as an answer says it did.
func (w *world) learn(q *contract.Request, resp *http.Response, body []byte) {
	if q.Repeats != nil && resp.Header.Get("Idempotency-Replayed") == "true" || resp.StatusCode == http.StatusUnprocessableEntity {
		return
	}
	if key := onceKey(q); key != "" && contract.Stored(resp.StatusCode) {
		path, _, _ := strings.Cut(q.Path, "?")
		w.answers[path+" "+key] = true
	}
	if resp.StatusCode >= 300 || q.Operation == "" {
		return
	}
	var got map[string]any
	_ = json.Unmarshal(body, &got)
	w.learnFiles(got)
	switch q.Operation {
	case "createAgent":
		w.agents[got["id"].(string)] = &agentState{harness: got["harness_id"].(string)}
		w.agents[got["id"].(string)].learn(got)
	case "updateAgent":
		w.agents[q.IDs["agent_id"]].learn(got)
	case "attachSkill", "detachSkill":
		w.agents[q.IDs["agent_id"]].learn(got["agent"].(map[string]any))
		if s, ok := got["skill"].(map[string]any); ok {
			w.skills[s["id"].(string)] = &skillState{}
			w.skills[s["id"].(string)].learn(s)
		} else if sent, _ := q.Value.(map[string]any); sent["content"] != nil {
			w.hidden++
		}
	case "deleteAgent":
		w.deleteAgent(q.IDs["agent_id"])
	case "createSkill":
		w.skills[got["id"].(string)] = &skillState{}
		w.skills[got["id"].(string)].learn(got)
	case "updateSkill":
		w.skills[q.IDs["skill_id"]].learn(got)
	case "deleteSkill":
		w.skills[q.IDs["skill_id"]].deleted = true
	default:
		w.learnSession(q, got)
	}
}

func (a *agentState) learn(got map[string]any) {
	prompt, _ := got["prompt"].(string)
	a.version, a.prompt = got["version"].(float64), len(prompt)
}

func (s *skillState) learn(got map[string]any) {
	s.version, s.content = got["version"].(float64), len(got["content"].(string))
}

// onceKey returns the key under which the answer to a request may be stored, empty if there is none.
func onceKey(q *contract.Request) string {
	keys := q.Header["Idempotency-Key"]
	if q.Operation == "" || q.NamesTurn() || q.Method != http.MethodPost || len(keys) != 1 {
		return ""
	}
	if slices.ContainsFunc(q.Flaws, func(f contract.Flaw) bool { return f.Field == "header/Idempotency-Key" }) {
		return ""
	}
	return keys[0]
}

func (w *world) learnFiles(v map[string]any) {
	if agent, ok := v["agent"].(map[string]any); ok {
		v = agent
	}
	files, _ := v["sandbox_files"].([]any)
	for _, f := range files {
		w.files[f.(map[string]any)["sha256"].(string)] = true
	}
}

func (w *world) deleteAgent(id string) {
	w.agents[id].deleted = true
	for _, s := range w.sessions {
		if s.agent == id && s.live {
			s.live, s.queued = false, 0
		}
	}
}

func (w *world) learnSession(q *contract.Request, got map[string]any) {
	s := w.sessions[q.IDs["session_id"]]
	switch q.Operation {
	case "createSession":
		id := q.IDs["agent_id"]
		s = &sessionState{agent: id, harness: w.agents[id].harness, live: true, queued: int(got["turn_count"].(float64))}
		w.sessions[got["id"].(string)] = s
		w.turns += s.queued
	case "stopSession":
		s.live, s.queued = false, 0
	case "restartSession":
		s.live = true
	case "deleteSession":
		s.live, s.deleted, s.queued = false, true, 0
	case "sendMessage":
		if q.Repeats == nil || q.Repeats.Status != http.StatusAccepted {
			s.queued++
			w.turns++
		}
	}
}

// compare counts what is in the database, through the API and past it.
func (w *world) compare(t *testing.T, s *server, o store.Options) {
	t.Helper()
	agents, versions := 0, 0
	for _, a := range w.agents {
		versions += int(a.version)
		if !a.deleted {
			agents++
		}
	}
	skills, skillVersions := 0, w.hidden
	for _, k := range w.skills {
		skillVersions += int(k.version)
		if !k.deleted {
			skills++
		}
	}
	for path, want := range map[string]int{agentsPath: agents, "/api/v1/skills": skills, strings.TrimSuffix(sessionPath(""), "/"): len(w.sessions)} {
		if _, body, _ := s.call(t, http.MethodGet, path+"?limit=1", ""); field(body, "total") != float64(want) {
			t.Errorf("%s lists %v, want %d", path, field(body, "total"), want)
		}
	}
	for table, want := range map[string]int{
		"agents": len(w.agents), "agent_versions": versions, "skills": len(w.skills) + w.hidden, "skill_versions": skillVersions, "files": len(w.files), "sessions": len(w.sessions),
		"turns": w.turns, "answers": len(w.answers),
	} {
		if n := storetest.Rows(t, o, table); n != want {
			t.Errorf("%d rows in %s, want %d", n, table, want)
		}
	}
}
