package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

// claudeLine is a line of claude's output; only the fields that are used.
type claudeLine struct {
	Type      string          `json:"type"`
	Subtype   string          `json:"subtype"`
	Parent    string          `json:"parent_tool_use_id"` // of what a sub-agent does
	UUID      string          `json:"uuid"`
	IsReplay  bool            `json:"isReplay"`
	RequestID string          `json:"request_id"`
	Response  *claudeResponse `json:"response"`
	Servers   []claudeServer  `json:"mcp_servers"`

	Event   *claudeEvent   `json:"event"`
	Message *claudeMessage `json:"message"`

	CommandUUID string `json:"command_uuid"` // of a message that was sent
	State       string `json:"state"`        // queued, started, completed or cancelled

	Attempt      int    `json:"attempt"` // of a request to the gateway
	RetryDelay   int64  `json:"retry_delay_ms"`
	RetryStatus  int    `json:"error_status"`
	RetryProblem string `json:"error"`

	claudeResult
}

// readClaude returns nil for what is no line of the protocol. A field of another type than expected counts as missing.
func readClaude(line []byte) *claudeLine {
	var l claudeLine
	err := json.Unmarshal(line, &l)
	var field *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &field) || l.Type == "" {
		return nil
	}
	return &l
}

// claudeUser is a message to claude.
type claudeUser struct {
	Type    string `json:"type"`
	UUID    string `json:"uuid"`
	Message struct {
		Role    string        `json:"role"`
		Content []claudeBlock `json:"content"`
	} `json:"message"`
	Parent  *string `json:"parent_tool_use_id"`
	Session string  `json:"session_id"`
}

// claudeTurn is one turn. It is over when claude says that it is done with the message, which it also says of a message that it
// took together with what it did at that time by itself. The goroutine that called Turn owns all of it but the channels.
type claudeTurn struct {
	run       *claudeRun
	id        string
	uuid      string // of the message
	model     string
	lines     chan *claudeLine // from read
	ended     chan struct{}    // closed when Turn returns
	abort     chan struct{}    // closed by Abort
	abortOnce sync.Once

	parts    claudeParts
	taken    bool // claude has the message
	aborting bool
	result   *claudeResult
	retries  retries
	gaveUp   *sandboxd.TurnError // why the gateway is waited for no longer
	settled  <-chan time.Time    // when a result counts as the turn's end, whatever else is missing
	over     bool
}

// Turn implements Running.
func (r *claudeRun) Turn(ctx context.Context, t sandboxd.Turn) (string, sandboxd.TurnResult, error) {
	tr := &claudeTurn{
		run: r, id: t.ID, uuid: claudeUUID(t.ID), model: t.Model,
		lines: make(chan *claudeLine), ended: make(chan struct{}), abort: make(chan struct{}),
	}
	tr.parts.init(t.ID, func(kind string, data any) { tr.emit(kind, data) })
	if tr.model == "" {
		tr.model = r.config.Model
	}
	message, err := tr.message(t.Parts)
	if err != nil {
		return Failed, tr.end(&sandboxd.TurnError{Name: refusedName, Message: err.Error()}), nil
	}
	r.mu.Lock()
	busy := r.turn != nil
	if !busy {
		r.turn = tr
	}
	r.mu.Unlock()
	if busy {
		return Failed, tr.end(&sandboxd.TurnError{Name: refusedName, Message: "another turn runs"}), nil
	}
	defer func() {
		r.mu.Lock()
		r.turn = nil
		r.mu.Unlock()
		close(tr.ended)
	}()
	return tr.play(ctx, message)
}

// claudeUUID is the id of a turn's message. It comes from the turn's, so that claude takes a repetition for the same one.
func claudeUUID(turnID string) string {
	if len(turnID) == 36 && uuid.Validate(turnID) == nil {
		return turnID
	}
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("lap:"+turnID)).String()
}

// message makes claude's message of a turn.
func (t *claudeTurn) message(parts []sandboxd.InputPart) (*claudeUser, error) {
	m := &claudeUser{Type: "user", UUID: t.uuid, Session: t.run.setup.session}
	m.Message.Role = "user"
	for i, in := range parts {
		switch {
		case in.Type == "text" && in.Text != nil:
			m.Message.Content = append(m.Message.Content, claudeBlock{Type: "text", Text: *in.Text})
		case in.Type == "image" && in.MediaType != nil:
			if http.DetectContentType(in.Data) != *in.MediaType {
				return nil, fmt.Errorf("part %d of the message is no image of the type %s", i+1, *in.MediaType)
			}
			source := &claudeSource{Type: "base64", MediaType: *in.MediaType, Data: in.Data}
			m.Message.Content = append(m.Message.Content, claudeBlock{Type: "image", Source: source})
		default:
			return nil, fmt.Errorf("part %d of the message is neither text nor image", i+1)
		}
	}
	if len(m.Message.Content) == 0 {
		return nil, errors.New("the message is empty")
	}
	return m, nil
}

