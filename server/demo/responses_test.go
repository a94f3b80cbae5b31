package demo_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/litellm-agent-platform/lap/server/demo"
)

// item is a part of an answer in the responses protocol.
type item struct {
	ID, Type, Namespace, Name, Arguments string
	CallID                               string `json:"call_id"`
	Content, Summary                     []struct{ Type, Text string }
}

func (i item) text() (s string) {
	for _, p := range append(i.Summary, i.Content...) {
		s += p.Text
	}
	return s
}

// answered is what a client makes of an answer.
type answered struct {
	status int
	kinds  []string // of events
	deltas map[string]string
	items  []item
	usage  struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
		Total  int `json:"total_tokens"`
	}
	message string // of an error
}

func (a answered) text() (s string) {
	for _, i := range a.items {
		s += i.Type + ":" + i.text() + "\n"
	}
	return strings.TrimSuffix(s, "\n")
}

func respond(t *testing.T, url string, body any) answered {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp := request(t, http.MethodPost, url+"/v1/responses", string(b))
	a := answered{status: resp.StatusCode, deltas: map[string]string{}}
	type response struct {
		Status string
		Output []item
		Usage  json.RawMessage
		Error  struct{ Message string }
	}
	finish := func(r response) {
		if r.Error.Message != "" {
			a.message = r.Error.Message
			return
		}
		if r.Status != "completed" || json.Unmarshal(r.Usage, &a.usage) != nil {
			t.Errorf("the answer ends as %+v", r)
		}
		a.items = r.Output
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		var whole response
		if err := json.NewDecoder(resp.Body).Decode(&whole); err != nil {
			t.Fatal(err)
		}
		finish(whole)
		return a
	}
	var done []item
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		if !isData {
			continue
		}
		var e struct {
			Type, Delta string
			ItemID      string `json:"item_id"`
			Sequence    int    `json:"sequence_number"`
			Item        item
			Response    response
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Sequence != len(a.kinds) {
			t.Fatalf("event %d is %s: %v", len(a.kinds), data, err)
		}
		a.kinds = append(a.kinds, e.Type)
		a.deltas[e.ItemID] += e.Delta
		switch e.Type {
		case "response.output_item.done":
			done = append(done, e.Item)
		case "response.completed":
			finish(e.Response)
		}
	}
	for i, d := range a.items {
		if i >= len(done) || done[i].ID != d.ID || a.deltas[d.ID] != d.text()+d.Arguments {
			t.Errorf("item %+v, its deltas %q, and what was done %+v", d, a.deltas[d.ID], done)
		}
	}
	return a
}

var codexTools = []any{
	map[string]any{"type": "function", "name": "exec_command", "parameters": map[string]any{
		"properties": map[string]any{"cmd": map[string]any{"type": "string"}}, "required": []string{"cmd"},
	}},
	map[string]any{"type": "namespace", "name": "mcp__sum", "tools": []any{map[string]any{"type": "function", "name": "add", "parameters": map[string]any{}}}},
	map[string]any{"type": "custom", "name": "apply_patch"},
}

func userItem(text string) map[string]any {
	return map[string]any{"type": "message", "role": "user", "content": []any{map[string]any{"type": "input_text", "text": text}}}
}

func TestResponsesFollowTheSameScript(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		input any
		want  string
	}{
		"a string":     {"hello", "message:[demo] This is the demo gateway, not a model. You said: hello"},
		"a message":    {[]any{userItem("hello")}, "message:[demo] This is the demo gateway, not a model. You said: hello"},
		"reasoning":    {[]any{userItem("THINK: of the sea")}, "reasoning:of the sea\nmessage:[demo] Thought about: of the sea"},
		"pieces":       {[]any{userItem("SLOW: 3")}, "message:[demo] 1 2 3 "},
		"no such tool": {[]any{userItem("CALL: subtract")}, "message:[demo] CALL found no offered tool with that name."},
		"a tool's output": {
			[]any{
				userItem("RUN: ls"),
				map[string]any{"type": "reasoning", "summary": []any{}, "encrypted_content": "x"},
				map[string]any{"type": "function_call", "call_id": "c1", "name": "exec_command", "arguments": "{}"},
				map[string]any{"type": "function_call_output", "call_id": "c1", "output": "file"},
			},
			"message:[demo] RESULT: file",
		},
		"a tool's output in parts": {
			[]any{userItem("RUN: ls"), map[string]any{"type": "custom_tool_call_output", "output": []any{map[string]any{"type": "input_text", "text": "file"}}}},
			"message:[demo] RESULT: file",
		},
		"an image": {
			[]any{map[string]any{"role": "user", "content": []any{map[string]any{"type": "input_image", "image_url": "data:image/png;base64,AA=="}}}},
			"message:[demo] This is the demo gateway, not a model. It saw 1 image(s): image/png. You said: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, url := serve(t)
			for _, stream := range []bool{true, false} {
				a := respond(t, url, map[string]any{"model": "m", "stream": stream, "input": c.input, "tools": codexTools, "instructions": "be good"})
				if a.status != http.StatusOK || a.text() != c.want {
					t.Errorf("stream %t: %d %q", stream, a.status, a.text())
				}
				if u := a.usage; u.Input < 1 || u.Output < 1 || u.Total != u.Input+u.Output {
					t.Errorf("usage %+v", u)
				}
			}
		})
	}
}

