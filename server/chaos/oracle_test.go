package chaos_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/litellm-agent-platform/lap/gen/client"
)

// violation is a broken promise.
type violation struct{ rule, text string }

// judge finds the violations in one history.
type judge struct {
	h     history
	found []violation
	ends  map[string]event // of turns, from the replay
	begun map[string]event // turn.queued
}

func check(h history) []violation {
	j := &judge{h: h, ends: map[string]event{}, begun: map[string]event{}}
	j.replay()
	for _, s := range h.subscriptions {
		j.subscription(s)
	}
	for _, s := range h.streams {
		j.stream(s)
	}
	j.statuses()
	j.messages()
	for _, t := range h.turns {
		j.turn(t)
	}
	j.folds()
	return j.found
}

func (j *judge) violated(rule, format string, args ...any) {
	j.found = append(j.found, violation{rule, fmt.Sprintf(format, args...)})
}

// replay checks the log by itself: order, and that each turn has one place in it.
func (j *judge) replay() {
	last := int64(0)
	started := map[string]bool{}
	for _, e := range j.h.replay {
		if e.seq <= last {
			j.violated("seq", "%d comes after %d", e.seq, last)
		}
		last = e.seq
		if e.typ == "session.status" {
			j.pauses(e, started)
		}
		if e.turn == "" {
			continue
		}
		_, queued := j.begun[e.turn]
		_, ended := j.ends[e.turn]
		switch {
		case e.typ == "turn.queued" && queued:
			j.violated("doubled", "turn %s is queued twice", e.turn)
		case e.typ == "turn.queued":
			j.begun[e.turn] = e
		case !queued:
			j.violated("order", "%s of turn %s comes before it was queued", e.typ, e.turn)
		case ended:
			j.violated("doubled", "%s of turn %s comes after its end", e.typ, e.turn)
		case e.typ == "turn.started" && started[e.turn]:
			j.violated("doubled", "turn %s starts twice", e.turn)
		case e.typ == "turn.started":
			started[e.turn] = true
		case e.endsTurn():
			j.ends[e.turn] = e
		}
	}
}

// pauses checks that no turn lives on when an attempt begins, but those that wait, and none at all when the session is suspended,
// unless it could not be woken for it.
func (j *judge) pauses(e event, started map[string]bool) {
	d := e.body().Data
	for turn := range j.begun {
		if _, ended := j.ends[turn]; ended {
			continue
		}
		switch {
		case d.Attempt > 1 && started[turn]:
			j.violated("interrupted", "turn %s goes on through %s", turn, e.raw.Value())
		case d.SandboxState == "suspended" && d.Reason == nil:
			j.violated("idle", "it was suspended with turn %s: %s", turn, e.raw.Value())
		}
	}
}

// subscription checks that what was seen live is what the replay says. Deltas may be dropped from the log later.
func (j *judge) subscription(s subscription) {
	last, at := int64(0), 0
	for _, e := range s.seen {
		if e.seq <= last {
			j.violated("seq", "%s subscriber: %d comes after %d", s.manner, e.seq, last)
			return
		}
		last = e.seq
		for at < len(j.h.replay) && j.h.replay[at].seq < e.seq {
			j.violated("missed", "%s subscriber: %s was never sent", s.manner, j.h.replay[at].raw.Value())
			at++
		}
		switch {
		case at < len(j.h.replay) && j.h.replay[at].seq == e.seq:
			if j.h.replay[at].raw != e.raw {
				j.violated("seq", "%s subscriber: %s was replayed as %s", s.manner, e.raw.Value(), j.h.replay[at].raw.Value())
			}
			at++
		case e.typ != "message.delta":
			j.violated("vanished", "%s subscriber: %s is not in the log any more", s.manner, e.raw.Value())
		}
	}
	for ; at < len(j.h.replay); at++ {
		j.violated("missed", "%s subscriber: %s was never sent", s.manner, j.h.replay[at].raw.Value())
	}
}

