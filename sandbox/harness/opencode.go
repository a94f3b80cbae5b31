package harness

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"time"
)

const (
	healthTimeout = time.Second // of one health request: one that is sent too early may never be answered
	healthPause   = 50 * time.Millisecond
	callTimeout   = 30 * time.Second
	mcpTimeout    = 10 * time.Second       // to hear how the MCP servers are
	streamPause   = 200 * time.Millisecond // before the event stream is opened again
)

var (
	listening       = regexp.MustCompile(`^opencode server listening on (http://127\.0\.0\.1:[0-9]+)`)
	openCodeSession = regexp.MustCompile(`^ses_[A-Za-z0-9]{1,64}$`)
)

// NewOpenCode returns the harness that runs `opencode serve` and speaks to it over HTTP on loopback, with a random password. It
// was made for opencode 1.18.
func NewOpenCode() Harness { return openCode{} }

type openCode struct{}

// openCodeRun is a running opencode. One goroutine, follow, reads its events for as long as the program lives and hands them to
// the running turn.
type openCodeRun struct {
	config  Config
	proc    *process
	api     *openCodeAPI
	session string
	began   string // how the conversation began
	redact  func(string) string

	stop     context.CancelFunc // ends follow
	followed chan struct{}      // closed when follow is over
	opened   chan struct{}      // closed by follow when the event stream is first open

	mu   sync.Mutex // guards turn
	turn *openCodeTurn
}

// Start implements Harness.
func (openCode) Start(ctx context.Context, c Config) (Running, error) {
	if c.Resume != "" && !openCodeSession.MatchString(c.Resume) {
		return nil, errors.New("opencode knows no conversation with the id to resume")
	}
	password := rand.Text()
	configPath, pinned, err := writeOpenCodeConfig(c)
	if err != nil {
		return nil, err
	}
	if err := sparePluginInstall(c.Env); err != nil {
		return nil, fmt.Errorf("prepare opencode's configuration directory: %w", err)
	}
	c.phase("waiting_harness", "starting opencode")
	up, cancel := context.WithCancel(ctx)
	defer cancel()
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	address := make(chan string, 1)
	r := &openCodeRun{config: c, redact: redactor(c.Gateway.APIKey, password), stop: stop}
	r.proc, err = startProcess(processSpec{
		name: "opencode", dir: c.Dir, log: c.LogWriter, redact: r.redact,
		argv:   []string{c.Bin, "serve", "--hostname", "127.0.0.1", "--port", "0"},
		env:    openCodeEnv(c, configPath, pinned, password),
		line:   func(line string) { announce(line, address) },
		exited: func() { cancel(); stop() },
	})
	if err != nil {
		stop()
		return nil, err
	}
	if err = r.bringUp(up, alive, address, password); err != nil {
		crashed := up.Err() != nil && ctx.Err() == nil
		r.Close()
		return nil, r.startError(err, crashed)
	}
	c.phase("harness_ready", "")
	return r, nil
}

// announce passes on the address that opencode prints once it listens.
func announce(line string, address chan<- string) {
	if m := listening.FindStringSubmatch(line); m != nil {
		select {
		case address <- m[1]:
		default: // it was announced before
		}
	}
}

// bringUp ends with ctx or when the program does.
func (r *openCodeRun) bringUp(ctx, alive context.Context, address <-chan string, password string) error {
	select {
	case base := <-address:
		r.api = newOpenCodeAPI(base, password)
	case <-ctx.Done():
		return errors.New("it does not listen")
	}
	r.config.phase("harness_listening", "")
	if err := r.awaitHealth(ctx); err != nil {
		return err
	}
	if err := r.openSession(ctx); err != nil {
		return err
	}
	r.opened, r.followed = make(chan struct{}), make(chan struct{})
	go r.follow(alive)
	select {
	case <-r.opened:
	case <-ctx.Done():
		return errors.New("its event stream does not open")
	}
	return r.reportMCP(ctx)
}

func (r *openCodeRun) startError(err error, crashed bool) error {
	if crashed {
		return errors.New(r.proc.reason)
	}
	if last := r.proc.tail.String(); last != "" {
		err = fmt.Errorf("%w; its last output: %s", err, last)
	}
	return errors.New(r.redact("opencode did not start: " + err.Error()))
}

func (r *openCodeRun) awaitHealth(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, healthTimeout)
		var health struct{ Healthy bool }
		err := r.api.get(try, "/global/health", &health)
		cancel()
		if err == nil && health.Healthy {
			return nil
		}
		if !pause(ctx, healthPause) {
			return fmt.Errorf("it does not become healthy: %w", err)
		}
	}
}

