package harness_test

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

type delta struct {
	PartID string `json:"part_id"`
	Text   string `json:"text"`
}

type whole struct {
	PartID string              `json:"part_id"`
	Part   sandboxd.OutputPart `json:"part"`
}

func TestOpenCodeRunsTurns(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	r := b.start(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *box, harness.Running)
	}{
		{"a reply's deltas fold to its part", replyFolds},
		{"reasoning is a part of its own", reasoningIsApart},
		{"a tool's start and end are told", toolIsTold},
		{"a refusal of the gateway fails the turn truthfully", refusalFails},
		{"a failing gateway is retried in sight and can be aborted", retryIsSeen},
		{"an abort ends the turn and its tool, and the next turn works", abortEnds},
		{"an image reaches the gateway", imageArrives},
		{"another model is refused and spoils nothing", modelIsRefused},
		{"a turn without parts is refused", emptyIsRefused},
		{"the prompt is system text and no tool asks questions", promptIsSystemText},
		{"no package is fetched", nothingIsFetched},
		{"the phases of the start are told", phasesAreTold},
		{"files are private and nothing shows the key", secretsStayInside},
		{"a close is final and may be repeated", closeEnds},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, b, r) })
	}
}

func completed(t *testing.T, o outcome) sandboxd.TurnResult {
	t.Helper()
	if o.err != nil || o.status != harness.Completed {
		t.Fatalf("turn ended as %q with %+v, error %v", o.status, o.result.Error, o.err)
	}
	return o.result
}

func text(result sandboxd.TurnResult) string {
	var all strings.Builder
	for _, p := range result.Parts {
		if p.Type == "text" {
			all.WriteString(*p.Text)
		}
	}
	return all.String()
}

func replyFolds(t *testing.T, b *box, r harness.Running) {
	o := b.turn(t, r, say("hello lighthouse"))
	result := completed(t, o)
	if got := text(result); got != "[demo] This is the demo gateway, not a model. You said: hello lighthouse" {
		t.Errorf("reply %q", got)
	}
	folded := map[string]string{}
	for _, e := range o.events {
		switch e.Type {
		case "message.delta":
			d := decode[delta](t, e)
			folded[d.PartID] += d.Text
		case "message.part":
			p := decode[whole](t, e)
			if p.PartID != p.Part.ID || *p.Part.Text != folded[p.PartID] {
				t.Errorf("part %+v, its deltas %q", p, folded[p.PartID])
			}
		default:
			t.Errorf("event %s", e.Type)
		}
	}
	if len(folded) != 1 || len(result.Parts) != 1 {
		t.Errorf("deltas of %d parts, %d parts in the result", len(folded), len(result.Parts))
	}
	if result.Tokens.Input < 100 || result.Tokens.Output < 5 || *result.Model != model {
		t.Errorf("tokens %+v, model %q", result.Tokens, *result.Model)
	}
}

func reasoningIsApart(t *testing.T, b *box, r harness.Running) {
	result := completed(t, b.turn(t, r, say("THINK: of the sea")))
	if len(result.Parts) != 2 || result.Parts[0].Type != "reasoning" || *result.Parts[0].Text != "of the sea" || result.Parts[1].Type != "text" {
		t.Errorf("parts %s", asJSON(t, result.Parts))
	}
}

func toolIsTold(t *testing.T, b *box, r harness.Running) {
	o := b.turn(t, r, say("RUN: printf 'a\\nb'; pwd"))
	result := completed(t, o)
	if got := text(result); got != "[demo] RESULT: a\nb"+b.config.Dir+"\n" {
		t.Errorf("reply %q", got)
	}
	var kinds []string
	for _, e := range o.events {
		if e.Type == "message.delta" {
			continue
		}
		kinds = append(kinds, e.Type)
		if p := decode[whole](t, e); strings.HasPrefix(e.Type, "tool.") && (p.Part.Tool == nil || *p.Part.Tool != "bash" || p.Part.CallID == nil || !strings.Contains(string(*p.Part.Input), "printf")) {
			t.Errorf("%s with %s", e.Type, asJSON(t, p))
		}
	}
	if want := []string{"tool.started", "tool.completed", "message.part"}; !slices.Equal(kinds, want) {
		t.Errorf("events %v, want %v", kinds, want)
	}
	tool := result.Parts[0]
	if tool.Type != "tool" || *tool.Status != "completed" || *tool.Output != "a\nb"+b.config.Dir+"\n" {
		t.Errorf("tool %s", asJSON(t, tool))
	}
}

func refusalFails(t *testing.T, b *box, r harness.Running) {
	for _, status := range []string{"400", "401"} {
		o := b.turn(t, r, say("FAIL: "+status))
		if o.err != nil || o.status != harness.Failed || o.result.Error == nil {
			t.Fatalf("%s: %q, %+v, %v", status, o.status, o.result, o.err)
		}
		if e := *o.result.Error; e.Name != "APIError" || !strings.Contains(e.Message, "the demo gateway fails with "+status) {
			t.Errorf("%s: error %+v", status, e)
		}
	}
	completed(t, b.turn(t, r, say("still there?")))
}

func retryIsSeen(t *testing.T, b *box, r harness.Running) {
	for _, status := range []string{"500", "429"} {
		ended := b.begin(t, r, say("FAIL: "+status))
		e := b.await(t, "harness.event", "fails with "+status)
		if got := decode[map[string]any](t, e); got["kind"] != "retry" || got["attempt"] != 1.0 {
			t.Errorf("%s: event %v", status, got)
		}
		o := abort(t, r, ended)
		if o.err != nil || o.status != harness.Aborted {
			t.Errorf("%s: %q, %+v, %v", status, o.status, o.result.Error, o.err)
		}
	}
}

