package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/sandbox"
)

// box is one sandbox: sandboxd's protocol over an event log in memory.
type box struct {
	r      *fakeRuntime
	spec   sandbox.Spec
	ahead  time.Duration // of its clock
	addr   string
	server *http.Server
	state  sandbox.State // guarded by r.mu
	reason string        // guarded by r.mu

	mu        sync.Mutex // guards all below
	bound     *sandboxd.SessionConfig
	log       []sandboxd.Record
	wake      chan struct{} // closed and replaced when the log grows
	runs      map[string]int
	taken     int
	streams   int    // how often its log was asked for
	failTurns int    // so many calls of StartTurn take the turn, then break the connection
	note      string // detail of the phase ready, if it is told apart
	renewed   []string
	proxy     string // as it was told last
	kept      keptState

	attached []*websocket.Conn    // of its terminal
	ends     chan *websocket.Conn // the same; nil: it has no terminal
	activeAt *time.Time           // of its terminal
	unwell   chan struct{}        // closed when GetHealth is called and fails, once

	flood func(http.ResponseWriter) // answers the first call; set before it runs
	once  sync.Once                 // for flood
}

// start makes it run; r.mu is held.
func (b *box) start() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.r.t.Error(err)
		return
	}
	b.addr, b.state = l.Addr().String(), sandbox.Running
	b.server = &http.Server{Handler: b.verified(sandboxd.Handler(sandboxd.NewStrictHandler(b, nil))), ReadHeaderTimeout: time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // a broken connection is part of a test
	}
	go func() { _ = b.server.Serve(l) }()
	b.r.watch <- b.spec.ID
}

// stop ends it as a crash would; r.mu is held.
func (b *box) stop(reason string) {
	if b.state == sandbox.Exited {
		return
	}
	b.state, b.reason = sandbox.Exited, reason
	b.mu.Lock()
	attached := b.attached
	b.mu.Unlock()
	for _, c := range attached { // they are no business of the server any more
		_ = c.CloseNow()
	}
	if b.server != nil {
		_ = b.server.Close()
	}
}

func (b *box) crash(reason string) {
	b.r.mu.Lock()
	b.stop(reason)
	b.r.mu.Unlock()
	b.r.watch <- b.spec.ID
}

// sever breaks all connections to it and returns how often its log had been asked for.
func (b *box) sever() int {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	streams := b.followed()
	_ = b.server.Close()
	b.start()
	return streams
}

func (b *box) followed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streams
}