// stream checks the events of a single turn, which a client may have left early.
func (j *judge) stream(seen []event) {
	log := map[int64]event{}
	for _, e := range j.h.replay {
		log[e.seq] = e
	}
	for i, e := range seen {
		if i > 0 && (e.seq <= seen[i-1].seq || seen[i-1].endsTurn() || e.turn != seen[0].turn) {
			j.violated("stream", "%s comes after %s", e.raw.Value(), seen[i-1].raw.Value())
		}
		if old, ok := log[e.seq]; ok && old.raw != e.raw || !ok && e.typ != "message.delta" {
			j.violated("stream", "%s is not in the log", e.raw.Value())
		}
	}
}

// arrows are the changes of status that are allowed.
var arrows = map[string]string{"": "creating", "creating": "creating ready failed dead", "ready": "ready dead creating", "failed": "failed creating", "dead": "dead creating"}

func (j *judge) statuses() {
	status, sandbox, attempt := "", "", 1
	for _, e := range j.h.replay {
		if e.typ != "session.status" {
			continue
		}
		b := e.body()
		d := b.Data
		restart := d.Status == "creating" && status != "" && status != "creating"
		if !slices.Contains(strings.Fields(arrows[status]), d.Status) || restart && d.Attempt <= attempt {
			j.violated("status", "%s became %s in attempt %d: %s", status, d.Status, attempt, e.raw.Value())
		}
		if (d.Status == "dead" || d.Status == "failed") && d.Status != status {
			j.excused(b.Time.Add(-excuseWindow), b.Time, e.raw.Value(), "stop", "delete", "sandboxd", "harness", "disk")
		}
		status, sandbox, attempt = d.Status, d.SandboxState, max(attempt, d.Attempt)
	}
	s := j.h.session
	if status != string(s.Status) || sandbox != s.SandboxState {
		j.violated("status", "events say %s, sandbox %s, and the session %s, sandbox %s", status, sandbox, s.Status, s.SandboxState)
	}
	if s.Status == client.SessionStatusCreating {
		j.violated("status", "it is still creating, since %s", s.CreatedAt)
	}
	if j.h.mustEnd && (s.Status == client.SessionStatusCreating || s.Status == client.SessionStatusReady) {
		j.violated("status", "its end was asked for and it is %s", s.Status)
	}
}

// excuseWindow is how long after a deed its consequences may show.
const excuseWindow = 30 * time.Second

// excused finds whether one of some deeds happened in a time, of which events tell whole milliseconds.
func (j *judge) excused(from, to time.Time, of string, deeds ...string) {
	to = to.Add(time.Millisecond)
	for _, d := range j.h.deeds {
		if slices.Contains(deeds, d.what) && (d.session == "" || d.session == j.h.session.ID) && !d.from.After(to) && !d.to.Before(from) {
			return
		}
	}
	j.violated("untrue", "nothing was done that is a reason for %s", of)
}

// messages brings what clients sent together with the turns that the session has.
func (j *judge) messages() {
	stored := map[int][]string{}
	for _, m := range j.h.transcript {
		if m.Info.Role != client.TranscriptInfoRoleUser {
			continue
		}
		if n, ok := number(m.Parts); ok {
			stored[n] = append(stored[n], m.Info.TurnID)
		} else {
			j.violated("unsent", "turn %s is of no message that was sent", m.Info.TurnID)
		}
	}
	for _, m := range j.h.sent {
		turns := stored[m.n]
		delete(stored, m.n)
		switch {
		case len(turns) > 1:
			j.violated("doubled", "message %d has turns %s", m.n, turns)
		case m.accepted && len(turns) == 0:
			j.violated("lost", "message %d was accepted and is not in the transcript", m.n)
		case m.refused && len(turns) > 0:
			j.violated("untrue", "message %d was refused and is turn %s", m.n, turns)
		}
		for _, id := range m.turns {
			if !slices.Contains(turns, id) {
				j.violated("doubled", "message %d was said to be turn %s and is %s", m.n, id, turns)
			}
		}
		if len(turns) == 0 {
			if j.h.asked[m.n].most > 0 {
				j.violated("unsent", "message %d ran without a turn", m.n)
			}
			continue
		}
		j.message(m, j.h.turns[turns[0]])
	}
	for n, turns := range stored {
		j.violated("unsent", "message %d, turns %s, was not sent to this session", n, turns)
	}
}