// abort aborts a turn, which must take less than 3 s.
func abort(t *testing.T, r harness.Running, ended <-chan outcome) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := r.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	return <-ended
}

func abortEnds(t *testing.T, b *box, r harness.Running) {
	ended := b.begin(t, r, say("SLOW: 600"))
	b.await(t, "message.delta", `"3 "`)
	o := abort(t, r, ended)
	if o.status != harness.Aborted || !strings.HasPrefix(text(o.result), "[demo] 1 2 3 ") {
		t.Errorf("slow reply: %q, %s", o.status, asJSON(t, o.result))
	}
	ended = b.begin(t, r, say("RUN: sleep 7391"))
	b.await(t, "tool.started", "7391")
	o = abort(t, r, ended)
	if o.status != harness.Aborted || len(o.result.Parts) != 1 || *o.result.Parts[0].Status == "running" {
		t.Errorf("tool: %q, %s", o.status, asJSON(t, o.result))
	}
	if b.runs(t, "sleep 7391") {
		t.Error("the tool still runs")
	}
	if got := text(completed(t, b.turn(t, r, say("are you back?")))); !strings.Contains(got, "are you back?") {
		t.Errorf("next reply %q", got)
	}
	if err := r.Abort(t.Context()); err != nil {
		t.Errorf("abort without a turn: %v", err)
	}
}

func imageArrives(t *testing.T, b *box, r harness.Running) {
	var pixel bytes.Buffer
	if err := png.Encode(&pixel, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	media := "image/png"
	result := completed(t, b.turn(t, r, say("look"), sandboxd.InputPart{Type: "image", MediaType: &media, Data: pixel.Bytes()}))
	if got := text(result); !strings.Contains(got, "1 image(s): image/png") {
		t.Errorf("reply %q", got)
	}
	o := b.turn(t, r, say("look"), sandboxd.InputPart{Type: "image", MediaType: &media, Data: []byte("no image")})
	if o.err != nil || o.status != harness.Failed || !strings.Contains(o.result.Error.Message, "cannot read an image") {
		t.Errorf("a broken image: %q, %+v, %v", o.status, o.result.Error, o.err)
	}
}

func modelIsRefused(t *testing.T, b *box, r harness.Running) {
	before := len(b.gateway.Requests())
	status, result, err := r.Turn(t.Context(), sandboxd.Turn{ID: newID(t), Model: "other/model", Parts: []sandboxd.InputPart{say("hi")}})
	if err != nil || status != harness.Failed || result.Error == nil || !strings.Contains(result.Error.Message, model) {
		t.Errorf("%q, %+v, %v", status, result.Error, err)
	}
	if after := len(b.gateway.Requests()); after != before {
		t.Errorf("%d requests reached the gateway", after-before)
	}
	completed(t, b.turn(t, r, say("go on")))
}

func emptyIsRefused(t *testing.T, b *box, r harness.Running) {
	if o := b.turn(t, r); o.err != nil || o.status != harness.Failed || o.result.Error == nil {
		t.Errorf("%q, %+v, %v", o.status, o.result, o.err)
	}
}

func promptIsSystemText(t *testing.T, b *box, r harness.Running) {
	requests := b.gateway.Requests()
	for _, req := range requests {
		if !req.KeyOK || req.Model != model {
			t.Errorf("request with key ok %t, model %q", req.KeyOK, req.Model)
		}
		if m := req.Messages[0]; m.Role != "system" || !strings.Contains(m.Text, prompt) {
			t.Errorf("first message is %s without the prompt", m.Role)
		}
		if !slices.Contains(req.Tools, "bash") || slices.Contains(req.Tools, "question") {
			t.Errorf("tools %v", req.Tools)
		}
	}
	if len(requests) == 0 {
		t.Error("no request reached the gateway")
	}
}

func nothingIsFetched(t *testing.T, b *box, _ harness.Running) {
	home := filepath.Join(filepath.Dir(b.config.Dir), "home")
	for _, name := range []string{".npm", ".config/opencode/node_modules/@opencode-ai"} {
		if _, err := os.Stat(filepath.Join(home, name)); err == nil {
			t.Errorf("opencode made %s", name)
		}
	}
}

func phasesAreTold(t *testing.T, b *box, _ harness.Running) {
	var phases []string
	for _, e := range b.of("") {
		if e.Type == "phase" {
			phases = append(phases, decode[struct{ Phase string }](t, e).Phase)
		}
	}
	if want := []string{"waiting_harness", "harness_listening", "harness_ready"}; !slices.Equal(phases, want) {
		t.Errorf("phases %v", phases)
	}
}

func secretsStayInside(t *testing.T, b *box, _ harness.Running) {
	for _, name := range []string{"opencode.json", "prompt.md"} {
		path := filepath.Join(b.config.StateDir, name)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if content, err := os.ReadFile(path); err != nil || strings.Contains(string(content), gatewayKey) {
			t.Errorf("%s has the key, or: %v", name, err)
		}
	}
	running := b.processes(t)
	for _, command := range running {
		if strings.Contains(command, gatewayKey) {
			t.Errorf("arguments %q", command)
		}
	}
	if len(running) == 0 {
		t.Error("nothing runs")
	}
	if strings.Contains(b.log.String(), gatewayKey) || strings.Contains(asJSON(t, b.events), gatewayKey) {
		t.Error("the log or an event has the key")
	}
}

func closeEnds(t *testing.T, b *box, r harness.Running) {
	r.Close()
	r.Close()
	select {
	case <-r.Done():
	default:
		t.Error("closed and not done")
	}
	if r.ExitReason() == "" {
		t.Error("no reason")
	}
	if o := b.turn(t, r, say("hi")); o.err == nil {
		t.Errorf("a turn after the end: %+v", o)
	}
}
