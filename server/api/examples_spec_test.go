package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/api"
	"github.com/litellm-agent-platform/lap/server/api/apitest"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// documented is an operation of the document.
type documented struct {
	*openapi3.Operation
	method, path string
	params       openapi3.Parameters // those of its path too
}

func (op documented) takes(in, name string) bool { return op.params.GetByInAndName(in, name) != nil }

// provoker provokes errors and keeps which came: "operation status code".
type provoker struct {
	t    *testing.T
	ops  map[string]documented
	came map[string]bool
}

func newProvoker(t *testing.T) *provoker {
	t.Helper()
	doc, err := gen.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	p := &provoker{t: t, ops: map[string]documented{}, came: map[string]bool{}}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			p.ops[op.OperationID] = documented{op, method, path, slices.Concat(item.Parameters, op.Parameters)}
		}
	}
	return p
}

var (
	anyID     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	anyNumber = regexp.MustCompile(`\d+`)
)

// sentence is an error's text without what is of one request only.
func sentence(text string) string {
	return anyNumber.ReplaceAllString(anyID.ReplaceAllString(text, "ID"), "N")
}

// got notes an error, which must be one of those that the document shows for the operation and the status: the same code, sentence and
// shape.
func (p *provoker) got(id string, status int, body []byte) {
	p.t.Helper()
	var e map[string]any
	if err := json.Unmarshal(body, &e); err != nil {
		p.t.Fatalf("%s: %d %s", id, status, body)
	}
	answer := p.ops[id].Responses.Status(status)
	if answer == nil {
		p.t.Errorf("%s: %d is not documented: %s", id, status, body)
		return
	}
	media := answer.Value.Content["application/json"]
	var differs []string
	for name, ref := range media.Examples {
		b, _ := json.Marshal(ref.Value.Value)
		var example map[string]any
		_ = json.Unmarshal(b, &example)
		switch err := apitest.SameShape(media.Schema.Value, example, e); {
		case example["code"] != e["code"]:
		case err != nil:
			differs = append(differs, name+": "+err.Error())
		case sentence(example["error"].(string)) != sentence(e["error"].(string)), len(e["details"].([]any)) == 0 && len(example["details"].([]any)) > 0:
			differs = append(differs, name+" says otherwise")
		default:
			p.came[fmt.Sprint(id, " ", status, " ", e["code"])] = true
			return
		}
	}
	p.t.Errorf("%s answers %d %s, no example is like it: %q", id, status, body, differs)
}

// send sends a request to an operation and notes the answer, which must have the given status and code.
func (p *provoker) send(s *server, id string, ids map[string]string, query, body string, status int, code string, headers ...string) {
	p.t.Helper()
	op := p.ops[id]
	path := op.path
	for name, v := range ids {
		path = strings.ReplaceAll(path, "{"+name+"}", v)
	}
	if query != "" {
		path += "?" + query
	}
	resp, b, e := s.call(p.t, op.method, path, body, headers...)
	if resp.StatusCode != status || e.Code != code {
		p.t.Errorf("%s %s: %d %s, want %d %s", op.method, path, resp.StatusCode, b, status, code)
		return
	}
	p.got(id, status, b)
}

// goodBody is a body that the operation takes.
func (op documented) goodBody() string {
	if op.RequestBody == nil {
		return ""
	}
	examples := op.RequestBody.Value.Content["application/json"].Examples
	name := slices.Sorted(maps.Keys(examples))[0]
	b, _ := json.Marshal(examples[name].Value.Value)
	return string(b)
}

