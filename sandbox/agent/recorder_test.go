package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox/agent"
	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

type deltaData struct {
	PartID string `json:"part_id"`
	Offset int    `json:"offset"`
	Text   string `json:"text"`
}

func emitDelta(emit func(harness.Event), turn, part, text string) {
	emit(harness.Event{Type: "message.delta", TurnID: turn, Data: map[string]string{"part_id": part, "text": text}})
}

// record runs feed against a recorder on a fake clock.
func record(t *testing.T, feed func(emit func(harness.Event))) []sandboxd.Record {
	t.Helper()
	dir := t.TempDir()
	var all []sandboxd.Record
	synctest.Test(t, func(t *testing.T) {
		var err error
		if all, err = agent.Record(dir, "t", discard(), feed); err != nil {
			t.Fatal(err)
		}
	})
	return all
}

func deltas(t *testing.T, all []sandboxd.Record) []deltaData {
	t.Helper()
	var list []deltaData
	for _, r := range all {
		if r.Type == "message.delta" {
			var d deltaData
			if err := json.Unmarshal(r.Data, &d); err != nil {
				t.Fatal(err)
			}
			list = append(list, d)
		}
	}
	return list
}

func TestDeltasOfAPartAreMergedAndTheFirstGoesAtOnce(t *testing.T) {
	t.Parallel()
	all := record(t, func(emit func(harness.Event)) {
		for range 1000 { // one second of one delta a millisecond
			emitDelta(emit, "t", "p", "é𝄞x")
			time.Sleep(time.Millisecond)
		}
	})
	list := deltas(t, all)
	if len(list) < 15 || len(list) > 22 {
		t.Errorf("%d records in a second", len(list))
	}
	if list[0].Text != "é𝄞x" {
		t.Errorf("the first record is %q", list[0].Text)
	}
	var text strings.Builder
	for _, d := range list {
		if d.Offset != utf8.RuneCountInString(text.String()) {
			t.Errorf("offset %d after %d code points", d.Offset, utf8.RuneCountInString(text.String()))
		}
		text.WriteString(d.Text)
	}
	if text.String() != strings.Repeat("é𝄞x", 1000) {
		t.Error("text was lost")
	}
}

func TestMergedDeltasComeWithoutAnythingToFollowThem(t *testing.T) {
	t.Parallel()
	all := record(t, func(emit func(harness.Event)) {
		emitDelta(emit, "t", "p", "a")
		emitDelta(emit, "t", "p", "b")
		time.Sleep(60 * time.Millisecond) // on the fake clock
		emit(harness.Event{Type: "harness.event", TurnID: "t", Data: struct{}{}})
	})
	if got := types(all); got != "message.delta message.delta harness.event" {
		t.Fatal(got)
	}
	if late := all[1].Time.Sub(all[0].Time); late != 50*time.Millisecond {
		t.Errorf("the second delta came after %s", late)
	}
}

func TestPendingDeltasComeBeforeAnyOtherRecordOfTheTurn(t *testing.T) {
	t.Parallel()
	all := record(t, func(emit func(harness.Event)) {
		for _, part := range []string{"p", "q", "p", "q"} {
			emitDelta(emit, "t", part, "x")
		}
		emit(harness.Event{Type: "tool.started", TurnID: "t", Data: map[string]string{}})
		emitDelta(emit, "t", "p", "y")
	})
	if got := types(all); got != "message.delta message.delta message.delta message.delta tool.started message.delta" {
		t.Error(got)
	}
}

func TestEventsOfATurnThatDoesNotRunAreDropped(t *testing.T) {
	t.Parallel()
	all := record(t, func(emit func(harness.Event)) {
		emitDelta(emit, "earlier", "p", "x")
		emit(harness.Event{Type: "message.part", TurnID: "earlier", Data: map[string]string{}})
		emit(harness.Event{Type: "harness.event", Data: map[string]string{"kind": "mcp"}})
	})
	if got := types(all); got != "harness.event" {
		t.Error(got)
	}
}

func TestATurnThatSaysTooMuchIsCutShortWithAMarker(t *testing.T) {
	t.Parallel()
	all := record(t, func(emit func(harness.Event)) {
		for i := range agent.MaxDeltas + 500 {
			emitDelta(emit, "t", fmt.Sprint(i), "x") // the first of a part is never merged
		}
		for range agent.MaxRecords {
			emit(harness.Event{Type: "tool.started", TurnID: "t", Data: map[string]string{}})
		}
	})
	if n := len(deltas(t, all)); n != agent.MaxDeltas {
		t.Errorf("%d deltas", n)
	}
	if len(all) != agent.MaxRecords {
		t.Errorf("%d records", len(all))
	}
	if last := all[len(all)-1]; last.Type != "harness.event" || field(t, last, "kind") != "truncated" {
		t.Errorf("last record %s %s", last.Type, last.Data)
	}
}

