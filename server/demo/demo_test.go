package demo_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/litellm-agent-platform/lap/server/demo"
)

const key = "sk-canary-51c2"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reply is what a client makes of an answer, whole or in chunks.
type reply struct {
	status    int
	text      string // or the error's message
	reasoning string
	calls     []call
	finish    string
	usage     *usage
}

type call struct {
	Function struct{ Name, Arguments string }
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

type message struct {
	Content   string
	Reasoning string `json:"reasoning_content"`
	ToolCalls []call `json:"tool_calls"`
}

func (r *reply) add(t *testing.T, data string) {
	t.Helper()
	var c struct {
		Choices []struct {
			Message, Delta message
			FinishReason   string `json:"finish_reason"`
		}
		Usage *usage
		Error struct{ Message string }
	}
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	for _, choice := range c.Choices {
		r.text += choice.Message.Content + choice.Delta.Content
		r.reasoning += choice.Message.Reasoning + choice.Delta.Reasoning
		r.calls = append(append(r.calls, choice.Message.ToolCalls...), choice.Delta.ToolCalls...)
		r.finish += choice.FinishReason
	}
	if c.Usage != nil {
		r.usage = c.Usage
	}
	r.text += c.Error.Message
}

func serve(t *testing.T) (*demo.Gateway, string) {
	t.Helper()
	g := demo.New(key)
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	return g, s.URL
}

func request(t *testing.T, method, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func chat(t *testing.T, url string, body any) reply {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp := request(t, http.MethodPost, url+"/v1/chat/completions", string(b))
	r := reply{status: resp.StatusCode}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		whole, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		r.add(t, string(whole))
		return r
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		if isData && data != "[DONE]" {
			r.add(t, data)
		}
	}
	return r
}

type object = map[string]any

func user(content any) object { return object{"role": "user", "content": content} }

// shell is the tool of a harness that calls it so, with the command in a parameter.
func shell(name, parameter, kind string) object {
	return object{"type": "function", "function": object{"name": name, "parameters": object{
		"type": "object", "required": []string{parameter, "description"},
		"properties": object{parameter: object{"type": kind}, "description": object{"type": "string"}, "timeout": object{"type": []string{"number", "null"}}},
	}}}
}

func TestAnswersFollowTheScriptWordStreamedOrNot(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	result := object{"role": "tool", "tool_call_id": "c", "content": "total 0"}
	image := object{"type": "image_url", "image_url": object{"url": "data:image/webp;base64,AAAA"}}
	for name, c := range map[string]struct {
		messages  []any
		tools     []any
		status    int
		text      string
		reasoning string
		call      string // name and arguments
	}{
		"echo":               {messages: []any{user("hi there")}, text: "[demo] This is the demo gateway, not a model. You said: hi there"},
		"images":             {messages: []any{user([]any{object{"type": "text", "text": "see"}, image, image})}, text: "[demo] This is the demo gateway, not a model. It saw 2 image(s): image/webp, image/webp. You said: see"},
		"the last user":      {messages: []any{user("FAIL: 500"), object{"role": "assistant", "content": nil}, user("fine")}, text: "[demo] This is the demo gateway, not a model. You said: fine"},
		"a word inside":      {messages: []any{user("please RUN: ls")}, tools: []any{shell("bash", "command", "string")}, text: "[demo] This is the demo gateway, not a model. You said: please RUN: ls"},
		"no user":            {messages: []any{object{"role": "system", "content": "x"}}, text: "[demo] This is the demo gateway, not a model. It saw no user message."},
		"run":                {messages: []any{user("RUN: ls -l | wc")}, tools: []any{shell("read", "path", "string"), shell("bash", "command", "string")}, call: `bash {"command":"ls -l | wc","description":"demo"}`},
		"run, argv":          {messages: []any{user("RUN: ls")}, tools: []any{shell("shell", "command", "array")}, call: `shell {"command":["sh","-c","ls"],"description":"demo"}`},
		"run, cmd":           {messages: []any{user("RUN: ls")}, tools: []any{shell("exec_command", "cmd", "string")}, call: `exec_command {"cmd":"ls","description":"demo"}`},
		"run, part of many":  {messages: []any{user([]any{object{"type": "text", "text": "<note/>"}, object{"type": "text", "text": "RUN: ls\nmore"}})}, tools: []any{shell("bash", "command", "string")}, call: `bash {"command":"ls","description":"demo"}`},
		"run, result":        {messages: []any{user("RUN: ls"), object{"role": "assistant", "content": ""}, result}, tools: []any{shell("bash", "command", "string")}, text: "[demo] RESULT: total 0"},
		"run, old result":    {messages: []any{user("RUN: a"), result, user("RUN: b")}, tools: []any{shell("bash", "command", "string")}, call: `bash {"command":"b","description":"demo"}`},
		"run, no shell":      {messages: []any{user("RUN: ls")}, text: "[demo] RUN needs a shell tool, and the harness offered none."},
		"call":               {messages: []any{user(`CALL: add {"a":1}`)}, tools: []any{shell("srv_add", "a", "string")}, call: `srv_add {"a":1}`},
		"call, no such tool": {messages: []any{user("CALL: sub {}")}, tools: []any{shell("srv_add", "a", "string")}, text: "[demo] CALL found no offered tool with that name."},
		"call, bad JSON":     {messages: []any{user("CALL: add {")}, tools: []any{shell("srv_add", "a", "string")}, text: "[demo] CALL needs a tool and its arguments as JSON."},
		"think":              {messages: []any{user("THINK: of rain")}, text: "[demo] Thought about: of rain", reasoning: "of rain"},
		"fail":               {messages: []any{user("FAIL: 429")}, status: 429, text: "[demo] the demo gateway fails with 429, as it was asked to"},
		"fail, nonsense":     {messages: []any{user("FAIL: 200")}, status: 400, text: "[demo] the demo gateway fails with 400, as it was asked to"},
		"slow":               {messages: []any{user("SLOW: 3")}, text: "[demo] 1 2 3 "},
		"slow, nonsense":     {messages: []any{user("SLOW: x")}, text: "[demo] 1 "},
		"title":              {messages: []any{object{"role": "system", "content": "You are a title generator."}, user("RUN: ls")}, text: "[demo] Conversation"},
	} {
		for _, stream := range []bool{false, true} {
			body := object{"model": "m", "messages": c.messages, "tools": c.tools, "stream": stream}
			if stream {
				body["stream_options"] = object{"include_usage": true}
			}
			got := chat(t, url, body)
			if want := max(c.status, http.StatusOK); got.status != want || (c.status >= 400) != (got.status >= 400) {
				t.Errorf("%s, stream %t: status %d", name, stream, got.status)
			}
			if got.text != c.text || got.reasoning != c.reasoning {
				t.Errorf("%s, stream %t: %q, %q", name, stream, got.text, got.reasoning)
			}
			calls, finish := "", "stop"
			for _, k := range got.calls {
				calls, finish = calls+k.Function.Name+" "+k.Function.Arguments, "tool_calls"
			}
			if calls != c.call {
				t.Errorf("%s, stream %t: calls %q", name, stream, calls)
			}
			if c.status >= 400 {
				continue
			}
			if got.finish != finish || got.usage == nil || got.usage.Prompt < 1 || got.usage.Total != got.usage.Prompt+got.usage.Completion {
				t.Errorf("%s, stream %t: finish %q, usage %+v", name, stream, got.finish, got.usage)
			}
		}
	}
}

func TestUsageIsStreamedOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	if got := chat(t, url, object{"model": "m", "messages": []any{user("hi")}, "stream": true}); got.usage != nil {
		t.Errorf("usage %+v", got.usage)
	}
}