func (b *box) verified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := sandbox.VerifyToken(b.spec.CallerKey, req.Header.Get(sandbox.TokenHeader), b.spec.ID, time.Now().Add(b.ahead)); err != nil {
			w.Header().Set("Date", time.Now().Add(b.ahead).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if b.flood != nil {
			flooded := false
			if b.once.Do(func() { flooded = true; b.flood(w) }); flooded {
				return
			}
		}
		if b.ends != nil && req.URL.Path == "/v1/terminal" {
			b.serveTerminal(w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// emit appends a record; data is JSON.
func (b *box) emit(typ, turn, data string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.emitLocked(int64(len(b.log))+1, typ, turn, data)
}

func (b *box) emitLocked(n int64, typ, turn, data string) {
	rec := sandboxd.Record{N: n, Time: time.Now(), Type: typ, Data: json.RawMessage(data)}
	if turn != "" {
		rec.TurnID = &turn
	}
	b.log = append(b.log, rec)
	close(b.wake)
	b.wake = make(chan struct{})
}

func (b *box) reply(turn, text string) {
	quoted, _ := json.Marshal(text)
	b.emit("turn.started", turn, `{}`)
	b.emit("message.delta", turn, `{"part_id":"p1","offset":0,"text":`+string(quoted)+`}`)
	b.emit("message.part", turn, `{"part_id":"p1","part":{"id":"p1","type":"text","text":`+string(quoted)+`}}`)
	b.emit("turn.completed", turn, `{"parts":[{"id":"p1","type":"text","text":`+string(quoted)+`}],"tokens":{"input":3,"output":2,"cache_read":0,"cache_write":0},"cost":0.5}`)
}

func (b *box) ran(turn string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runs[turn]
}

func (b *box) health() sandboxd.Health {
	h := sandboxd.Health{SandboxID: string(b.spec.ID), Protocol: 1, Version: "fake", State: "unbound", LastN: int64(len(b.log))}
	if b.bound != nil {
		h.State, h.SessionID, h.Attempt = "ready", &b.bound.SessionID, b.bound.Attempt
	}
	h.TerminalActiveAt = b.activeAt
	return h
}

func (b *box) GetHealth(context.Context, sandboxd.GetHealthRequestObject) (sandboxd.GetHealthResponseObject, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unwell != nil {
		close(b.unwell)
		b.unwell = nil
		return nil, errors.New("unwell")
	}
	return sandboxd.GetHealth200JSONResponse(b.health()), nil
}

func (b *box) BindSession(_ context.Context, r sandboxd.BindSessionRequestObject) (sandboxd.BindSessionResponseObject, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bound == nil {
		b.bound = r.Body
		if b.bound.Requirements != nil { // the test says when they are installed
			b.emitLocked(int64(len(b.log))+1, "phase", "", `{"phase":"installing_deps","detail":""}`)
			return sandboxd.BindSession200JSONResponse(b.health()), nil
		}
		b.emitLocked(int64(len(b.log))+1, "phase", "", `{"phase":"waiting_harness","detail":"starting"}`)
		if b.note != "" {
			b.emitLocked(int64(len(b.log))+1, "phase", "", `{"phase":"ready","detail":"`+b.note+`"}`)
		}
		began := "new"
		switch {
		case b.bound.Checkpoint != nil:
			began = "restored"
		case b.bound.HarnessSessionID != nil:
			began = "resumed"
		case b.bound.Transcript != nil:
			began = "replayed"
		}
		b.emitLocked(int64(len(b.log))+1, "ready", "", `{"harness_session_id":"native-1","conversation":"`+began+`"}`)
	}
	return sandboxd.BindSession200JSONResponse(b.health()), nil
}

func (b *box) RenewEgress(_ context.Context, r sandboxd.RenewEgressRequestObject) (sandboxd.RenewEgressResponseObject, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renewed = append(b.renewed, r.Body.Credential)
	if r.Body.Proxy != nil {
		b.proxy = *r.Body.Proxy
	}
	return sandboxd.RenewEgress204Response{}, nil
}

func (b *box) StartTurn(_ context.Context, r sandboxd.StartTurnRequestObject) (sandboxd.StartTurnResponseObject, error) {
	b.r.mu.Lock()
	onTurn := b.r.onTurn
	b.r.mu.Unlock()
	b.mu.Lock()
	b.taken++
	first := b.runs[r.Body.ID] == 0
	if first {
		b.runs[r.Body.ID]++
	}
	fail := b.taken <= b.failTurns
	b.mu.Unlock()
	if first {
		go onTurn(b, *r.Body)
	}
	if fail {
		panic(http.ErrAbortHandler)
	}
	return sandboxd.StartTurn202Response{}, nil
}

func (b *box) AbortTurn(_ context.Context, r sandboxd.AbortTurnRequestObject) (sandboxd.AbortTurnResponseObject, error) {
	b.emit("turn.aborted", r.TurnID, `{"parts":[],"tokens":{"input":0,"output":0,"cache_read":0,"cache_write":0},"cost":0}`)
	return sandboxd.AbortTurn202Response{}, nil
}

func (b *box) OpenTerminal(context.Context, sandboxd.OpenTerminalRequestObject) (sandboxd.OpenTerminalResponseObject, error) {
	return sandboxd.OpenTerminal409JSONResponse{}, nil
}

func (b *box) StreamEvents(ctx context.Context, r sandboxd.StreamEventsRequestObject) (sandboxd.StreamEventsResponseObject, error) {
	b.mu.Lock()
	b.streams++
	b.mu.Unlock()
	return boxStream{ctx, b, int(*r.Params.After)}, nil
}

type boxStream struct {
	ctx   context.Context
	b     *box
	after int
}

func (s boxStream) VisitStreamEventsResponse(w http.ResponseWriter) error {
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		s.b.mu.Lock()
		news, wake := s.b.log[min(s.after, len(s.b.log)):], s.b.wake
		s.b.mu.Unlock()
		for _, rec := range news {
			if err := enc.Encode(rec); err != nil {
				return err
			}
		}
		s.after += len(news)
		if err := flush.Flush(); err != nil {
			return err
		}
		select {
		case <-s.ctx.Done():
			return nil
		case <-wake:
		}
	}
}

// eventually polls until ok, for at most 30 s.