func TestResponsesCallFunctionsAndNamespacesByTheirNames(t *testing.T) {
	t.Parallel()
	g, url := serve(t)
	for _, stream := range []bool{true, false} {
		for say, want := range map[string]item{
			"RUN: ls -l":        {Name: "exec_command", Arguments: `{"cmd":"ls -l"}`},
			`CALL: add {"a":2}`: {Namespace: "mcp__sum", Name: "add", Arguments: `{"a":2}`},
		} {
			a := respond(t, url, map[string]any{"model": "m", "stream": stream, "input": []any{userItem(say)}, "tools": codexTools})
			if len(a.items) != 1 {
				t.Fatalf("items %+v", a.items)
			}
			got := a.items[0]
			if got.Type != "function_call" || got.Namespace != want.Namespace || got.Name != want.Name || got.Arguments != want.Arguments || got.CallID == "" {
				t.Errorf("stream %t, %s: %+v", stream, say, got)
			}
		}
	}
	if tools := g.Requests()[0].Tools; !slices.Equal(tools, []string{"exec_command", "mcp__sum__add"}) {
		t.Errorf("remembered tools %v", tools)
	}
}

func TestResponsesFailAsAsked(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	for say, status := range map[string]int{"FAIL: 429": 429, "FAIL: 503": 503} {
		if a := respond(t, url, map[string]any{"model": "m", "input": say, "stream": true}); a.status != status || !strings.Contains(a.message, "as it was asked to") {
			t.Errorf("%s: %d %q", say, a.status, a.message)
		}
	}
	if a := respond(t, url, map[string]any{"model": "m", "input": "CUT: 2", "stream": true}); a.items != nil || !slices.Contains(a.kinds, "response.output_text.delta") || slices.Contains(a.kinds, "response.completed") {
		t.Errorf("a stream that is cut has %v", a.kinds)
	}
	for _, body := range []string{`{}`, `{"model":"m"}`, `{"model":"m","input":[]}`, `{"model":"m","input":7}`, `{"model":"m","input":[{"content":{}}]}`, `[`} {
		if resp := request(t, http.MethodPost, url+"/responses", body); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", body, resp.StatusCode)
		}
	}
}

func TestARequestForATitleGetsOneAsJSON(t *testing.T) {
	t.Parallel()
	_, url := serve(t)
	schema := map[string]any{"type": "object", "properties": map[string]any{"title": map[string]any{"type": "string"}}}
	a := respond(t, url, map[string]any{
		"model": "m", "stream": true, "input": []any{userItem("Generate a title.\nRUN: ls")},
		"text": map[string]any{"format": map[string]any{"type": "json_schema", "schema": schema}},
	})
	if a.text() != `message:{"title":"[demo] Conversation"}` {
		t.Errorf("%s", a.text())
	}
}

func TestResponsesRememberWhatWasAsked(t *testing.T) {
	t.Parallel()
	g, url := serve(t)
	a := respond(t, url, map[string]any{"model": "m", "instructions": "be good", "input": []any{
		map[string]any{"type": "message", "role": "developer", "content": "be brief"}, userItem("hello"),
	}})
	want := []demo.Message{{Role: "system", Text: "be good"}, {Role: "developer", Text: "be brief"}, {Role: "user", Text: "hello"}}
	got := g.Requests()[0]
	same := slices.EqualFunc(got.Messages, want, func(a, b demo.Message) bool { return a.Role == b.Role && a.Text == b.Text })
	if !same || !got.KeyOK || got.Model != "m" || got.PromptTokens != a.usage.Input || got.CompletionTokens != a.usage.Output {
		t.Errorf("%+v, usage %+v", got, a.usage)
	}
}
