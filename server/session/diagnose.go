package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
	"github.com/litellm-agent-platform/lap/store"
)

const (
	partTimeout    = 3 * time.Second // for each part of a diagnosis; they are gathered at the same time
	diagnosedTurns = 10
	diagnosedLines = 200
	diagnosedLine  = 2000 // bytes
	diagnosedMost  = 50   // events, and MCP servers
)

// diagnosedTypes are the events that tell how a session fared.
var diagnosedTypes = []string{
	"session.status", "session.phase", "turn.started", "turn.completed", "turn.failed", "turn.aborted", "egress.denied", "error",
}

// Diagnosis is all that is known about a session. A part that could not be had is in Missing and zero.
type Diagnosis struct {
	At         time.Time
	Session    store.Session
	Agent      *store.Agent
	Sandbox    *sandbox.Status // nil: none
	Details    sandbox.Description
	Conditions []Condition
	Probe      *Probe // nil: there is no sandbox to ask
	MCPServers []MCPServer
	Events     []store.Event
	Logs       []string
	Issues     []Issue
	Missing    []Missing

	turns []store.Turn
	mu    sync.Mutex // guards Missing while parts are gathered
}

// SandboxMissing is the state of a sandbox that a session names and the runtime does not know.
const SandboxMissing sandbox.State = "missing"

// Probe is what sandboxd said of itself, or why it did not.
type Probe struct {
	Latency  time.Duration
	State    string
	Protocol int32
	Version  string
	Err      string // empty: it answered
}

// MCPServer is what the harness said of an MCP server.
type MCPServer struct{ Name, Status, Message string }

// Missing says why a part could not be had.
type Missing struct{ Part, Message string }

// Diagnose gathers what is known about a session, in bounded time, secrets masked. store.ErrNotFound if it never existed.
func (s *Service) Diagnose(ctx context.Context, sessionID string) (*Diagnosis, error) {
	d := &Diagnosis{At: time.Now()}
	var err error
	if d.Session, err = s.o.Store.GetSession(ctx, sessionID); err != nil {
		return nil, err
	}
	clean := func(string) string { return secretMask }
	parts := map[string]func(context.Context) error{
		"agent":           func(ctx context.Context) error { return d.readAgent(ctx, s.o.Store) },
		"events":          func(ctx context.Context) error { return d.readEvents(ctx, s.o.Store) },
		"mcp_servers":     func(ctx context.Context) error { return d.readMCP(ctx, s.o.Store) },
		"detected_issues": func(ctx context.Context) error { return d.readTurns(ctx, s.o.Store) },
	}
	if d.Session.SandboxID != "" {
		parts["sandbox"] = func(ctx context.Context) error { return d.readSandbox(ctx, s.o.Runtime) }
		if r, ok := s.o.Runtime.(sandbox.Describer); ok {
			parts["sandbox.events"] = func(ctx context.Context) error { return d.describe(ctx, r) }
		}
		parts["logs"] = func(ctx context.Context) error { return d.readLogs(ctx, s) }
		parts["harness"] = func(ctx context.Context) error { d.Probe = s.probe(ctx, d.Session); return nil }
	}
	var wg sync.WaitGroup
	gather := func(part string, read func(context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, partTimeout)
		defer cancel()
		if err := read(ctx); err != nil {
			d.miss(part, err)
		}
	}
	wg.Go(func() {
		gather("detected_issues", func(ctx context.Context) error {
			masking, err := s.masking(ctx, d.Session)
			if err == nil {
				clean = masking
			}
			return err
		})
	})
	for part, read := range parts {
		wg.Go(func() { gather(part, read) })
	}
	wg.Wait()
	d.clean(clean)
	d.Conditions = d.conditions(s.o.Gateway.BaseURL != "")
	d.Issues = d.issues(&s.o)
	return d, ctx.Err()
}

// miss notes that a part is missing. Causes may name addresses and files of the server, so only their kind is told.
func (d *Diagnosis) miss(part string, err error) {
	message := "it could not be read"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		message = "it did not come in time"
	case errors.Is(err, store.ErrUnavailable):
		message = "the database does not answer"
	case errors.Is(err, store.ErrNotFound), errors.Is(err, ErrNoSandbox):
		message = "it does not exist"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Missing = append(d.Missing, Missing{part, message})
}

func (d *Diagnosis) readAgent(ctx context.Context, s *store.Store) error {
	a, err := s.GetAgentVersion(ctx, d.Session.AgentID, d.Session.AgentVersion)
	if err == nil {
		d.Agent = &a
	}
	return err
}

func (d *Diagnosis) readEvents(ctx context.Context, s *store.Store) (err error) {
	d.Events, err = s.RecentEvents(ctx, d.Session, diagnosedTypes, diagnosedMost)
	return err
}

func (d *Diagnosis) readTurns(ctx context.Context, s *store.Store) (err error) {
	d.turns, err = s.RecentTurns(ctx, d.Session.ID, diagnosedTurns)
	return err
}

