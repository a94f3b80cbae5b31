package harness

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

const (
	claudeCall      = 30 * time.Second       // for an answer to a request
	claudeMCPLook   = 100 * time.Millisecond // between two looks at the MCP servers
	claudeWrite     = time.Minute            // for claude to read a message
	claudeQuestions = 16                     // that wait to be refused
	claudeEnding    = 5 * time.Second        // for a program that reads no more to end
)

// NewClaudeAgentSDK returns the harness that runs claude as the Claude Agent SDK does and speaks the SDK's protocol with it: a JSON
// object on each line of its standard input and output. It was made for claude 2.1.330.
func NewClaudeAgentSDK() Harness { return claudeSDK{} }

type claudeSDK struct{}

// claudeRun is a running claude. For as long as the program lives one goroutine, read, takes its lines and hands them to the running
// turn, and one, refuse, answers its questions.
type claudeRun struct {
	config    Config
	proc      *process
	setup     *claudeSetup
	redact    func(string) string
	started   chan struct{} // closed when proc is set
	questions chan string   // ids of requests from claude
	refused   chan struct{} // closed when refuse is over

	writing sync.Mutex // guards writes to the standard input

	mu     sync.Mutex // guards the rest
	turn   *claudeTurn
	asked  map[string]chan claudeResponse // what waits for an answer, by request
	mcp    map[string]string              // the MCP servers' statuses as they were told last
	spent  claudeSpending                 // of no turn yet
	model  string                         // in use
	replay string                         // not told yet
}

// Start implements Harness.
func (claudeSDK) Start(ctx context.Context, c Config) (Running, error) {
	setup, err := prepareClaude(c)
	if err != nil {
		return nil, err
	}
	c.phase("waiting_harness", "starting claude")
	up, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &claudeRun{
		config: c, setup: setup, redact: setup.redact, started: make(chan struct{}), model: c.Model,
		asked: map[string]chan claudeResponse{}, mcp: map[string]string{},
		questions: make(chan string, claudeQuestions), refused: make(chan struct{}),
	}
	switch {
	case setup.resumed && c.Missed != "":
		r.replay = claudeMissedIntroduction + c.Missed
	case !setup.resumed && c.Replay != "":
		r.replay = claudeReplayIntroduction + c.Replay
	}
	r.proc, err = startProcess(processSpec{
		name: "claude", dir: c.Dir, log: c.LogWriter, redact: r.redact, argv: slices.Concat([]string{c.Bin}, claudeSDKArgs, setup.args),
		// What goes on in the background would begin turns that nobody asked for.
		env:    append(setup.env, "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1", "CLAUDE_CODE_DISABLE_CRON=1"),
		stdin:  true,
		stdout: r.read,
		exited: cancel,
	})
	if err != nil {
		return nil, err
	}
	close(r.started)
	go r.refuse()
	if err := r.bringUp(up); err != nil {
		if errors.Is(err, syscall.EPIPE) { // it reads no more, so it is about to end
			pause(up, claudeEnding)
		}
		crashed := up.Err() != nil && ctx.Err() == nil
		r.Close()
		return nil, r.startError(err, crashed)
	}
	c.phase("harness_ready", "")
	return r, nil
}

// claudeSDKArgs are what the SDK itself starts claude with. Nobody is there to be asked for permissions.
var claudeSDKArgs = []string{
	"-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--include-partial-messages", "--replay-user-messages",
	"--permission-mode", "bypassPermissions", "--permission-prompts", "none",
}

// bringUp ends with ctx or when the program does.
func (r *claudeRun) bringUp(ctx context.Context) error {
	if _, err := r.ask(ctx, map[string]any{"subtype": "initialize"}); err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	r.config.phase("harness_listening", "")
	return r.awaitMCP(ctx)
}

func (r *claudeRun) startError(err error, crashed bool) error {
	if crashed {
		return errors.New(r.proc.reason)
	}
	if last := r.proc.tail.String(); last != "" {
		err = fmt.Errorf("%w; its last output: %s", err, last)
	}
	return errors.New(r.redact("claude did not start: " + err.Error()))
}

// awaitMCP waits until every MCP server is connected or failed, so that the first turn has all tools. One that does not work is no
// reason not to start.
func (r *claudeRun) awaitMCP(ctx context.Context) error {
	if len(r.config.MCP) == 0 {
		return nil
	}
	within, cancel := context.WithTimeout(ctx, mcpTimeout)
	defer cancel()
	var status struct {
		Servers []claudeServer `json:"mcpServers"`
	}
	for {
		answer, err := r.ask(within, map[string]any{"subtype": "mcp_status"})
		if err == nil {
			err = json.Unmarshal(answer, &status)
		}
		pending := slices.ContainsFunc(status.Servers, func(s claudeServer) bool { return s.Status == "pending" })
		if err != nil || !pending || !pause(within, claudeMCPLook) {
			r.reportMCP(status.Servers)
			return ctx.Err()
		}
	}
}

// claudeServer is the state of an MCP server.
type claudeServer struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Error  string `json:"error"`
}

