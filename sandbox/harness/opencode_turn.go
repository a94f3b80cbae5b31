package harness

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	drainFor    = time.Second            // for the events of a turn to come after its answer
	abortEvery  = 500 * time.Millisecond // an abort that comes before opencode has begun is lost, so it is repeated
	abortGrace  = 10 * time.Second       // after it a harness that does not abort is ended
	smallCall   = 5 * time.Second
	sendTries   = 3
	sendPause   = time.Second // long enough to learn that the program is gone
	refusedName = "HarnessRefused"
)

// openCodeTurn is one turn. Its end is known twice: opencode answers the request that brought the message, and says on the event
// stream that it is idle; either will do. The goroutine that called Turn owns all of it but the channels.
type openCodeTurn struct {
	run       *openCodeRun
	id        string
	messageID string
	events    chan openCodeEvent // from follow
	ended     chan struct{}      // closed when Turn returns
	abort     chan struct{}      // closed by Abort
	abortOnce sync.Once

	transcript transcript
	accepted   bool // opencode has our message
	aborting   bool
	failure    *openCodeError // that opencode reported for the session
	retries    retries
	gaveUp     *sandboxd.TurnError // why the gateway is waited for no longer
	over       bool
}

// Turn implements Running.
func (r *openCodeRun) Turn(ctx context.Context, t sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	tr := &openCodeTurn{
		run: r, id: t.ID, messageID: "msg_" + t.ID,
		events: make(chan openCodeEvent), ended: make(chan struct{}), abort: make(chan struct{}),
	}
	tr.transcript = newTranscript(func(kind string, data any) { tr.emit(kind, data) })
	prompt, err := r.prompt(t)
	if err != nil {
		return Failed, tr.result(&sandboxd.TurnError{Name: refusedName, Message: err.Error()}), nil
	}
	r.mu.Lock()
	busy := r.turn != nil
	if !busy {
		r.turn = tr
	}
	r.mu.Unlock()
	if busy {
		return Failed, tr.result(&sandboxd.TurnError{Name: refusedName, Message: "another turn runs"}), nil
	}
	defer func() {
		r.mu.Lock()
		r.turn = nil
		r.mu.Unlock()
		close(tr.ended)
	}()
	return tr.play(ctx, prompt)
}

// prompt makes opencode's message of a turn. Its ids come from the turn's, so that opencode takes a repetition for the same one, and
// sort as the parts stand, for opencode puts them in that order.
func (r *openCodeRun) prompt(t sandboxd.Turn) (openCodePrompt, error) {
	if t.Model != "" && t.Model != r.config.Model {
		return openCodePrompt{}, fmt.Errorf("this session runs with the model %s and no other", r.config.Model)
	}
	p := openCodePrompt{MessageID: "msg_" + t.ID, Model: openCodeChoice{gatewayProvider, r.config.Model}}
	for i, in := range t.Parts {
		part := openCodeInput{ID: fmt.Sprintf("prt_%s_%04d", t.ID, i), Type: "text"}
		switch {
		case in.Type == "text" && in.Text != nil:
			part.Text = *in.Text
		case in.Type == "image" && in.MediaType != nil:
			part.Type, part.Mime, part.Filename = "file", *in.MediaType, fmt.Sprintf("image-%d", i+1)
			part.URL = "data:" + *in.MediaType + ";base64," + base64.StdEncoding.EncodeToString(in.Data)
		default:
			return openCodePrompt{}, fmt.Errorf("part %d of the message is neither text nor image", i+1)
		}
		p.Parts = append(p.Parts, part)
	}
	if len(p.Parts) == 0 {
		return openCodePrompt{}, errors.New("the message is empty")
	}
	return p, nil
}

// Abort implements Running.
func (r *openCodeRun) Abort(ctx context.Context) error {
	r.mu.Lock()
	t := r.turn
	r.mu.Unlock()
	if t == nil {
		return nil
	}
	t.abortOnce.Do(func() { close(t.abort) })
	select {
	case <-t.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("abort the turn: %w", ctx.Err())
	}
}

func (t *openCodeTurn) play(ctx context.Context, prompt openCodePrompt) (string, sandboxd.TurnResult, error) {
	working, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	answers := make(chan answer, 1)
	helpers.Go(func() { answers <- t.send(working, prompt) })
	helpers.Go(func() { t.keepAborting(working) })
	abort := t.abort
	var drained, giveUp <-chan time.Time
	var last openCodeMessage
	for !t.over {
		select {
		case e := <-t.events:
			t.handle(working, e)
		case a := <-answers:
			if a.err != nil && !t.aborting && ctx.Err() == nil {
				return t.lost(ctx, fmt.Errorf("hand the message to opencode: %w", a.err))
			}
			t.answered(a, prompt)
			last, drained = a.last, time.After(drainFor)
		case <-drained:
			t.over = true
			if t.resync(working) != nil {
				t.merge([]openCodeMessage{last})
			}
		case <-abort:
			abort, t.aborting = nil, true
			giveUp = time.After(abortGrace)
		case <-giveUp:
			return t.lost(ctx, errors.New("opencode did not abort the turn"))
		case <-t.run.proc.done:
			return t.lost(ctx, errors.New(t.run.proc.reason))
		case <-ctx.Done():
			return t.lost(ctx, ctx.Err())
		}
	}
	status, failure := t.outcome()
	return status, t.result(failure), nil
}