func TestLongOutputIsCutWithAMarker(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", agent.MaxOutput)
	input := json.RawMessage(`{"content":"` + long + `"}`)
	all := record(t, func(emit func(harness.Event)) {
		part := sandboxd.OutputPart{ID: "p", Type: "tool", Output: &long, Input: &input}
		emit(harness.Event{Type: "tool.completed", TurnID: "t", Data: map[string]any{"part_id": "p", "part": part}})
		emit(harness.Event{Type: "harness.event", TurnID: "t", Data: map[string]any{"kind": "x", "blob": long}})
		emit(harness.Event{Type: "harness.event", TurnID: "t", Data: make(chan int)})
	})
	var got struct {
		PartID string              `json:"part_id"`
		Part   sandboxd.OutputPart `json:"part"`
	}
	if err := json.Unmarshal(all[0].Data, &got); err != nil {
		t.Fatal(err)
	}
	out := *got.Part.Output
	if len(out) > agent.MaxOutput+100 || !strings.HasSuffix(out, " more bytes were cut]") || strings.ContainsRune(out, utf8.RuneError) {
		t.Errorf("%d bytes of output end in %q", len(out), out[len(out)-30:])
	}
	if got.PartID != "p" || !strings.Contains(string(*got.Part.Input), `"truncated":true`) {
		t.Errorf("part %q input %s", got.PartID, *got.Part.Input)
	}
	if len(all) != 2 || field(t, all[1], "kind") != "truncated" {
		t.Errorf("then came %s", types(all))
	}
}

func TestAResultIsBoundedAndKeepsItsEnd(t *testing.T) {
	t.Parallel()
	var in sandboxd.TurnResult
	chunk := strings.Repeat("x", 500_000)
	for i := range 40 {
		in.Parts = append(in.Parts, sandboxd.OutputPart{ID: fmt.Sprint(i), Type: "text", Text: &chunk})
	}
	last := "the answer"
	in.Parts = append(in.Parts, sandboxd.OutputPart{ID: "last", Type: "text", Text: &last})
	out := agent.BoundedResult(in)
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > agent.MaxResult+100_000 || len(out.Parts) != 41 || *out.Parts[40].Text != last || len(*out.Parts[39].Text) != len(chunk) {
		t.Errorf("%d bytes, %d parts", len(b), len(out.Parts))
	}
	if len(*in.Parts[0].Text) != len(chunk) {
		t.Error("the harness's own result was changed")
	}
}

func TestTheEndOfOutputBecomesASentence(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                  "",
		"a\n\n b \nc\n":                     "b · c",
		"10%\r50%\r100%\ndone\r\n":          "100% · done",
		"one\ntwo\nERROR: \xff no such x\n": "two · ERROR: ? no such x",
	} {
		if got := agent.LastLines(in, 2); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestNothingOfATurnIsLostWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	feed := func(emit func(harness.Event)) {
		emitDelta(emit, "t", "p", "a")
		emitDelta(emit, "t", "p", "b")
		emit(harness.Event{Type: "message.part", TurnID: "t", Data: map[string]string{}})
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all, err := agent.RecordOnFullDisk(dir, 3*time.Second, nil, discard(), feed)
		if err != nil || types(all) != "message.delta message.delta message.part" {
			t.Errorf("%s, %v", types(all), err)
		}
		if list := deltas(t, all); len(list) != 2 || list[1].Offset != 1 {
			t.Errorf("deltas are %+v", list)
		}
	})
}

func TestAFullDiskDoesNotHoldUpTheEndOfASandbox(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ending := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(ending) })
		begun := time.Now()
		all, err := agent.RecordOnFullDisk(dir, time.Hour, ending, discard(), func(emit func(harness.Event)) {
			emit(harness.Event{Type: "message.part", TurnID: "t", Data: map[string]string{}})
		})
		if err != nil || len(all) != 0 || time.Since(begun) > 2*time.Second {
			t.Errorf("%s after %s, %v", types(all), time.Since(begun), err)
		}
	})
}