// readMCP takes what the harness reported when it started; the last word on each server counts.
func (d *Diagnosis) readMCP(ctx context.Context, s *store.Store) error {
	events, err := s.FirstEvents(ctx, d.Session, "harness.event", diagnosedMost)
	place := map[string]int{}
	for _, e := range events {
		var m struct{ Kind, Server, Status, Message string }
		if json.Unmarshal(e.Data, &m) != nil || m.Kind != "mcp" || m.Server == "" {
			continue
		}
		server := MCPServer{Name: clip(m.Server, 100), Status: clip(m.Status, 100), Message: clip(m.Message, 1000)}
		if i, ok := place[m.Server]; ok {
			d.MCPServers[i] = server
			continue
		}
		place[m.Server] = len(d.MCPServers)
		d.MCPServers = append(d.MCPServers, server)
	}
	return err
}

func (d *Diagnosis) readSandbox(ctx context.Context, r sandbox.Runtime) error {
	st, err := r.Get(ctx, sandbox.ID(d.Session.SandboxID))
	if errors.Is(err, sandbox.ErrNotFound) {
		st, err = sandbox.Status{ID: sandbox.ID(d.Session.SandboxID), State: SandboxMissing}, nil
	}
	if err == nil {
		d.Sandbox = &st
	}
	return err
}

// describe asks a runtime that knows more than a sandbox's state. What it has read before it failed counts.
func (d *Diagnosis) describe(ctx context.Context, r sandbox.Describer) (err error) {
	d.Details, err = r.Describe(ctx, sandbox.ID(d.Session.SandboxID))
	if errors.Is(err, sandbox.ErrNotFound) {
		return nil
	}
	return err
}

func (d *Diagnosis) readLogs(ctx context.Context, s *Service) error {
	log, err := s.Logs(ctx, d.Session.ID, LogOptions{Tail: diagnosedLines})
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	text, err := io.ReadAll(io.LimitReader(log, diagnosedLines*maxLogLine))
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if len(line) > diagnosedLine {
			line = clip(line, diagnosedLine) + "…"
		}
		d.Logs = append(d.Logs, line)
	}
	return err
}

// clean masks secrets in what came from the sandbox, and in what users and agents say in clear elsewhere: a diagnosis is passed on.
// The log is clean already.
func (d *Diagnosis) clean(mask func(string) string) {
	s := &d.Session
	texts := []*string{s.Title, s.TitlePreview, s.Response, s.PhaseDetail, s.FailureReason}
	if a := d.Agent; a != nil {
		texts = append(texts, a.Name, a.Prompt, a.Requirements)
		for i, server := range a.MCPServers {
			a.MCPServers[i] = mask(withoutCredentials(server))
		}
	}
	for _, t := range texts {
		if t != nil {
			*t = mask(*t)
		}
	}
	if d.Sandbox != nil {
		d.Sandbox.Detail, d.Sandbox.Reason = mask(d.Sandbox.Detail), mask(d.Sandbox.Reason)
	}
	for i, c := range d.Details.Conditions {
		d.Details.Conditions[i].Message = mask(c.Message)
	}
	for i, c := range d.Details.Containers {
		d.Details.Containers[i].Message = mask(c.Message)
	}
	for i, e := range d.Details.Events {
		d.Details.Events[i].Message = mask(e.Message)
	}
	if d.Probe != nil {
		d.Probe.State, d.Probe.Version = mask(d.Probe.State), mask(d.Probe.Version)
	}
	for i, m := range d.MCPServers {
		d.MCPServers[i] = MCPServer{mask(m.Name), mask(m.Status), mask(m.Message)}
	}
	for i, e := range d.Events {
		if masked := mask(string(e.Data)); json.Valid([]byte(masked)) {
			d.Events[i].Data = json.RawMessage(masked)
		} else {
			d.Events[i].Data = json.RawMessage(`{}`)
		}
	}
	for i := range d.turns {
		if text := d.turns[i].ErrorMessage; text != nil {
			masked := mask(*text)
			d.turns[i].ErrorMessage = &masked
		}
	}
}

// withoutCredentials masks where an MCP server of an agent may have credentials: query and headers of a URL, arguments of a command.
func withoutCredentials(server string) string {
	if i := strings.IndexAny(server, "?# "); i >= 0 {
		return server[:i+1] + secretMask
	}
	return server
}

// probe asks sandboxd how it is.
func (s *Service) probe(ctx context.Context, sess store.Session) *Probe {
	_, key, err := callerKey(s.o.Keyring, sess.KeyID)
	if err != nil {
		return &Probe{Err: err.Error()}
	}
	box := sandbox.ID(sess.SandboxID)
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return s.o.Runtime.Dial(ctx, box) },
	}
	defer transport.CloseIdleConnections()
	// The error is for an ill-formed address only.
	api, _ := sandboxd.NewClientWithResponses("http://sandbox",
		sandboxd.WithHTTPClient(&http.Client{Transport: &caller{key: key, box: box, next: transport}}))
	began := time.Now()
	res, err := api.GetHealthWithResponse(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Probe{Err: "it did not answer in time"}
	case err != nil:
		return &Probe{Err: "no connection to it can be made"}
	case res.JSON200 == nil:
		return &Probe{Err: "it answered " + http.StatusText(res.StatusCode())}
	case res.JSON200.SandboxID != sess.SandboxID:
		return &Probe{Err: "something else answered in its place"}
	}
	h := res.JSON200
	return &Probe{Latency: time.Since(began), State: clip(h.State, 64), Protocol: h.Protocol, Version: clip(h.Version, 128)}
}
