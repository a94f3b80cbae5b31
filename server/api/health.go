package api

import (
	"context"
	"time"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

const pingTimeout = 2 * time.Second

type health struct {
	store            *store.Store
	sessions         *session.Service
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

func (h health) GetClusterHealth(ctx context.Context, _ gen.GetClusterHealthRequestObject) (gen.GetClusterHealthResponseObject, error) {
	answer := gen.ClusterHealth{
		Status: "not used", Checks: []gen.ClusterCheck{}, Namespace: nullable.NewNullNullable[string](), Version: nullable.NewNullNullable[string](),
	}
	begun := time.Now()
	report, ok := h.sessions.CheckRuntime(ctx)
	if !ok {
		return gen.GetClusterHealth200JSONResponse(answer), nil
	}
	answer.Status, answer.LatencyMs = "ok", time.Since(begun).Milliseconds()
	answer.Namespace, answer.Version = textOrNull(report.Namespace), textOrNull(report.Version)
	for _, c := range report.Checks {
		check := gen.ClusterCheck{Name: c.Name, Status: "ok", Message: textOrNull(c.Note)}
		if c.Fault != "" {
			check.Status, answer.Status, check.Message = "failed", "failing", textOrNull(c.Fault)
		}
		answer.Checks = append(answer.Checks, check)
	}
	if answer.Status != "ok" {
		return gen.GetClusterHealth503JSONResponse(answer), nil
	}
	return gen.GetClusterHealth200JSONResponse(answer), nil
}
