package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
)

func TestAnswersAreEncodedAsTheLibraryWould(t *testing.T) {
	t.Parallel()
	text := func(s string) nullable.Nullable[string] { return nullable.NewNullableWithValue(s) }
	count, active, content := int64(7), true, []byte{0, 1, 0xff}
	full := gen.Agent{
		ID: "01", Name: text("a\"\\\u2028<&>\n\x01 ä 𝄞"), Prompt: text(strings.Repeat("p", 3*flushAt)), PfpURL: text(""),
		McpServers: []string{"a", "b"}, AllowOut: []string{}, EnvVars: map[string]string{"B": "x", "A": "y\x7f"}, SessionCount: &count,
		HasActiveSession: &active, SandboxFiles: []gen.SandboxFile{{Name: "f", Size: 3, Content: &content}, {Name: "g"}}, Version: -1,
		RepoURL: nullable.NewNullNullable[string](),
	}
	empty := gen.Agent{SessionCount: new(int64), HasActiveSession: new(bool)}
	for _, list := range []gen.AgentList{
		{Data: []gen.Agent{}, Limit: 50, NextCursor: text("c"), Total: nullable.NewNullableWithValue(int64(12))},
		{Data: []gen.Agent{empty, full, full, {Name: text("bad \xff\xfe"), SessionCount: &count, HasActiveSession: &active}}, Offset: 3, Total: nullable.NewNullNullable[int64]()},
	} {
		want, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if err := pageOf(t, list).VisitListAgentsResponse(w); err != nil {
			t.Fatal(err)
		}
		var got, expected any
		if err := errors.Join(json.Unmarshal(w.Body.Bytes(), &got), json.Unmarshal(want, &expected)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, expected) || w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("got %.3000s\nwant %.3000s", w.Body, want)
		}
	}
}

func pageOf(t *testing.T, l gen.AgentList) listPage {
	return listPage{Limit: l.Limit, NextCursor: l.NextCursor, Offset: l.Offset, Total: l.Total, Data: func(yield func(any, error) bool) {
		for _, a := range l.Data {
			listed := listedAgent{sessions: *a.SessionCount, active: *a.HasActiveSession}
			a.SessionCount, a.HasActiveSession = nil, nil
			var err error
			if listed.agent, err = encode(a); err != nil {
				t.Error(err)
			}
			if !yield(listed, nil) {
				return
			}
		}
	}}
}

func TestAListThatBreaksOffIsNoAnswer(t *testing.T) {
	t.Parallel()
	lost := errors.New("database lost")
	w := httptest.NewRecorder()
	err := listPage{Data: func(yield func(any, error) bool) { _ = yield(listedAgent{}, nil) && yield(listedAgent{}, lost) }}.
		VisitListAgentsResponse(w)
	if !errors.Is(err, lost) || w.Body.Len() != 0 {
		t.Errorf("%v, and %q was written", err, w.Body)
	}
}

func TestALongListIsNotHeldWhole(t *testing.T) {
	t.Parallel()
	list := gen.AgentList{Data: make([]gen.Agent, 200)}
	for i := range list.Data {
		list.Data[i].Prompt = nullable.NewNullableWithValue(strings.Repeat("p", 10_000))
	}
	var w largest
	e := encoder{w: &w, begin: func() {}}
	if err := errors.Join(e.value(reflect.ValueOf(list)), e.flush()); err != nil {
		t.Fatal(err)
	}
	if w.size > 2*flushAt || w.Len() < 2_000_000 || cap(e.buf) > 4*flushAt {
		t.Errorf("%d bytes were written at once, of %d", w.size, w.Len())
	}
}

// largest keeps the size of the largest write.
type largest struct {
	bytes.Buffer
	size int
}

func (l *largest) Write(b []byte) (int, error) {
	l.size = max(l.size, len(b))
	return l.Buffer.Write(b)
}
