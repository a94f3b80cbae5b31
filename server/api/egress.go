package api

import (
	"context"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
)

func (h sessions) GetSessionEgress(ctx context.Context, r gen.GetSessionEgressRequestObject) (gen.GetSessionEgressResponseObject, error) {
	report, err := h.sessions.Egress(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	answer := gen.EgressReport{
		SessionID: r.SessionID, Attempt: report.Attempt, Enforcement: report.Enforcement,
		Decisions: make([]gen.EgressDecision, len(report.Decisions)),
	}
	for i, d := range report.Decisions {
		answer.Decisions[i] = gen.EgressDecision{
			Time: session.FormatTime(d.Time), Method: d.Method, Host: d.Host, Port: int32(d.Port), Address: textOrNull(d.Address),
			Verdict: d.Verdict, Rule: d.Rule, Entry: textOrNull(d.Entry), Reason: d.Reason, Observed: d.Observed,
			BytesSent: d.Sent, BytesReceived: d.Received, Open: d.Open,
		}
	}
	return gen.GetSessionEgress200JSONResponse(answer), nil
}
