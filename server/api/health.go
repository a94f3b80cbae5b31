package api

import (
	"context"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/store"
)

const pingTimeout = 2 * time.Second

type health struct {
	store            *store.Store
	closing          <-chan struct{}
	version, gateway string
	leading          func() bool
}

func (h health) GetHealth(context.Context, gen.GetHealthRequestObject) (gen.GetHealthResponseObject, error) {
	return gen.GetHealth200JSONResponse{Status: "ok", Version: h.version}, nil
}

func (h health) GetReadiness(ctx context.Context, _ gen.GetReadinessRequestObject) (gen.GetReadinessResponseObject, error) {
	r := gen.Readiness{Status: "ready", Database: "ok", Controller: "waiting", Gateway: h.gateway}
	if h.leading() {
		r.Controller = "leading"
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if h.store.Ping(ctx) != nil {
		r.Database, r.Status = "unreachable", "not ready"
	}
	select {
	case <-h.closing:
		r.Status = "not ready"
	default:
	}
	if r.Status != "ready" {
		return gen.GetReadiness503JSONResponse(r), nil
	}
	return gen.GetReadiness200JSONResponse(r), nil
}
