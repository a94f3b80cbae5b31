package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// What the examples of the document call their objects.
const (
	exampleAgent   = "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
	exampleSkill   = "01932c07-a0b1-7c22-9d33-4e5f60718293"
	exampleSession = "01932c07-9111-7aaa-8c3e-0d9f8e7c6b5a"
	exampleTurn    = "01932c07-9a6b-7d21-8a55-1c2b3a4d5e6f"
)

// beyond are the examples that a single machine cannot show.
var beyond = map[string]string{
	"getClusterHealth 200 ok":        "needs a Kubernetes cluster",
	"getClusterHealth 503 forbidden": "needs a Kubernetes cluster",
	"getReadiness 503 down":          "the whole server is without its database; TestReadiness in server/api has it",
}

// tour sends the document's examples to the running server, through Prism, which checks both ways by itself.
type tour struct {
	*server
	ops   map[string]*endpoint
	http  *http.Client
	prism string            // its URL
	ids   map[string]string // of real objects by those of the examples
	shown map[string]bool   // examples that came up
}

type endpoint struct {
	*openapi3.Operation
	method, path string
}

// call is a request made of examples.
type call struct {
	op       string
	body     string // example of the request
	text     string // in place of an example
	query    string
	header   string // "Name: value"
	status   int
	answer   string // example that the answer must be like; empty: the answer has no body
	contains string // in the answer
	direct   bool   // past Prism
}

func endpoints(t *testing.T) map[string]*endpoint {
	t.Helper()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	ops := map[string]*endpoint{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			ops[op.OperationID] = &endpoint{op, method, path}
		}
	}
	return ops
}

// real puts the ids of real objects in place of those of the examples.
func (w *tour) real(text string) string {
	for example, id := range w.ids {
		text = strings.ReplaceAll(text, example, id)
	}
	return text
}

var pathID = strings.NewReplacer("{agent_id}", exampleAgent, "{skill_id}", exampleSkill, "{session_id}", exampleSession, "{turn_id}", exampleTurn)

