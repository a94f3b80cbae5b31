package api

import (
	"reflect"
	"testing"

	"github.com/oapi-codegen/runtime"

	"github.com/litellm-agent-platform/lap/gen"
)

func TestBodiesAreBoundAsTheLibraryWould(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body     string
		new      func() any
		mismatch bool
	}{
		{body: `{"model":"m","name":null,"prompt":"p","harness_id":"codex","mcp_servers":["a","b"],"allow_out":[],"deny_out":null,
			"env_vars":{"A":"b"},"idle_timeout_ms":60000,"sandbox_files":[{"name":"n","sandbox_path":"/tmp/n","content":"AAEC","size":3},
			{"name":"o","sandbox_path":"~/o","content":"","content_type":null}],"unknown":1}`, new: func() any { return new(gen.AgentCreate) }},
		{body: `{"name":null,"sandbox_files":[{"name":"n","sandbox_path":"/tmp/n","content":"AAEC"},{"name":"o","sandbox_path":"/tmp/o",
			"content":null,"sha256":"x"}]}`, new: func() any { return new(gen.AgentUpdate) }},
		{body: `{}`, new: func() any { return new(gen.AgentUpdate) }},
		{body: `{"text":null,"parts":[{"type":"text","text":"x"}]}`, new: func() any { return new(gen.MessageCreate) }},
		{body: `{"title":"t","env_vars":{},"skill_ids":["a"]}`, new: func() any { return new(gen.SessionCreate) }},
		{body: `{"model":1}`, new: func() any { return new(gen.AgentCreate) }, mismatch: true},
		{body: `{"sandbox_files":[1]}`, new: func() any { return new(gen.AgentCreate) }, mismatch: true},
		{body: `{"sandbox_files":[{"content":"*"}]}`, new: func() any { return new(gen.AgentCreate) }, mismatch: true},
		{body: `[]`, new: func() any { return new(gen.AgentCreate) }, mismatch: true},
		{body: `"x"`, new: func() any { return new(gen.AgentCreate) }, mismatch: true},
	} {
		body, err := decodeJSON([]byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		got, want := c.new(), c.new()
		err = bind(body, reflect.ValueOf(got).Elem())
		if (err != nil) != c.mismatch {
			t.Errorf("%s: %v", c.body, err)
		}
		if err := runtime.BindJSONValue(body, want); !c.mismatch && (err != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%s: got %+v\nwant %+v, %v", c.body, got, want, err)
		}
	}
}
