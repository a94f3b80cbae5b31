package chaos_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// epoch is when the histories below begin.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// at makes an event that comes seq seconds after the epoch.
func at(t *testing.T, seq int64, typ, turn, data string) event {
	t.Helper()
	id := "null"
	if turn != "" {
		id = `"` + turn + `"`
	}
	e, err := parseEvent(fmt.Sprintf(`{"type":%q,"seq":%d,"turn_id":%s,"time":%q,"data":%s}`,
		typ, seq, id, epoch.Add(time.Duration(seq)*time.Second).Format(time.RFC3339), data))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func textPart(id, text string) client.MessagePart {
	return client.MessagePart{ID: id, Type: "text", Text: &text}
}

// sound is a session with a message that was answered, one that was interrupted, and one that was aborted.
func sound(t *testing.T) history {
	t.Helper()
	reply := textPart("p1", "[demo] begin-m1 and end-m1")
	h := history{
		session: client.Session{ID: "s", Status: "dead", SandboxState: "none"},
		mustEnd: true,
		sent: []*message{
			{n: 1, key: "k1", accepted: true, turns: []string{"t1"}, answers: []answer{{"ended", []client.MessagePart{reply}}}},
			{n: 2, accepted: true, turns: []string{"t2"}},
			{n: 3, key: "k3"},
			{n: 4, key: "k4", refused: true},
			{n: 5},
		},
		replay: []event{
			at(t, 1, "session.status", "", `{"status":"creating","sandbox_state":"starting"}`),
			at(t, 2, "turn.queued", "t1", `{}`),
			at(t, 3, "session.status", "", `{"status":"ready","sandbox_state":"running"}`),
			at(t, 4, "turn.started", "t1", `{}`),
			at(t, 5, "message.delta", "t1", `{"part_id":"p1","offset":0,"text":"[demo] begin-m1 "}`),
			at(t, 6, "message.delta", "t1", `{"part_id":"p1","offset":16,"text":"and end-m1"}`),
			at(t, 7, "message.part", "t1", `{"part_id":"p1","part":{"id":"p1","type":"text","text":"[demo] begin-m1 and end-m1"}}`),
			at(t, 8, "turn.completed", "t1", `{"info":{}}`),
			at(t, 9, "turn.queued", "t2", `{}`),
			at(t, 10, "turn.started", "t2", `{}`),
			at(t, 11, "turn.failed", "t2", `{"info":{}}`),
			at(t, 12, "turn.queued", "t3", `{}`),
			at(t, 13, "turn.started", "t3", `{}`),
			at(t, 14, "turn.aborted", "t3", `{"info":{}}`),
			at(t, 15, "session.status", "", `{"status":"dead","sandbox_state":"none","failure_reason":"deleted"}`),
		},
		turns: map[string]client.Turn{
			"t1": {ID: "t1", Status: "completed", Parts: []client.MessagePart{reply}},
			"t2": {ID: "t2", Status: "failed", Parts: []client.MessagePart{}},
			"t3": {ID: "t3", Status: "aborted", Parts: []client.MessagePart{}},
		},
		deeds: []deed{
			{"sandboxd", "s", epoch.Add(10 * time.Second), epoch.Add(10 * time.Second)},
			{"abort", "s", epoch.Add(13 * time.Second), epoch.Add(14 * time.Second)},
			{"delete", "s", epoch.Add(15 * time.Second), epoch.Add(15 * time.Second)},
		},
		asked: map[int]asked{1: {whole: 1, most: 1}, 2: {most: 1}},
	}
	failed := h.turns["t2"]
	failed.Info.Error.Set(client.TurnError{Name: "turn_interrupted", Message: "sandboxd was killed"})
	h.turns["t2"] = failed
	for n, id := range []string{"t1", "t2", "t3"} {
		question := textPart("1", fmt.Sprintf("begin-m%d and end-m%d", n+1, n+1))
		h.transcript = append(h.transcript,
			client.TranscriptMessage{Info: client.TranscriptInfo{Role: "user", TurnID: id}, Parts: []client.MessagePart{question}},
			client.TranscriptMessage{Info: client.TranscriptInfo{Role: "assistant", TurnID: id}, Parts: h.turns[id].Parts})
	}
	h.subscriptions = []subscription{{"steady", slices.Clone(h.replay)}}
	h.streams = [][]event{slices.Clone(h.replay[3:8])}
	return h
}

func TestTheOracleFindsNothingWrongWithASoundHistory(t *testing.T) {
	t.Parallel()
	if found := check(sound(t)); len(found) > 0 {
		t.Errorf("found %q", found)
	}
	compacted := sound(t) // deltas that were seen live may be dropped later
	compacted.replay = slices.Delete(compacted.replay, 4, 6)
	if found := check(compacted); len(found) > 0 {
		t.Errorf("without its deltas: found %q", found)
	}
}

func change(t client.Turn, status, errorName string) client.Turn {
	t.Status = status
	t.Info.Error.Set(client.TurnError{Name: errorName})
	return t
}

func TestTheOracleNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rule, says string
		spoil            func(t *testing.T, h *history)
	}{
		{"an accepted message is lost", "lost", "message 1 was accepted", func(_ *testing.T, h *history) { h.transcript = h.transcript[2:] }},
		{"a turn never ends", "lost", "turn t1", func(_ *testing.T, h *history) { h.replay = slices.Delete(h.replay, 7, 8) }},
		{"a message is stored twice", "doubled", "message 1 has turns", func(_ *testing.T, h *history) {
			again := h.transcript[0]
			again.Info.TurnID = "t4"
			h.transcript = append(h.transcript, again)
		}},
		{"a key names two turns", "doubled", "said to be turn t9", func(_ *testing.T, h *history) { h.sent[0].turns = append(h.sent[0].turns, "t9") }},
		{"a turn ends twice", "doubled", "after its end", func(t *testing.T, h *history) {
			h.replay = append(h.replay, at(t, 16, "turn.failed", "t1", `{"info":{}}`))
		}},
		{"a turn starts twice", "doubled", "starts twice", func(t *testing.T, h *history) {
			h.replay = slices.Insert(h.replay, 10, at(t, 10, "turn.started", "t2", `{}`))
		}},
		{"a turn is answered twice", "doubled", "2 answers", func(_ *testing.T, h *history) { h.asked[1] = asked{whole: 2, most: 1} }},
		{"a turn is in its conversation twice", "doubled", "2 times", func(_ *testing.T, h *history) { h.asked[2] = asked{most: 2} }},
		{"a refused message ran", "unsent", "message 4 ran", func(_ *testing.T, h *history) { h.asked[4] = asked{most: 1} }},
		{"a refused message is stored", "untrue", "message 3 was refused", func(_ *testing.T, h *history) { h.sent[2].refused = true }},
		{"a turn is of another session", "unsent", "message 7", func(_ *testing.T, h *history) {
			h.transcript[0].Parts = []client.MessagePart{textPart("1", "begin-m7")}
		}},
		{"seq goes back", "seq", "7 comes after 8", func(_ *testing.T, h *history) { h.replay[6], h.replay[7] = h.replay[7], h.replay[6] }},
		{"seq goes back for a subscriber", "seq", "steady subscriber", func(_ *testing.T, h *history) {
			s := h.subscriptions[0].seen
			h.subscriptions[0].seen = slices.Insert(s, 9, s[7])
		}},
		{"seq is used again", "seq", "was replayed as", func(t *testing.T, h *history) {
			h.subscriptions[0].seen[8] = at(t, 9, "turn.queued", "t2", `{"other":1}`)
		}},
		{"a subscriber misses an event", "missed", "turn.started", func(_ *testing.T, h *history) {
			h.subscriptions[0].seen = slices.Delete(h.subscriptions[0].seen, 3, 4)
		}},
		{"a subscriber misses the end", "missed", `"dead"`, func(_ *testing.T, h *history) { h.subscriptions[0].seen = h.subscriptions[0].seen[:14] }},
		{"an event vanishes from the log", "vanished", "turn.started", func(_ *testing.T, h *history) { h.replay = slices.Delete(h.replay, 3, 4) }},
		{"the folds differ", "fold", "is replayed as", func(t *testing.T, h *history) {
			h.subscriptions[0].seen[6] = at(t, 7, "message.part", "t1", `{"part_id":"p1","part":{"id":"p1","type":"text","text":"else"}}`)
		}},
		{"a delta leaves a gap", "fold", "does not go on", func(t *testing.T, h *history) {
			e := at(t, 6, "message.delta", "t1", `{"part_id":"p1","offset":17,"text":"and end-m1"}`)
			h.subscriptions[0].seen[5], h.replay[5] = e, e
		}},
		{"the transcript differs from the events", "fold", "its events say", func(_ *testing.T, h *history) {
			other := []client.MessagePart{textPart("p1", "[demo] begin-m1 or end-m1")}
			turn := h.turns["t1"]
			turn.Parts, h.transcript[1].Parts, h.sent[0].answers = other, other, nil
			h.turns["t1"] = turn
		}},
		{"a turn gets another's answer", "answer", "the answer to message 8", func(_ *testing.T, h *history) {
			turn := h.turns["t1"]
			turn.Parts = []client.MessagePart{textPart("p1", "begin-m8 begin-m1 end-m1")}
			h.turns["t1"] = turn
		}},
		{"a completed turn is cut", "answer", "completed with", func(_ *testing.T, h *history) {
			turn := h.turns["t1"]
			turn.Parts = []client.MessagePart{textPart("p1", "[demo] begin-m1 and")}
			h.turns["t1"] = turn
		}},
		{"a client was told something else", "untrue", "was answered with", func(_ *testing.T, h *history) {
			h.sent[0].answers = []answer{{"ended", []client.MessagePart{textPart("p1", "else")}}}
		}},
		{"a turn fails without a cause", "untrue", "message 2", func(_ *testing.T, h *history) { h.deeds = h.deeds[1:] }},
		{"a turn is aborted by nobody", "untrue", "message 3", func(_ *testing.T, h *history) { h.deeds[1].session = "other" }},
		{"the gateway is blamed and did not fail", "untrue", "APIError", func(_ *testing.T, h *history) {
			h.turns["t2"] = change(h.turns["t2"], "failed", "APIError")
		}},
		{"a session dies by itself", "untrue", `"dead"`, func(_ *testing.T, h *history) {
			h.deeds = h.deeds[1:2]
			h.turns["t2"] = change(h.turns["t2"], "failed", "turn_interrupted")
		}},
		{"a restart leaves its turn running", "interrupted", "turn t2 goes on", func(t *testing.T, h *history) {
			h.replay = slices.Insert(h.replay, 10, at(t, 10, "session.status", "", `{"status":"creating","sandbox_state":"starting","attempt":2}`))
		}},
		{"a session with a turn that waits is suspended", "idle", "with turn t1", func(t *testing.T, h *history) {
			h.replay = slices.Insert(h.replay, 3, at(t, 3, "session.status", "", `{"status":"ready","sandbox_state":"suspended"}`))
		}},
		{"a session rises again", "status", "dead became ready", func(t *testing.T, h *history) {
			h.replay = append(h.replay, at(t, 16, "session.status", "", `{"status":"ready","sandbox_state":"running"}`))
		}},
		{"a session is not what its events say", "status", "events say dead", func(_ *testing.T, h *history) { h.session.SandboxState = "running" }},
		{"a stopped session runs", "status", "its end was asked for", func(_ *testing.T, h *history) { h.session.Status = "ready" }},
		{"a stream goes on after the end", "stream", "comes after", func(_ *testing.T, h *history) {
			h.streams[0] = append(h.streams[0], h.replay[8])
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := sound(t)
			c.spoil(t, &h)
			found := check(h)
			if !slices.ContainsFunc(found, func(v violation) bool { return v.rule == c.rule && strings.Contains(v.text, c.says) }) {
				t.Errorf("found %q", found)
			}
		})
	}
}