// reportMCP tells how the MCP servers are, unless that was told before.
func (r *claudeRun) reportMCP(servers []claudeServer) {
	slices.SortFunc(servers, func(a, b claudeServer) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range servers {
		r.mu.Lock()
		known := r.mcp[s.Name] == s.Status
		r.mcp[s.Name] = s.Status
		r.mu.Unlock()
		if !known {
			r.config.Emit(Event{Type: "harness.event", Data: mcpEvent{Kind: "mcp", Server: s.Name, Status: s.Status, Message: r.words(s.Error)}})
		}
	}
}

// claudeRequest is a request of either side.
type claudeRequest struct {
	Type      string         `json:"type"`
	RequestID string         `json:"request_id"`
	Request   map[string]any `json:"request"`
}

// claudeAnswer is what a response comes in.
type claudeAnswer struct {
	Type     string         `json:"type"`
	Response claudeResponse `json:"response"`
}

// claudeResponse answers a request.
type claudeResponse struct {
	Subtype   string          `json:"subtype"` // success or error
	RequestID string          `json:"request_id"`
	Response  json.RawMessage `json:"response,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// ask sends a request and waits for its answer.
func (r *claudeRun) ask(ctx context.Context, request map[string]any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, claudeCall)
	defer cancel()
	id, answers := uuid.NewString(), make(chan claudeResponse, 1)
	r.mu.Lock()
	r.asked[id] = answers
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.asked, id)
		r.mu.Unlock()
	}()
	if err := r.send(claudeRequest{Type: "control_request", RequestID: id, Request: request}); err != nil {
		return nil, err
	}
	select {
	case a := <-answers:
		if a.Subtype != "success" {
			return nil, errors.New(r.words(a.Error))
		}
		return a.Response, nil
	case <-r.proc.done:
		return nil, errors.New(r.proc.reason)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send writes a line to claude.
func (r *claudeRun) send(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	_ = r.proc.stdin.SetWriteDeadline(time.Now().Add(claudeWrite)) // if it is closed, so is the rest
	if _, err := r.proc.stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write to claude: %w", err)
	}
	return nil
}

// read takes claude's lines until there are none any more.
func (r *claudeRun) read(out io.Reader) {
	<-r.started
	lines := bufio.NewReaderSize(out, 64<<10)
	for {
		line, tooLong, err := readLine(lines)
		if err != nil {
			return
		}
		l := readClaude(line)
		switch {
		case tooLong:
			l = &claudeLine{Type: eventsMissed}
		case l == nil:
			r.stray(line)
			continue
		}
		r.take(l)
	}
}

// stray keeps a line that is not of the protocol: it may say why claude ends.
func (r *claudeRun) stray(line []byte) {
	text := r.words(string(line[:min(len(line), tailWidth)]))
	if text == "" {
		return
	}
	r.proc.tail.add(text)
	if r.config.LogWriter != nil {
		_, _ = r.config.LogWriter.Write([]byte(text + "\n")) // a full disk must not stop the harness
	}
}

// take handles a line, and hands it to the running turn.
func (r *claudeRun) take(l *claudeLine) {
	switch {
	case l.Type == "control_response" && l.Response != nil:
		r.mu.Lock()
		waiting := r.asked[l.Response.RequestID]
		r.mu.Unlock()
		if waiting != nil {
			select {
			case waiting <- *l.Response:
			default: // answered twice
			}
		}
		return
	case l.Type == "control_request":
		select {
		case r.questions <- l.RequestID:
		default: // it asks more than it reads
		}
		return
	case l.Type == "system" && l.Subtype == "init":
		r.reportMCP(l.Servers)
	case l.Type == "result":
		r.mu.Lock()
		r.spent.add(l)
		r.mu.Unlock()
	}
	r.mu.Lock()
	t := r.turn
	r.mu.Unlock()
	if t == nil {
		return
	}
	select {
	case t.lines <- l:
	case <-t.ended:
	}
}

// refuse answers claude's questions. The goroutine that reads must not: claude may be waiting to be read from.
func (r *claudeRun) refuse() {
	defer close(r.refused)
	for {
		select {
		case id := <-r.questions:
			no := claudeResponse{Subtype: "error", RequestID: id, Error: "nobody is there to be asked"}
			_ = r.send(claudeAnswer{Type: "control_response", Response: no}) // claude is gone
		case <-r.proc.done:
			return
		}
	}
}

// SessionID implements Running.
func (r *claudeRun) SessionID() string { return r.setup.session }

// Conversation tells how the conversation began: see ConversationOf.
func (r *claudeRun) Conversation() string {
	switch {
	case r.setup.resumed:
		return ConversationResumed
	case r.config.Replay != "":
		return ConversationReplayed
	}
	return ConversationNew
}

// Done implements Running.
func (r *claudeRun) Done() <-chan struct{} { return r.proc.done }

// ExitReason implements Running.
func (r *claudeRun) ExitReason() string {
	select {
	case <-r.proc.done:
		return r.proc.reason
	default:
		return ""
	}
}

// Close implements Running.
func (r *claudeRun) Close() {
	r.proc.close()
	<-r.refused
}
