package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
)

const (
	protocol    = 1
	maxBind     = 64 << 20 // bytes of a session's configuration, files included
	maxTurnBody = 48 << 20 // bytes of a turn, images included
	maxBody     = 1 << 20
	bodyWithin  = time.Minute
)

var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			return s.Value
		}
	}
	return v
})

// api answers the calls of the protocol: it translates, and the session decides.
type api struct {
	s         *session
	log       *slog.Logger
	beat      time.Duration
	terminals *terminals
}

var _ sandboxd.StrictServerInterface = (*api)(nil)

// handler serves the protocol behind the gate.
func (a *api) handler(g *gate) http.Handler {
	badRequest := func(w http.ResponseWriter, _ *http.Request, err error) { refuse(w, http.StatusBadRequest, err.Error()) }
	strict := sandboxd.NewStrictHandlerWithOptions(a, []sandboxd.StrictMiddlewareFunc{withRequest}, sandboxd.StrictHTTPServerOptions{
		RequestErrorHandlerFunc: badRequest,
		ResponseErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			a.log.Error("call failed", "method", r.Method, "path", r.URL.Path, "err", err)
			refuse(w, http.StatusInternalServerError, err.Error())
		},
	})
	routes := sandboxd.HandlerWithOptions(strict, sandboxd.StdHTTPServerOptions{ErrorHandlerFunc: badRequest})
	return g.wrap(limitBody(routes))
}

// limitBody bounds how long a body is and how long it takes to come.
func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := int64(maxBody)
		switch r.URL.Path {
		case "/v1/session":
			limit = maxBind
		case "/v1/checkpoint":
			limit = maxCheckpoint + 1 // so that one that is too long is told apart
		case "/v1/turns":
			limit = maxTurnBody
		}
		if r.Body != http.NoBody {
			r.Body = http.MaxBytesReader(w, r.Body, limit)
			rc := http.NewResponseController(w)
			if err := rc.SetReadDeadline(time.Now().Add(bodyWithin)); err != nil {
				refuse(w, http.StatusInternalServerError, err.Error())
				return
			}
			defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(sandboxd.Refusal{Error: reason})
}

func refusal(err error) sandboxd.RefusedJSONResponse {
	return sandboxd.RefusedJSONResponse{Error: err.Error()}
}

func (a *api) GetHealth(context.Context, sandboxd.GetHealthRequestObject) (sandboxd.GetHealthResponseObject, error) {
	return sandboxd.GetHealth200JSONResponse(a.s.health()), nil
}

func (a *api) BindSession(_ context.Context, r sandboxd.BindSessionRequestObject) (sandboxd.BindSessionResponseObject, error) {
	err := a.s.bind(*r.Body)
	switch {
	case errors.Is(err, errInvalid):
		return sandboxd.BindSession400JSONResponse{RefusedJSONResponse: refusal(err)}, nil
	case errors.Is(err, errConflict):
		return sandboxd.BindSession409JSONResponse{Error: err.Error()}, nil
	case err != nil:
		return nil, err
	}
	return sandboxd.BindSession200JSONResponse(a.s.health()), nil
}

func (a *api) RenewEgress(_ context.Context, r sandboxd.RenewEgressRequestObject) (sandboxd.RenewEgressResponseObject, error) {
	err := a.s.renewEgress(*r.Body)
	switch {
	case errors.Is(err, errInvalid):
		return sandboxd.RenewEgress400JSONResponse{RefusedJSONResponse: refusal(err)}, nil
	case errors.Is(err, errConflict):
		return sandboxd.RenewEgress409JSONResponse{Error: err.Error()}, nil
	case err != nil:
		return nil, err
	}
	return sandboxd.RenewEgress204Response{}, nil
}

func (a *api) StartTurn(_ context.Context, r sandboxd.StartTurnRequestObject) (sandboxd.StartTurnResponseObject, error) {
	err := a.s.startTurn(*r.Body)
	switch {
	case errors.Is(err, errInvalid):
		return sandboxd.StartTurn400JSONResponse{RefusedJSONResponse: refusal(err)}, nil
	case errors.Is(err, errConflict):
		return sandboxd.StartTurn409JSONResponse{Error: err.Error()}, nil
	case err != nil:
		return nil, err
	}
	return sandboxd.StartTurn202Response{}, nil
}

func (a *api) AbortTurn(_ context.Context, r sandboxd.AbortTurnRequestObject) (sandboxd.AbortTurnResponseObject, error) {
	a.s.abortTurn(r.TurnID)
	return sandboxd.AbortTurn202Response{}, nil
}

func (a *api) GetCheckpoint(ctx context.Context, r sandboxd.GetCheckpointRequestObject) (sandboxd.GetCheckpointResponseObject, error) {
	have := ""
	if r.Params.Have != nil {
		have = *r.Params.Have
	}
	p, err := a.s.checkpoint(ctx, have)
	switch {
	case errors.Is(err, errNothing):
		return sandboxd.GetCheckpoint204Response{}, nil
	case errors.Is(err, errConflict):
		return sandboxd.GetCheckpoint409JSONResponse(sandboxd.Refusal{Error: err.Error()}), nil
	case errors.Is(err, errTooLarge):
		return sandboxd.GetCheckpoint413JSONResponse(sandboxd.Refusal{Error: err.Error()}), nil
	case err != nil:
		return nil, err
	}
	var last *string
	if p.lastRun != "" {
		last = &p.lastRun
	}
	return sandboxd.GetCheckpoint200ApplicationZstdResponse{Body: p.File, ContentLength: p.size, Headers: sandboxd.GetCheckpoint200ResponseHeaders{
		CheckpointMark: p.mark, CheckpointNumber: p.number, CheckpointSha256: p.sum, CheckpointConversation: p.native, CheckpointTurn: last,
	}}, nil
}

func (a *api) PutCheckpoint(_ context.Context, r sandboxd.PutCheckpointRequestObject) (sandboxd.PutCheckpointResponseObject, error) {
	err := a.s.bringCheckpoint(r.Body)
	switch {
	case errors.Is(err, errConflict):
		return sandboxd.PutCheckpoint409JSONResponse(sandboxd.Refusal{Error: err.Error()}), nil
	case errors.Is(err, errTooLarge):
		return sandboxd.PutCheckpoint413JSONResponse(sandboxd.Refusal{Error: err.Error()}), nil
	case err != nil:
		return nil, err
	}
	return sandboxd.PutCheckpoint204Response{}, nil
}

func (a *api) StreamEvents(ctx context.Context, r sandboxd.StreamEventsRequestObject) (sandboxd.StreamEventsResponseObject, error) {
	s := eventStream{ctx: ctx, events: a.s.events, beat: a.beat}
	if r.Params.After != nil {
		s.after = max(0, *r.Params.After)
	}
	return s, nil
}
