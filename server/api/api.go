// Package api is the public HTTP API: it authenticates, validates requests against the embedded OpenAPI document, turns calls into
// calls of session and store, and answers in the shapes of package gen. It owns everything that is HTTP: errors, server-sent
// events, docs, metrics of requests. It must not know sandboxes, SQL or how a session runs.
//
// An API is safe for concurrent use. Its only goroutines are those of event streams, which end when the session service closes;
// Wait waits for them.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

// Options are the parts an API works with. Store, Sessions and MasterKey are required.
type Options struct {
	Store          *store.Store
	Sessions       *session.Service
	MasterKey      string                // what clients send as bearer token
	Version        string                // of the server, shown by /healthz
	Gateway        string                // configured, demo or missing, shown by /readyz
	Leading        func() bool           // whether the session controller runs here; nil: never
	RepoURLSchemes []string              // schemes of repo_url; nil: https
	Origins        []string              // origins that browsers may call from, as they write them
	BodyTimeout    time.Duration         // for sending a body; 0: 2 min
	BusyTimeout    time.Duration         // for a large body to find room; 0: 10 s
	BodyRoom       int64                 // bytes of larger bodies that are worked on at once; 0: 32 MiB
	AnswerTimeout  time.Duration         // for reading an answer; 0: 2 min
	StreamTimeout  time.Duration         // of one write to an event stream or a terminal; 0: 30 s
	Logger         *slog.Logger          // nil: none
	Metrics        prometheus.Registerer // nil: none
}

// API answers every operation of the OpenAPI document.
type API struct {
	agents
	skills
	sessions
	messages
	events
	terminals
	health
	description
	handler http.Handler
}

var _ gen.StrictServerInterface = (*API)(nil)

// New returns an API, or says what is missing.
func New(o Options) (*API, error) {
	if o.Store == nil || o.Sessions == nil || o.MasterKey == "" {
		return nil, errors.New("api: Store, Sessions and MasterKey are required")
	}
	o.defaults()
	a := &API{
		agents:    agents{store: o.Store, sessions: o.Sessions, log: o.Logger, cache: &agentCache{}},
		skills:    skills{store: o.Store},
		sessions:  sessions{store: o.Store, sessions: o.Sessions, writeTimeout: o.StreamTimeout},
		messages:  messages{store: o.Store, sessions: o.Sessions, writeTimeout: o.StreamTimeout},
		events:    events{store: o.Store, sessions: o.Sessions, writeTimeout: o.StreamTimeout, open: &subscriptions{}},
		terminals: terminals{sessions: o.Sessions, origins: o.Origins, timeout: o.StreamTimeout},
		health: health{store: o.Store, sessions: o.Sessions, closing: o.Sessions.Closing(), version: o.Version, gateway: o.Gateway,
			leading: o.Leading},
	}
	table, err := operations(rules{schemes: o.RepoURLSchemes}.byOperation())
	if err != nil {
		return nil, err
	}
	if a.description, err = newDescription(); err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	a.handler = a.router(o, table, newDocs(), m)
	return a, nil
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RepoURLSchemes == nil {
		o.RepoURLSchemes = []string{"https"}
	}
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 2 * time.Minute
	}
	if o.BusyTimeout <= 0 {
		o.BusyTimeout = 10 * time.Second
	}
	if o.BodyRoom <= 0 {
		o.BodyRoom = maxWorkedOn
	}
	if o.AnswerTimeout <= 0 {
		o.AnswerTimeout = 2 * time.Minute
	}
	if o.StreamTimeout <= 0 {
		o.StreamTimeout = 30 * time.Second
	}
	if o.Leading == nil {
		o.Leading = func() bool { return false }
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
}

// Handler serves the API, its docs and the health checks.
func (a *API) Handler() http.Handler { return a.handler }

// Wait waits for the event streams, which are no business of an http.Server's Shutdown: they end when the session service closes,
// and within StreamTimeout. It is called when no request can come any more; its error is ctx's.
func (a *API) Wait(ctx context.Context) error { return a.open.wait(ctx) }

// router puts the middleware in its order: what is known of a request grows from the outside in, and nothing of a body is read
// before the caller is known.
func (a *API) router(o Options, table map[string]*operation, docs *docs, m *metrics) http.Handler {
	e := echo.New()
	e.Logger.SetOutput(discard{})
	e.Binder = binder{}
	e.HTTPErrorHandler = func(err error, c echo.Context) { _ = writeError(c, err) }
	e.IPExtractor = echo.ExtractIPDirect()
	e.Use(
		boundAnswers(o.AnswerTimeout),
		observe(o.Logger, m, table),
		securityHeaders,
		cors(o.Origins),
		authenticate(o.MasterKey, o.Sessions.AcceptsTerminalToken, table),
		refuseOptions,
		newShares(o.BodyRoom, o.BusyTimeout).admit,
		validate(o.Store, table, o.BodyTimeout),
	)
	gen.RegisterHandlers(e, gen.NewStrictHandler(a, []gen.StrictMiddlewareFunc{withRequest}))
	docs.register(e, table)
	return e
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