// byRequest provokes what a request alone can be refused for.
func (p *provoker) byRequest(s *server, ids map[string]string) {
	for id, op := range p.ops {
		good, follow := op.goodBody(), ""
		if id == "streamEvents" {
			follow = "follow=false"
		}
		if op.Security == nil || len(*op.Security) > 0 {
			p.send(s, id, ids, follow, good, 401, "unauthorized", "Authorization", "Bearer wrong")
		}
		for _, name := range slices.Sorted(maps.Keys(ids)) {
			if op.takes("path", name) {
				other := maps.Clone(ids)
				other[name] = "01932c07-8f3e-7c4a-9b1d-2f6f5f0f5b11"
				headers := upgrade()
				if id != "openTerminal" {
					headers = nil
				}
				p.send(s, id, other, follow, good, 404, "not_found", headers...)
			}
		}
		p.badParameters(s, id, ids, good)
		if op.takes("header", "If-Match") {
			p.send(s, id, ids, "", good, 412, "precondition_failed", "If-Match", `"999"`)
		}
		if op.RequestBody != nil {
			p.send(s, id, ids, "", `{"a":1,"a":2}`, 400, "invalid_json")
			p.send(s, id, ids, "", `{"unknown":1}`, 400, "invalid_request")
			p.send(s, id, ids, "", good, 415, "unsupported_media_type", "Content-Type", "text/plain")
		}
		if op.Responses.Status(413) != nil {
			p.tooLarge(s, id, ids)
		}
	}
}

func (p *provoker) badParameters(s *server, id string, ids map[string]string, good string) {
	p.t.Helper()
	for _, ref := range p.ops[id].Parameters {
		v, schema := ref.Value, ref.Value.Schema.Value
		bad := "x"
		switch {
		case v.Name == "Idempotency-Key":
			bad = "a b"
		case schema.MaxLength != nil && v.Name != "cursor" && v.Name != "If-Match":
			bad = strings.Repeat("x", int(*schema.MaxLength)+1)
		}
		headers := upgrade()
		if id != "openTerminal" {
			headers = nil
		}
		if v.In == openapi3.ParameterInQuery {
			p.send(s, id, ids, v.Name+"="+bad, good, 400, "invalid_request", headers...)
		} else {
			p.send(s, id, ids, "", good, 400, "invalid_request", v.Name, bad)
		}
	}
}

// tooLarge announces a body that is larger than any operation takes.
func (p *provoker) tooLarge(s *server, id string, ids map[string]string) {
	p.t.Helper()
	path := p.ops[id].path
	for name, v := range ids {
		path = strings.ReplaceAll(path, "{"+name+"}", v)
	}
	r, err := http.NewRequestWithContext(p.t.Context(), p.ops[id].method, s.url+path, strings.NewReader(strings.Repeat(" ", 33<<20)))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if p.ops[id].takes("header", "Idempotency-Key") {
		r.Header.Set("Idempotency-Key", "large") // without one, a body that is not wanted is not read
	}
	resp, err := s.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		p.t.Errorf("%s: %d %s, %v, want 413", id, resp.StatusCode, b, err)
		return
	}
	p.got(id, resp.StatusCode, b)
}

// byKey repeats a request with another body.
func (p *provoker) byKey(s *server) {
	p.t.Helper()
	others := map[string]string{"createSkill": `{"name":"n","content":"c"}`, "streamMessage": `{"text":"other"}`}
	for id, op := range p.ops {
		if !op.takes("header", "Idempotency-Key") {
			continue
		}
		ids := p.objects(s)
		good, other := op.goodBody(), others[id]
		if other == "" {
			other = `{}`
		}
		first := id
		if id == "streamMessage" {
			first = "sendMessage" // the key is that of the turn
		}
		path := strings.NewReplacer("{agent_id}", ids["agent_id"], "{session_id}", ids["session_id"]).Replace(p.ops[first].path)
		if _, b, e := s.call(p.t, http.MethodPost, path, good, "Idempotency-Key", "key-of-"+id, "Prefer", "respond-async"); e.Code != "" && id != "restartSession" {
			p.t.Fatalf("%s: %s", id, b)
		}
		if op.RequestBody != nil && others[id] == "" {
			examples := op.RequestBody.Value.Content["application/json"].Examples
			b, _ := json.Marshal(examples[slices.Sorted(maps.Keys(examples))[1]].Value.Value)
			other = string(b)
		}
		p.send(s, id, ids, "", other, 422, "idempotency_key_reused", "Idempotency-Key", "key-of-"+id)
	}
}

