package chaos_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"
	"unique"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// event is one event as it was received. Equal texts are kept once, however many subscribers saw them.
type event struct {
	seq  int64
	typ  string
	turn string
	raw  unique.Handle[string]
}

func parseEvent(raw string) (event, error) {
	var e struct {
		Seq    int64   `json:"seq"`
		Type   string  `json:"type"`
		TurnID *string `json:"turn_id"`
	}
	if err := json.Unmarshal([]byte(raw), &e); err != nil {
		return event{}, fmt.Errorf("event %q: %w", raw, err)
	}
	out := event{seq: e.Seq, typ: e.Type, raw: unique.Make(raw)}
	if e.TurnID != nil {
		out.turn = *e.TurnID
	}
	return out, nil
}

// body is what an event says beside its place.
type body struct {
	Time time.Time `json:"time"`
	Data struct {
		Status       string                            `json:"status"`
		SandboxState string                            `json:"sandbox_state"`
		Reason       *string                           `json:"failure_reason"`
		Attempt      int                               `json:"attempt"`
		PartID       string                            `json:"part_id"`
		Offset       int                               `json:"offset"`
		Text         string                            `json:"text"`
		Part         client.MessagePart                `json:"part"`
		Info         struct{ Error *client.TurnError } `json:"info"`
	} `json:"data"`
}

func (e event) body() body {
	var b body
	if e.seq == 0 {
		return b // there was no such event
	}
	_ = json.Unmarshal([]byte(e.raw.Value()), &b) // what is missing is found missing
	return b
}

func (e event) endsTurn() bool {
	return e.typ == "turn.completed" || e.typ == "turn.failed" || e.typ == "turn.aborted"
}

// message is one message of a client, with what it learned about it.
type message struct {
	n        int
	key      string // Idempotency-Key; empty: none
	text     string
	picture  bool     // has one
	accepted bool     // an answer said so
	refused  bool     // an answer said that it was not stored
	turns    []string // ids that answers gave its turn; more than one is a fault
	answers  []answer
}

// answer is what a client was told about the end of a turn.
type answer struct {
	status string // of the turn
	parts  []client.MessagePart
}

// markers are around a message's text, and the demo gateway repeats them.
var marker = regexp.MustCompile(`\b(begin|end)-m(\d+)\b`)

func (m *message) begin() string { return fmt.Sprintf("begin-m%d", m.n) }
func (m *message) end() string   { return fmt.Sprintf("end-m%d", m.n) }

// deed is something that was done to a session, or to all of them, and that may be why it or a turn of it did not end well.
type deed struct {
	what     string
	session  string // empty: any
	from, to time.Time
}

// subscription is what one subscriber received, from the start of the log on.
type subscription struct {
	manner string
	seen   []event
}

// asked is what the gateway saw of one message.
type asked struct {
	whole  int // answers to it as a fresh prompt that were written to their end
	failed int // requests about it that failed as they were told to
	most   int // messages of a user with it in one request
}

// history is all that is known of one session when it is quiet.
type history struct {
	session       client.Session
	mustEnd       bool // the last request demands it for good
	sent          []*message
	subscriptions []subscription
	streams       [][]event // of single turns
	replay        []event
	turns         map[string]client.Turn
	transcript    []client.TranscriptMessage
	deeds         []deed
	asked         map[int]asked
}
