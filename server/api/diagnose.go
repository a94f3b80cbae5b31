package api

import (
	"context"
	"encoding/json"

	"github.com/oapi-codegen/nullable"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

func (h sessions) DiagnoseSession(ctx context.Context, r gen.DiagnoseSessionRequestObject) (gen.DiagnoseSessionResponseObject, error) {
	d, err := h.sessions.Diagnose(ctx, r.SessionID)
	if err != nil {
		return nil, orNotFound(err, sessionNotFound(r.SessionID))
	}
	answer := gen.Diagnosis{
		GeneratedAt: session.FormatTime(d.At), Session: sessionAnswer(d.Session),
		Sandbox: diagnosedSandbox(d), Harness: diagnosedHarness(d.Probe), Conditions: make([]gen.Condition, len(d.Conditions)),
		McpServers: make([]gen.McpServerState, len(d.MCPServers)), Logs: orEmpty(d.Logs), DetectedIssues: make([]gen.Issue, len(d.Issues)),
		Missing: make([]gen.MissingPart, len(d.Missing)), Events: make([]gen.Event, len(d.Events)),
	}
	if d.Agent != nil {
		agent := agentAnswer(*d.Agent)
		answer.Agent = &agent
	}
	for i, c := range d.Conditions {
		answer.Conditions[i] = gen.Condition{Type: c.Type, Status: c.Status, Message: textOrNull(c.Message)}
	}
	for i, m := range d.MCPServers {
		answer.McpServers[i] = gen.McpServerState{Name: m.Name, Status: m.Status, Message: textOrNull(m.Message)}
	}
	for i, e := range d.Events {
		if answer.Events[i], err = eventAnswer(e); err != nil {
			return nil, err
		}
	}
	for i, x := range d.Issues {
		answer.DetectedIssues[i] = gen.Issue{Code: x.Code, Severity: x.Severity, Message: x.Message, RecommendedAction: x.Action}
	}
	for i, m := range d.Missing {
		answer.Missing[i] = gen.MissingPart{Part: m.Part, Message: m.Message}
	}
	return gen.DiagnoseSession200JSONResponse(answer), nil
}

func diagnosedSandbox(d *session.Diagnosis) nullable.Nullable[gen.DiagnosedSandbox] {
	if d.Sandbox == nil {
		return nullable.NewNullNullable[gen.DiagnosedSandbox]()
	}
	s := gen.DiagnosedSandbox{
		ID: string(d.Sandbox.ID), State: string(d.Sandbox.State), Detail: textOrNull(d.Sandbox.Detail), Reason: textOrNull(d.Sandbox.Reason),
		ExitCode: nullable.NewNullNullable[int32](), CreatedAt: nullable.NewNullNullable[string](),
	}
	describe(&s, d)
	if code := d.Sandbox.ExitCode; code != nil {
		s.ExitCode.Set(int32(*code))
	}
	if !d.Sandbox.CreatedAt.IsZero() {
		s.CreatedAt.Set(session.FormatTime(d.Sandbox.CreatedAt))
	}
	return nullable.NewNullableWithValue(s)
}

// describe adds what only some runtimes know.
func describe(s *gen.DiagnosedSandbox, diagnosis *session.Diagnosis) {
	d := diagnosis.Details
	s.Node = textOrNull(d.Node)
	s.Conditions = make([]gen.SandboxCondition, len(d.Conditions))
	for i, c := range d.Conditions {
		s.Conditions[i] = gen.SandboxCondition{
			Type: c.Type, Status: c.Status, Reason: textOrNull(c.Reason), Message: textOrNull(c.Message), ChangedAt: nullable.NewNullNullable[string](),
		}
		if !c.ChangedAt.IsZero() {
			s.Conditions[i].ChangedAt.Set(session.FormatTime(c.ChangedAt))
		}
	}
	s.Containers = make([]gen.SandboxContainer, len(d.Containers))
	for i, c := range d.Containers {
		s.Containers[i] = gen.SandboxContainer{
			Name: c.Name, Image: c.Image, State: c.State, Reason: textOrNull(c.Reason), Message: textOrNull(c.Message),
			ExitCode: nullable.NewNullNullable[int32](),
		}
		if c.ExitCode != nil {
			s.Containers[i].ExitCode.Set(int32(*c.ExitCode))
		}
	}
	s.Events = make([]gen.SandboxEvent, len(d.Events))
	for i, e := range d.Events {
		s.Events[i] = gen.SandboxEvent{Time: session.FormatTime(e.At), Type: e.Type, Reason: e.Reason, Message: e.Message, Count: int32(e.Count)}
	}
}

func diagnosedHarness(p *session.Probe) nullable.Nullable[gen.HarnessProbe] {
	if p == nil {
		return nullable.NewNullNullable[gen.HarnessProbe]()
	}
	h := gen.HarnessProbe{
		Answers: p.Err == "", Error: textOrNull(p.Err), State: textOrNull(p.State), Version: textOrNull(p.Version),
		LatencyMs: nullable.NewNullNullable[int64](), Protocol: nullable.NewNullNullable[int32](),
	}
	if h.Answers {
		h.LatencyMs.Set(p.Latency.Milliseconds())
		h.Protocol.Set(p.Protocol)
	}
	return nullable.NewNullableWithValue(h)
}

func eventAnswer(e store.Event) (answer gen.Event, err error) {
	err = json.Unmarshal(session.EncodeEvent(e), &answer)
	return answer, err
}

// textOrNull returns null for nothing.
func textOrNull(s string) nullable.Nullable[string] {
	if s == "" {
		return nullable.NewNullNullable[string]()
	}
	return nullable.NewNullableWithValue(s)
}