// byState provokes what depends on the object or the server.
func (p *provoker) byState(s *server, ids map[string]string) {
	p.t.Helper()
	t := p.t
	text := `{"text":"hi"}`
	of := func(session string) map[string]string {
		return map[string]string{"session_id": session, "agent_id": ids["agent_id"], "turn_id": ids["turn_id"]}
	}
	other := maps.Clone(ids)
	other["skill_id"] = "01932c07-a0b1-7c22-9d33-4e5f60718293"
	p.send(s, "attachSkill", other, "", `{"skill_id":"01932c07-a0b1-7c22-9d33-4e5f60718293"}`, 404, "not_found")
	p.send(s, "createAgent", nil, "", `{"model":"m","skill_ids":["01932c07-a0b1-7c22-9d33-4e5f60718293"]}`, 404, "not_found")
	p.send(s, "restartSession", ids, "", "", 409, "session_not_restartable")
	p.send(s, "getSandboxLogs", ids, "", "", 404, "sandbox_not_found")
	p.send(s, "openTerminal", ids, "", "", 409, "harness_has_no_terminal", upgrade()...)
	p.send(s, "openTerminal", ids, "", "", 403, "origin_not_allowed", upgrade("Origin", "https://evil.example")...)
	tui := s.newTUI(t)
	s.change(t, tui, func(tx *store.SessionTx) { tx.Session.Status = session.Failed })
	p.send(s, "openTerminal", of(tui), "", "", 409, "session_not_ready", upgrade()...)
	expired := s.newSession(t).ID
	s.stop(t, expired)
	s.change(t, expired, func(tx *store.SessionTx) {
		now := tx.Now()
		tx.Session.ExpiredAt, tx.Session.HasSettings = &now, true
	})
	p.send(s, "restartSession", of(expired), "", "", 409, "session_expired")
	full := s.newSession(t).ID
	for range session.MaxQueued {
		s.send(t, full, text)
	}
	for _, id := range []string{"sendMessage", "streamMessage"} {
		p.send(s, id, of(tui), "", text, 409, "harness_is_tui")
		p.send(s, id, of(expired), "", text, 404, "session_not_ready")
		p.send(s, id, of(full), "", text, 429, "too_many_queued_turns")
	}
	for name, handed := range map[string]bool{session.TurnInterrupted: true, session.TurnNotReady: false} {
		sess := s.newSession(t).ID
		s.send(t, sess, text, "Idempotency-Key", "k")
		if handed {
			s.hand(t, sess)
		}
		s.stop(t, sess)
		p.send(s, "sendMessage", of(sess), "", text, 502, name, "Idempotency-Key", "k")
	}
	s.settings.onPut = func(context.Context) { panic("provoked") }
	p.send(s, "createSession", ids, "", `{"env_vars":{"A":"b"}}`, 500, "internal")
	s.settings.onPut = nil
}