// number returns which message parts are of.
func number(parts []client.MessagePart) (int, bool) {
	for _, p := range parts {
		if p.Text == nil {
			continue
		}
		if m := marker.FindStringSubmatch(*p.Text); m != nil {
			n, err := strconv.Atoi(m[2])
			return n, err == nil
		}
	}
	return 0, false
}

// message checks one message whose turn is known.
func (j *judge) message(m *message, t client.Turn) {
	for _, a := range m.answers {
		if a.status != t.Status && !(a.status == "ended" && t.Status != "queued" && t.Status != "handed") {
			j.violated("untrue", "message %d was answered as %s and is %s", m.n, a.status, t.Status)
		}
		if a.parts != nil && text(a.parts) != text(t.Parts) {
			j.violated("untrue", "message %d was answered with %s and has %s", m.n, text(a.parts), text(t.Parts))
		}
	}
	saw := j.h.asked[m.n]
	if saw.whole > 1 || saw.most > 1 {
		j.violated("doubled", "message %d, turn %s, was run: %d answers, %d times in one conversation", m.n, t.ID, saw.whole, saw.most)
	}
	said := text(t.Parts)
	if t.Status == "completed" && (!strings.Contains(said, m.begin()) || !strings.Contains(said, m.end())) {
		j.violated("answer", "message %d, turn %s, completed with %s", m.n, t.ID, said)
	}
	for _, other := range marker.FindAllStringSubmatch(said, -1) {
		if other[2] != strconv.Itoa(m.n) {
			j.violated("answer", "message %d, turn %s, has the answer to message %s", m.n, t.ID, other[2])
		}
	}
	j.reason(m, t)
}

// reason checks that a turn that did not complete has a true reason.
func (j *judge) reason(m *message, t client.Turn) {
	queued, end := j.begun[t.ID].body().Time, j.ends[t.ID].body().Time
	failure, err := t.Info.Error.Get()
	what := fmt.Sprintf("message %d, turn %s, %s: %s: %s", m.n, t.ID, t.Status, failure.Name, failure.Message)
	switch {
	case t.Status == "aborted":
		j.excused(queued, end, what, "abort")
	case t.Status != "failed":
	case err != nil:
		j.violated("untrue", "turn %s failed without a reason", t.ID)
	case failure.Name == "turn_interrupted":
		j.excused(queued.Add(-excuseWindow), end, what, "stop", "delete", "restart", "sandboxd", "harness", "disk")
	case failure.Name == "session_not_ready":
		j.excused(queued.Add(-excuseWindow), end, what, "stop", "delete", "sandboxd", "harness", "disk")
	case j.h.asked[m.n].failed == 0:
		j.excused(queued.Add(-excuseWindow), end, what, "disk")
	}
}

// turn checks that a turn ended as its events say.
func (j *judge) turn(t client.Turn) {
	end, ended := j.ends[t.ID]
	switch {
	case !ended:
		j.violated("lost", "turn %s, %s, never ended", t.ID, t.Status)
	case end.typ != "turn."+t.Status:
		j.violated("untrue", "turn %s is %s and its events say %s", t.ID, t.Status, end.typ)
	}
}

// text is parts as JSON, for comparison.
func text(parts []client.MessagePart) string {
	b, _ := json.Marshal(parts) // cannot fail
	return string(b)
}