func TestOnlyTheKeyOpensTheGateway(t *testing.T) {
	t.Parallel()
	g, url := serve(t)
	for _, header := range []string{"", key, "Bearer", "Bearer ", "Bearer wrong", "Basic " + key, "Bearer " + key + "x"} {
		for _, path := range []string{"/v1/chat/completions", "/chat/completions", "/v1/models", "/models"} {
			method := http.MethodGet
			if strings.HasSuffix(path, "completions") {
				method = http.MethodPost
			}
			req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"secret"}]}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", header)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), `"error":{`) {
				t.Errorf("%q %s: %d %s, %v", header, path, resp.StatusCode, body, err)
			}
		}
	}
	for _, r := range g.Requests() {
		if r.KeyOK || r.Model != "" || len(r.Messages) > 0 {
			t.Errorf("remembered %+v", r)
		}
	}
	if n := len(g.Requests()); n != 14 {
		t.Errorf("%d requests remembered", n)
	}
	req := httptest.NewRequest(http.MethodGet, "/v1/models", nil)
	w := httptest.NewRecorder()
	if demo.New("").ServeHTTP(w, req); w.Code != http.StatusUnauthorized {
		t.Errorf("an empty key opens: %d", w.Code)
	}
}

func TestOtherPathsAndBrokenBodies(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	for _, c := range []struct {
		method, path, body string
		want               int
		contains           string
	}{
		{"GET", "/v1/models", "", 200, `"id":"demo"`},
		{"GET", "/models", "", 200, `"object":"list"`},
		{"GET", "/health/liveliness", "", 200, "alive"},
		{"GET", "/v2/none", "", 404, "no such path"},
		{"POST", "/v1/chat/completions", "{", 400, "cannot read"},
		{"POST", "/v1/chat/completions", `{"model":"m"}`, 400, "required"},
		{"POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":7}],"model":"m"}`, 400, "cannot read"},
		{"POST", "/chat/completions", `{"messages":[{"role":"user","content":null}],"model":"m"}`, 200, "[demo]"},
	} {
		resp := request(t, c.method, url+c.path, c.body)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != c.want || !strings.Contains(string(body), c.contains) {
			t.Errorf("%s %s %q: %d %s, %v", c.method, c.path, c.body, resp.StatusCode, body, err)
		}
	}
}

func TestRequestsAreRememberedWithinBounds(t *testing.T) {
	t.Parallel()
	g, url := serve(t)
	image := object{"type": "image_url", "image_url": object{"url": "https://example.com/a.png"}}
	chat(t, url, object{"model": "some/model", "stream": true, "tools": []any{shell("bash", "command", "string")}, "messages": []any{
		object{"role": "system", "content": "be brief"}, user([]any{object{"type": "text", "text": strings.Repeat("é", 64<<10)}, image}),
	}})
	r := g.Requests()[0]
	if !r.KeyOK || r.Model != "some/model" || !r.Stream || time.Since(r.Time) > time.Minute || !slices.Equal(r.Tools, []string{"bash"}) {
		t.Errorf("request %+v", r)
	}
	if m := r.Messages; len(m) != 2 || m[0].Role != "system" || m[0].Text != "be brief" || len(m[1].Text) != 64<<10 || !slices.Equal(m[1].Images, []string{"by URL"}) {
		t.Errorf("messages %+v", m[0])
	}
	for range 250 {
		chat(t, url, object{"model": "m", "messages": []any{user(strings.Repeat("x", 60<<10))}})
	}
	if n := len(g.Requests()); n < 100 || n*60<<10 > 8<<20 {
		t.Errorf("%d large requests remembered", n)
	}
	for range 250 {
		chat(t, url, object{"model": "m", "messages": []any{user("x")}})
	}
	if n := len(g.Requests()); n != 200 {
		t.Errorf("%d small requests remembered", n)
	}
}

func TestASlowAnswerEndsWithItsClient(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[{"role":"user","content":"SLOW: 600"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), `"2 "`) {
	}
	cancel() // the server's Close, at the end of the test, waits for its handlers
	if lines.Scan(); lines.Err() != nil && !errors.Is(lines.Err(), context.Canceled) {
		t.Error(lines.Err())
	}
}