// byServer provokes what depends on how the server is set up.
func (p *provoker) byServer() {
	p.t.Helper()
	t := p.t
	create := func(agent string, status int, code string, before int, change func(*api.Options, *session.Options)) {
		t.Helper()
		s := serve(t, change)
		a := s.newAgent(t, agent)
		for range before {
			s.call(t, http.MethodPost, agentsPath+"/"+a.ID+"/session", "")
		}
		p.send(s, "createSession", map[string]string{"agent_id": a.ID}, "", "{}", status, code)
	}
	create(`{"model":"m"}`, 503, "gateway_not_configured", 0, func(_ *api.Options, o *session.Options) { o.Gateway = sandboxd.Gateway{} })
	create(`{"model":"m","harness_id":"claude-code"}`, 503, "harness_not_available", 0, func(*api.Options, *session.Options) {})
	create(`{"model":"m"}`, 503, "too_many_sessions", 1, func(_ *api.Options, o *session.Options) { o.MaxSessions = 1 })
	create(`{"model":"m"}`, 429, "session_rate_exceeded", 1, func(_ *api.Options, o *session.Options) { o.SessionRate = 1 })

	s, id := serveTUI(t, &box{addr: "127.0.0.1:1"})
	p.send(s, "openTerminal", map[string]string{"session_id": id}, "", "", 426, "upgrade_required")
	p.send(s, "openTerminal", map[string]string{"session_id": id}, "", "", 503, "sandbox_not_answering", upgrade()...)
	s, id, _ = serveTTY(t)
	s.close()
	p.send(s, "openTerminal", map[string]string{"session_id": id}, "", "", 503, "shutting_down", upgrade()...)

	s = serve(t, func(o *api.Options, _ *session.Options) { o.BusyTimeout = 50 * time.Millisecond })
	for range 8 { // all the room there is
		w := dial(t, s.url)
		w.send("%s", post("Expect: 100-continue\r\nContent-Length: 16777216\r\n"))
		if got := w.status(); got != http.StatusContinue {
			t.Fatalf("got %d", got)
		}
	}
	p.send(s, "createAgent", nil, "", padded(64<<10+1), 503, "server_busy")
}

// byDatabase takes the database away.
func (p *provoker) byDatabase() {
	p.t.Helper()
	s, db := serveOnServer(p.t)
	ids := p.objects(s)
	db.Stop()
	for id, op := range p.ops {
		if op.Responses.Status(503) == nil || op.Responses.Status(503).Ref == "" {
			continue
		}
		query, headers := "", []string(nil)
		switch id {
		case "streamEvents":
			query = "follow=false"
		case "openTerminal":
			headers = upgrade()
		}
		p.send(s, id, ids, query, op.goodBody(), 503, "database_unavailable", headers...)
	}
}

// objects makes one object of each kind and returns their ids.
func (p *provoker) objects(s *server) map[string]string {
	p.t.Helper()
	sess := s.newSession(p.t)
	_, b, _ := s.call(p.t, http.MethodPost, sessionPath(sess.ID)+"/message", `{"text":"one"}`, "Prefer", "respond-async")
	turn, _ := field(b, "id").(string)
	return map[string]string{"agent_id": sess.AgentID, "session_id": sess.ID, "skill_id": s.newSkill(p.t, "n", "c").ID, "turn_id": turn}
}

// Each error that the document shows is provoked: on every operation those that its requests and the loss of the database lead to,
// and each code at least once. The answer must be like the example in status, code, sentence and shape.
func TestTheExamplesOfErrorsAreWhatTheServerSays(t *testing.T) {
	t.Parallel()
	p := newProvoker(t)
	s := serve(t)
	ids := p.objects(s)
	p.byRequest(s, ids)
	p.byKey(s)
	p.byState(s, p.objects(s))
	p.byServer()
	p.byDatabase()

	codes, statuses := map[string]bool{}, 0
	for key := range p.came {
		codes[strings.Fields(key)[2]] = true
	}
	for id, op := range p.ops {
		for status, answer := range op.Responses.Map() {
			media := answer.Value.Content["application/json"]
			if status < "400" || media.Schema.Ref != "#/components/schemas/Error" || status == "500" {
				continue // a fault of the server cannot be provoked everywhere
			}
			if statuses++; !slices.ContainsFunc(slices.Collect(maps.Keys(p.came)), func(key string) bool { return strings.HasPrefix(key, id+" "+status+" ") }) {
				t.Errorf("%s %s did not come", id, status)
			}
			for _, example := range media.Examples {
				if code := example.Value.Value.(map[string]any)["code"].(string); !codes[code] {
					t.Errorf("%s did not come", code)
				}
			}
		}
	}
	t.Logf("%d answers of operations provoked, of %d codes, in %d ways", statuses, len(codes), len(p.came))
}