func (w *tour) request(c call) *http.Request {
	w.t.Helper()
	op := w.ops[c.op]
	base := w.prism
	if c.direct {
		base = w.url
	}
	if c.body != "" {
		example := op.RequestBody.Value.Content["application/json"].Examples[c.body]
		if example == nil {
			w.t.Fatalf("%s has no example %s", c.op, c.body)
		}
		b, err := json.Marshal(example.Value.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		c.text = w.real(string(b))
		if w.shown != nil {
			w.shown[c.op+" "+c.body] = true
		}
	}
	r, err := http.NewRequestWithContext(w.t.Context(), op.method, base+w.real(pathID.Replace(op.path)), strings.NewReader(c.text))
	if err != nil {
		w.t.Fatal(err)
	}
	r.URL.RawQuery = w.real(c.query)
	if c.text != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if name, value, ok := strings.Cut(c.header, ": "); ok {
		r.Header.Set(name, value)
	}
	return r
}

// do makes a call and returns the answer, of which status, content type, schema and shape are as documented.
func (w *tour) do(c call) (http.Header, []byte) {
	w.t.Helper()
	resp, err := w.http.Do(w.request(c))
	if err != nil {
		w.t.Fatalf("%s: %v", c.op, err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != c.status {
		w.t.Fatalf("%s %s: %v, %d, want %d: %s", c.op, c.body, err, resp.StatusCode, c.status, body)
	}
	if c.answer == "" {
		if len(body) > 0 {
			w.t.Errorf("%s answers %s", c.op, body)
		}
		return resp.Header, nil
	}
	w.compare(c, resp.Header.Get("Content-Type"), body)
	if !strings.Contains(string(body), c.contains) {
		w.t.Errorf("%s answers %s, want %s in it", c.op, body, c.contains)
	}
	return resp.Header, body
}

// compare compares an answer with the example of its status, content type and name.
func (w *tour) compare(c call, contentType string, body []byte) {
	w.t.Helper()
	contentType, _, _ = strings.Cut(contentType, ";")
	media := w.ops[c.op].Responses.Status(c.status).Value.Content[contentType]
	if media == nil || media.Examples[c.answer] == nil {
		w.t.Fatalf("%s %d has no example %s of the type %s", c.op, c.status, c.answer, contentType)
	}
	w.shown[exampleName(c.op, strconv.Itoa(c.status), c.answer, contentType)] = true
	if contentType == "text/plain" || contentType == "application/yaml" {
		return // any text
	}
	var got any
	if err := json.Unmarshal(body, &got); err != nil {
		w.t.Fatalf("%s: %v: %s", c.op, err, body)
	}
	if err := apitest.SameShape(media.Schema.Value, plain(w.t, media.Examples[c.answer].Value.Value), got); err != nil {
		w.t.Errorf("%s: %s %d %s: %v\n%s", c.op, contentType, c.status, c.answer, err, body)
	}
}

// plain is a value as encoding/json reads it.
func plain(t *testing.T, v any) (p any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// learn makes an example's id stand for the object that the answer is about.
func (w *tour) learn(example string, body []byte, within ...string) {
	w.t.Helper()
	var v map[string]any
	_ = json.Unmarshal(body, &v)
	for _, name := range within {
		v, _ = v[name].(map[string]any)
	}
	id, _ := v["id"].(string)
	if id == "" {
		w.t.Fatalf("no id in %s", body)
	}
	w.ids[example] = id
}

// events reads the stream that a call opens until an event of a type comes, and compares those that there are examples of.
func (w *tour) events(c call, last string) {
	w.t.Helper()
	c.direct = true // Prism holds streams back until they end
	resp, err := w.http.Do(w.request(c))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != c.status {
		w.t.Fatalf("%s: %s", c.op, resp.Status)
	}
	contentType := resp.Header.Get("Content-Type")
	examples := map[string]string{}
	for name, example := range w.ops[c.op].Responses.Status(c.status).Value.Content[contentType].Examples {
		examples[example.Value.Value.(map[string]any)["type"].(string)] = name
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		typ, ok := strings.CutPrefix(lines.Text(), "event: ")
		if !ok || !lines.Scan() {
			continue
		}
		if c.answer = examples[typ]; c.answer != "" {
			w.compare(c, contentType, []byte(strings.TrimPrefix(lines.Text(), "data: ")))
		}
		if typ == last {
			return
		}
	}
	w.t.Errorf("%s: the stream ends without %s", c.op, last)
}

func (w *tour) agents() {
	w.do(call{op: "createAgent", body: "terminal", status: 200, answer: "created"})
	_, b := w.do(call{op: "createAgent", body: "full", header: "Idempotency-Key: build-4711", status: 200, answer: "created"})
	w.learn(exampleAgent, b)
	w.do(call{op: "listAgents", status: 200, answer: "page", contains: "reviewer"})
	w.do(call{op: "getAgent", query: "expand=env_vars,sandbox_files", status: 200, answer: "expanded", contains: `"GITHUB_TOKEN":"ghp_example"`})
	w.do(call{op: "updateAgent", body: "roundTrip", header: `If-Match: "1"`, status: 200, answer: "agent", contains: `"CI":"********"`})
	w.do(call{op: "getAgent", query: "expand=env_vars", status: 200, answer: "agent", contains: `"GITHUB_TOKEN":"ghp_example"`})
	w.do(call{op: "updateAgent", body: "rename", status: 200, answer: "agent", contains: `"prompt":null`})
}

func (w *tour) skills() {
	_, b := w.do(call{op: "createSkill", body: "skill", status: 201, answer: "skill"})
	w.learn(exampleSkill, b)
	w.do(call{op: "getSkill", status: 200, answer: "skill"})
	w.do(call{op: "updateSkill", body: "text", header: `If-Match: "1"`, status: 200, answer: "skill", contains: `"version":2`})
	w.do(call{op: "listSkills", status: 200, answer: "page", contains: "Release notes"})
	w.do(call{op: "listSkillVersions", status: 200, answer: "page", contains: `"total":2`})
	w.do(call{op: "attachSkill", body: "library", status: 200, answer: "attached", contains: "Name the pull requests."})
	w.do(call{op: "detachSkill", query: "skill_id=" + exampleSkill, status: 200, answer: "detached", contains: `"attached_skill_ids":[]`})
	w.do(call{op: "attachSkill", body: "inline", status: 200, answer: "attached", contains: "Answer in one sentence."})
	w.do(call{op: "attachSkill", body: "saved", status: 200, answer: "saved", contains: "Add a test that failed before."})
	w.do(call{op: "detachSkill", status: 200, answer: "detached", contains: `"attached_skill_ids":[]`})
}

// sessions needs an agent that can run here, which has no repository.
func (w *tour) sessions() {
	_, b := w.do(call{op: "createAgent", body: "minimal", status: 200, answer: "created"})
	w.learn(exampleAgent, b)
	w.do(call{op: "createSession", body: "empty", status: 200, answer: "creating"})
	_, b = w.do(call{op: "createSession", body: "skilled", status: 200, answer: "creating"})
	w.learn(exampleSession, b)
	w.do(call{op: "getSession", status: 200, answer: "creating"})
	w.do(call{op: "deleteSession", status: 204})
	_, b = w.do(call{op: "createSession", body: "titled", status: 200, answer: "creating"})
	w.learn(exampleSession, b)
	w.await(w.ids[exampleSession], "ready")
	w.do(call{op: "getSession", status: 200, answer: "ready", contains: `"status":"ready"`})
	w.do(call{op: "listSessions", query: "agent_id=" + exampleAgent + "&status=ready", status: 200, answer: "page", contains: "Fix the build"})
}

func (w *tour) messages() {
	w.do(call{op: "sendMessage", body: "text", status: 200, answer: "reply", contains: `"error":null`})
	w.do(call{op: "sendMessage", body: "parts", status: 200, answer: "reply", contains: `"error":null`})
	header, b := w.do(call{op: "sendMessage", body: "text", header: "Prefer: respond-async", status: 202, answer: "queued"})
	w.learn(exampleTurn, b)
	if want := w.real(pathID.Replace(w.ops["getTurn"].path)); header.Get("Location") != want {
		w.t.Errorf("Location is %q, want %q", header.Get("Location"), want)
	}
	w.do(call{op: "getTurn", status: 200, answer: "queued"})
	w.ended(w.ids[exampleSession], w.ids[exampleTurn])
	w.do(call{op: "getTurn", status: 200, answer: "completed", contains: `"status":"completed"`})
	w.events(call{op: "streamMessage", body: "text", status: 200}, "turn.completed")
	w.events(call{op: "streamEvents", query: "after=0", status: 200}, "turn.completed")
	w.do(call{op: "streamEvents", query: "follow=false&limit=1000", status: 200, answer: "page", contains: "turn.completed"})
	w.do(call{op: "listMessages", status: 200, answer: "transcript", contains: "What does this repository do?"})
	w.do(call{op: "abortTurn", status: 200, answer: "none", contains: "false"})
	// Words are seen while they come; a turn that has ended has whole parts only.
	w.events(call{op: "streamMessage", text: `{"text":"SLOW: 200"}`, status: 200}, "message.delta")
	w.events(call{op: "streamEvents", query: "after=0", status: 200}, "message.delta")
	w.do(call{op: "abortTurn", status: 200, answer: "aborted", contains: "true"})
}

func (w *tour) ends() {
	w.do(call{op: "diagnoseSession", status: 200, answer: "bundle"})
	w.do(call{op: "getSessionEgress", status: 200, answer: "denied"})
	w.do(call{op: "getSandboxLogs", query: "sinceSeconds=3600&tailLines=200&follow=false", status: 200, answer: "lines", contains: "sandboxd", direct: true})
	w.do(call{op: "stopSession", status: 200, answer: "ended", contains: `"status":"dead"`})
	w.do(call{op: "restartSession", status: 200, answer: "creating", contains: `"status":"creating"`})
	w.await(w.ids[exampleSession], "ready")
	w.do(call{op: "deleteSession", status: 204})
	w.do(call{op: "deleteSkill", header: `If-Match: "2"`, status: 204})
	w.do(call{op: "deleteAgent", header: `If-Match: "1"`, status: 204})
}

// terminal attaches to a session of a program in a terminal.
func (w *tour) terminal() {
	_, b := w.do(call{op: "createAgent", body: "terminal", status: 200, answer: "created"})
	w.learn(exampleAgent, b)
	_, b = w.do(call{op: "createSession", body: "empty", status: 200, answer: "creating"})
	w.learn(exampleSession, b)
	w.await(w.ids[exampleSession], "ready")
	_, b = w.do(call{op: "getSession", status: 200, answer: "terminal", contains: `"supports_tui":true`})
	var session struct {
		TTYURL   string `json:"tty_url"`
		TTYToken string `json:"tty_token"`
	}
	if err := json.Unmarshal(b, &session); err != nil {
		w.t.Fatal(err)
	}
	ws, resp, err := websocket.Dial(w.t.Context(), "ws"+strings.TrimPrefix(w.url, "http")+session.TTYURL+"?cols=120&rows=40&token="+url.QueryEscape(session.TTYToken), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		w.t.Errorf("attached with %s", resp.Status)
	}
	if typ, screen, err := ws.Read(w.t.Context()); err != nil || typ != websocket.MessageBinary || len(screen) == 0 {
		w.t.Errorf("the first message: %v, %v, %d bytes", err, typ, len(screen))
	}
	w.do(call{op: "deleteSession", status: 204})
}

func (w *tour) health() {
	w.do(call{op: "getHealth", status: 200, answer: "ok"})
	w.do(call{op: "getReadiness", status: 200, answer: "ready"})
	w.do(call{op: "getClusterHealth", status: 200, answer: "local", contains: "not used"})
	_, b := w.do(call{op: "getOpenAPIJSON", status: 200, answer: "start", direct: true})
	if !bytes.Contains(b, []byte(`"openapi":"3.0.3"`)) {
		w.t.Errorf("the document begins with %s", b[:100])
	}
	w.do(call{op: "getOpenAPIYAML", status: 200, answer: "start", contains: "openapi: 3.0.3", direct: true})
}

// parameters sends each parameter of a reading operation with its example.
func (w *tour) parameters() {
	for id, op := range w.ops {
		if op.method != http.MethodGet || id == "openTerminal" {
			continue
		}
		for _, p := range op.Parameters {
			c := call{op: id, direct: id == "getSandboxLogs"}
			if id == "streamEvents" {
				c.query = "follow=false&"
			}
			value := fmt.Sprint(p.Value.Example)
			if list, ok := p.Value.Example.([]any); ok {
				value = fmt.Sprint(list[0])
			}
			switch p.Value.Name {
			case "cursor": // the server knows its own only
				value = w.cursor(c)
			case "follow":
				c.query = ""
			}
			if p.Value.In == openapi3.ParameterInQuery {
				c.query += p.Value.Name + "=" + url.QueryEscape(value)
			} else {
				c.header = p.Value.Name + ": " + value
			}
			resp, err := w.http.Do(w.request(c))
			if err != nil {
				w.t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if _ = resp.Body.Close(); resp.StatusCode != http.StatusOK {
				w.t.Errorf("%s with %s=%s: %s: %s", id, p.Value.Name, value, resp.Status, body)
			}
		}
	}
}

// cursor returns the cursor of the second page, or of none if there is no second one.
func (w *tour) cursor(c call) string {
	w.t.Helper()
	c.query = "limit=1"
	resp, err := w.http.Do(w.request(c))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct {
		NextCursor string `json:"next_cursor"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || page.NextCursor == "" {
		w.t.Fatalf("%s: there is no second page: %v", c.op, err)
	}
	return page.NextCursor
}

// Each example of a request is sent to the real server, with real sessions of real harnesses, and gets the documented success;
// each example of a success is like a real answer. All of it but streams, texts and the terminal goes through Prism's validating
// proxy, which checks requests and answers with an implementation of its own and answers for what it finds wrong.
func TestTheExamplesOfTheDocumentHoldOnTheRunningServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, storetest.KindSQLite)
	w := &tour{server: s, ops: endpoints(t), http: apitest.HTTPClient(t, masterKey), ids: map[string]string{}, shown: map[string]bool{}}
	w.prism = startPrism(t, "proxy", s.url, "--errors")
	w.agents()
	w.skills()
	w.sessions()
	w.messages()
	w.parameters()
	w.ends()
	w.terminal()
	w.health()
	w.complete()
}

// complete checks that no example was left out.
func (w *tour) complete() {
	check := func(name string) {
		if w.shown[name] == (beyond[name] != "") {
			w.t.Errorf("the example %q did not come up, or was said to be out of reach", name)
		}
	}
	for id, op := range w.ops {
		if op.RequestBody != nil {
			for name := range op.RequestBody.Value.Content["application/json"].Examples {
				check(id + " " + name)
			}
		}
		for status, answer := range op.Responses.Map() {
			for contentType, media := range answer.Value.Content {
				if media.Schema.Ref == "#/components/schemas/Error" {
					continue // TestTheExamplesOfErrorsAreWhatTheServerSays
				}
				for name := range media.Examples {
					check(exampleName(id, status, name, contentType))
				}
			}
		}
	}
}

func exampleName(op, status, name, contentType string) string {
	if contentType == "application/json" {
		return op + " " + status + " " + name
	}
	return op + " " + status + " " + name + " " + contentType
}