// answer is what became of the request that brought the message: opencode's last message, a refusal, or no answer at all.
type answer struct {
	last    openCodeMessage
	refusal *refusal
	err     error
}

// send hands the message over and waits for the turn's end. If the connection breaks it does the same again: opencode knows the
// message by its ids and joins the two. An abort may have come between them, after which it would run a second time.
func (t *openCodeTurn) send(ctx context.Context, prompt openCodePrompt) (a answer) {
	for range sendTries {
		a = answer{}
		a.err = t.run.api.post(ctx, "/session/"+t.run.session+"/message", prompt, &a.last)
		if errors.As(a.err, &a.refusal) {
			a.err = nil
		}
		if a.err == nil || !pause(ctx, sendPause) {
			return a
		}
		select {
		case <-t.abort:
			return a
		default:
		}
	}
	return a
}

func (t *openCodeTurn) answered(a answer, prompt openCodePrompt) {
	if a.refusal != nil && t.failure == nil {
		t.failure = &openCodeError{Name: refusedName}
		t.failure.Data.Message = a.refusal.Error()
		if a.refusal.status == http.StatusBadRequest && slices.ContainsFunc(prompt.Parts, openCodeInput.isFile) {
			t.failure.Data.Message = "opencode cannot read an image of the message"
		}
	}
	t.accepted = t.accepted || a.refusal == nil && a.err == nil
}

func (t *openCodeTurn) keepAborting(ctx context.Context) {
	select {
	case <-t.abort:
	case <-ctx.Done():
		return
	}
	for { // an abort under way is waited for: it must not meet the next turn
		t.post(context.WithoutCancel(ctx), "/session/"+t.run.session+"/abort", struct{}{})
		if !pause(ctx, abortEvery) {
			return
		}
	}
}

// post sends what may get lost.
func (t *openCodeTurn) post(ctx context.Context, path string, body any) {
	ctx, cancel := context.WithTimeout(ctx, smallCall)
	defer cancel()
	_ = t.run.api.post(ctx, path, body, nil)
}

// lost ends the harness, so that nothing of the turn goes on, and the turn with it.
func (t *openCodeTurn) lost(ctx context.Context, err error) (string, sandboxd.TurnResult, error) {
	if ctx.Err() == nil {
		t.run.proc.close()
	}
	err = errors.New(t.run.redact(err.Error()))
	return Failed, t.result(&sandboxd.TurnError{Name: "turn_interrupted", Message: err.Error()}), err
}

func (t *openCodeTurn) emit(kind string, data any) {
	t.run.config.Emit(Event{Type: kind, TurnID: t.id, Data: data})
}

// handle takes one event. The last one of an earlier turn may come late; what is not known to belong to this turn is ignored.
func (t *openCodeTurn) handle(ctx context.Context, e openCodeEvent) {
	var p struct {
		SessionID string         `json:"sessionID"`
		Info      openCodeInfo   `json:"info"`
		Part      openCodePart   `json:"part"`
		MessageID string         `json:"messageID"`
		PartID    string         `json:"partID"`
		Field     string         `json:"field"`
		Delta     string         `json:"delta"`
		Status    openCodeStatus `json:"status"`
		Error     *openCodeError `json:"error"`
		ID        string         `json:"id"`
	}
	switch e.Type {
	case "server.connected", eventsMissed:
		t.transcript.missed()
		_ = t.resync(ctx) // it is done again at the end if need be
		return
	case "message.updated", "message.part.updated", "message.part.delta", "session.status", "session.idle", "session.error",
		"permission.asked", "question.asked":
	default:
		return
	}
	if json.Unmarshal(e.Properties, &p) != nil {
		return
	}
	switch e.Type { // a repository's configuration may want a human, also in conversations that a tool started
	case "permission.asked":
		t.post(ctx, "/permission/"+url.PathEscape(p.ID)+"/reply", map[string]string{"reply": "once"})
		return
	case "question.asked":
		t.post(ctx, "/question/"+url.PathEscape(p.ID)+"/reject", struct{}{})
		return
	}
	if p.SessionID != t.run.session {
		return
	}
	switch e.Type {
	case "message.updated":
		t.message(p.Info)
	case "message.part.updated":
		t.transcript.part(p.Part, false)
	case "message.part.delta":
		if p.Field == "text" {
			t.transcript.delta(p.PartID, p.Delta)
		}
	case "session.status":
		if p.Status.Type == "retry" && t.accepted {
			t.retry(p.Status)
		}
	case "session.error":
		if t.accepted {
			t.failure = p.Error
		}
	case "session.idle":
		t.over = t.settled()
	}
}

func (t *openCodeTurn) message(info openCodeInfo) {
	switch {
	case info.ID == t.messageID:
		t.accepted = true
	case info.Role == "assistant" && t.accepted:
		t.transcript.message(info)
	}
}