// openSession resumes the conversation, or starts one if there is none, which is told what was said before. A title saves the model
// call that would make one; the rules hold against a repository's own configuration.
func (r *openCodeRun) openSession(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	var s struct{ ID string }
	if r.config.Resume != "" {
		err := r.api.get(ctx, "/session/"+r.config.Resume, &s)
		var no *refusal
		switch {
		case err == nil:
			r.session, r.began = r.config.Resume, ConversationResumed
			return r.tell(ctx, missedIntroduction, r.config.Missed)
		case !errors.As(err, &no) || no.status != http.StatusNotFound || r.config.Replay == "":
			return fmt.Errorf("resume conversation %s: %w", r.config.Resume, err)
		}
	}
	type rule struct {
		Permission string `json:"permission"`
		Pattern    string `json:"pattern"`
		Action     string `json:"action"`
	}
	body := map[string]any{"title": "session", "permission": []rule{{"*", "*", "allow"}, {"question", "*", "deny"}}}
	if err := r.api.post(ctx, "/session", body, &s); err != nil {
		return fmt.Errorf("open a conversation: %w", err)
	}
	if !openCodeSession.MatchString(s.ID) {
		return errors.New("open a conversation: its id is malformed")
	}
	r.session, r.began = s.ID, ConversationNew
	if r.config.Replay != "" {
		r.began = ConversationReplayed
	}
	return r.tell(ctx, replayIntroduction, r.config.Replay)
}

// replayIntroduction stands before what was said in a conversation that is lost.
const replayIntroduction = "This conversation goes on from an earlier one, whose record follows. Files and processes of that time " +
	"may be gone. Do not answer this message; take it as what was said before.\n\n"

// missedIntroduction stands before what a conversation that was restored does not have.
const missedIntroduction = "This conversation was restored. The record of what was said since it was kept follows. Files and processes of " +
	"that time may be gone. Do not answer this message; take it as what was said before.\n\n"

// tell adds a message to the conversation that no model answers, if there is something to tell.
func (r *openCodeRun) tell(ctx context.Context, introduction, text string) error {
	if text == "" {
		return nil
	}
	message := openCodePrompt{
		Model: openCodeChoice{gatewayProvider, r.config.Model}, NoReply: true,
		Parts: []openCodeInput{{Type: "text", Text: introduction + text}},
	}
	if err := r.api.post(ctx, "/session/"+r.session+"/message", message, nil); err != nil {
		return fmt.Errorf("tell what was said before: %w", err)
	}
	return nil
}

// Conversation tells how the conversation began.
func (r *openCodeRun) Conversation() string { return r.began }

// reportMCP tells how each MCP server is. One that does not work is no reason not to start.
func (r *openCodeRun) reportMCP(ctx context.Context) error {
	if len(r.config.MCP) == 0 {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, mcpTimeout)
	defer cancel()
	var servers map[string]struct{ Status, Error string }
	err := r.api.get(within, "/mcp", &servers)
	for name, s := range servers {
		r.config.Emit(Event{Type: "harness.event", Data: mcpEvent{Kind: "mcp", Server: name, Status: s.Status, Message: r.redact(s.Error)}})
	}
	if err != nil {
		r.config.Emit(Event{Type: "harness.event", Data: mcpEvent{Kind: "mcp", Status: "unknown", Message: "the MCP servers are slow to connect"}})
	}
	return ctx.Err()
}

type mcpEvent struct {
	Kind    string `json:"kind"`
	Server  string `json:"server,omitempty"`
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
}

// follow reads the event stream and opens it again when it breaks; what was missed is for the turn to fetch.
func (r *openCodeRun) follow(ctx context.Context) {
	defer close(r.followed)
	first := true
	for ctx.Err() == nil {
		_ = r.api.events(ctx, func(e openCodeEvent) { // why it broke changes nothing
			if e.Type == "server.connected" && first {
				first = false
				close(r.opened) // turns come after it, so none has missed anything
				return
			}
			r.dispatch(ctx, e)
		})
		pause(ctx, streamPause)
	}
}

func (r *openCodeRun) dispatch(ctx context.Context, e openCodeEvent) {
	r.mu.Lock()
	t := r.turn
	r.mu.Unlock()
	if t == nil {
		return
	}
	select {
	case t.events <- e:
	case <-t.ended:
	case <-ctx.Done():
	}
}

// SessionID implements Running.
func (r *openCodeRun) SessionID() string { return r.session }

// Done implements Running.
func (r *openCodeRun) Done() <-chan struct{} { return r.proc.done }

// ExitReason implements Running.
func (r *openCodeRun) ExitReason() string {
	select {
	case <-r.proc.done:
		return r.proc.reason
	default:
		return ""
	}
}

// Close implements Running.
func (r *openCodeRun) Close() {
	r.stop()
	r.proc.close()
	if r.followed != nil {
		<-r.followed
	}
	if r.api != nil {
		r.api.close()
	}
}