// Abort implements Running.
func (r *claudeRun) Abort(ctx context.Context) error {
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

func (t *claudeTurn) play(ctx context.Context, message *claudeUser) (string, sandboxd.TurnResult, error) {
	working, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	sent := make(chan error, 1)
	helpers.Go(func() { sent <- t.send(working, message) })
	helpers.Go(func() { t.keepAborting(working) })
	abort := t.abort
	var giveUp <-chan time.Time
	for !t.over {
		select {
		case l := <-t.lines:
			t.handle(l)
		case err := <-sent:
			var no *claudeRefusal
			if errors.As(err, &no) {
				return Failed, t.end(&sandboxd.TurnError{Name: refusedName, Message: no.Error()}), nil
			}
			if err != nil && ctx.Err() == nil {
				return t.lost(ctx, err)
			}
		case <-t.settled:
			t.over = true
		case <-abort:
			abort, t.aborting = nil, true
			giveUp = time.After(abortGrace)
		case <-giveUp:
			return t.lost(ctx, errors.New("claude did not abort the turn"))
		case <-t.run.proc.done:
			return t.lost(ctx, errors.New(t.run.proc.reason))
		case <-ctx.Done():
			return t.lost(ctx, ctx.Err())
		}
	}
	status, failure := t.outcome()
	return status, t.end(failure), nil
}

// claudeRefusal says that claude refused a turn before it had its message.
type claudeRefusal struct{ error }

// send hands the message over, and before it what it needs.
func (t *claudeTurn) send(ctx context.Context, message *claudeUser) error {
	r := t.run
	r.mu.Lock()
	other, replay := r.model != t.model, r.replay
	r.replay = ""
	r.mu.Unlock()
	if other {
		if _, err := r.ask(ctx, map[string]any{"subtype": "set_model", "model": t.model}); err != nil {
			return &claudeRefusal{fmt.Errorf("claude cannot use the model %s: %w", t.model, err)}
		}
		r.mu.Lock()
		r.model = t.model
		r.mu.Unlock()
	}
	if replay != "" {
		told := claudeBlock{Type: "text", Text: replay}
		message.Message.Content = append([]claudeBlock{told}, message.Message.Content...)
	}
	if err := r.send(message); err != nil {
		return fmt.Errorf("hand the message to claude: %w", err)
	}
	return nil
}

// claudeReplayIntroduction stands before what was said in a conversation that is lost.
const claudeReplayIntroduction = "This conversation goes on from an earlier one, whose record follows. Files and processes of that time " +
	"may be gone. Take it as what was said before, and answer only what comes after it.\n\n"

// claudeMissedIntroduction stands before what a conversation that was restored does not have.
const claudeMissedIntroduction = "This conversation was restored. The record of what was said since it was kept follows. Files and processes " +
	"of that time may be gone. Take it as what was said before, and answer only what comes after it.\n\n"

// keepAborting repeats an interrupt until the turn is over: one that comes before claude has begun is lost.
func (t *claudeTurn) keepAborting(ctx context.Context) {
	select {
	case <-t.abort:
	case <-ctx.Done():
		return
	}
	for {
		_, _ = t.run.ask(ctx, map[string]any{"subtype": "interrupt"})
		if !pause(ctx, abortEvery) {
			return
		}
	}
}

// lost ends the harness, so that nothing of the turn goes on, and the turn with it.
func (t *claudeTurn) lost(ctx context.Context, err error) (string, sandboxd.TurnResult, error) {
	if ctx.Err() == nil {
		t.run.proc.close()
	}
	err = errors.New(t.run.redact(err.Error()))
	return Failed, t.end(&sandboxd.TurnError{Name: "turn_interrupted", Message: err.Error()}), err
}

func (t *claudeTurn) emit(kind string, data any) {
	t.run.config.Emit(Event{Type: kind, TurnID: t.id, Data: data})
}

// handle takes one line.
func (t *claudeTurn) handle(l *claudeLine) {
	switch {
	case l.Parent != "": // a sub-agent's; the tool that began it tells what came of it
	case l.Type == eventsMissed:
		t.parts.missed()
	case l.Type == "command_lifecycle" && l.CommandUUID == t.uuid:
		t.lifecycle(l.State)
	case l.Type == "user" && l.IsReplay && l.UUID == t.uuid && !t.taken:
		t.gaveUp = &sandboxd.TurnError{Name: refusedName, Message: "claude has had this message before"}
		t.over = true
	case l.Type == "stream_event" && l.Event != nil:
		t.parts.event(l.Event)
	case l.Type == "assistant" && l.Message != nil && l.Message.Model != claudeSynthetic:
		t.parts.assistant(l.Message)
	case l.Type == "user" && l.Message != nil:
		t.parts.results(l.Message)
	case l.Type == "system" && l.Subtype == "api_retry":
		t.retry(l)
	case l.Type == "result" && t.taken:
		t.result = &l.claudeResult
		t.settled = time.After(drainFor)
	}
}

func (t *claudeTurn) lifecycle(state string) {
	switch state {
	case "completed", "cancelled":
		t.over = t.result != nil || t.aborting
	default:
		t.taken = true
	}
}
