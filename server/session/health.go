package session

import (
	"context"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox"
)

const checkTimeout = 5 * time.Second

// CheckRuntime asks how what sandboxes run on is, within 5 s. ok is false if that is nothing that fails by itself.
func (s *Service) CheckRuntime(ctx context.Context) (report sandbox.Report, ok bool) {
	checker, ok := s.o.Runtime.(sandbox.Checker)
	if !ok {
		return sandbox.Report{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	report = checker.Check(ctx)
	report.Checks = append(report.Checks, s.o.Egress.check())
	return report, true
}

// check tells whether what agents may reach is enforced.
func (e *Egress) check() sandbox.Check {
	c := sandbox.Check{Name: "egress"}
	switch {
	case e == nil:
		c.Note = "allow_out and deny_out of agents are not enforced: sandboxes reach all public addresses. Run lap egress and set EGRESS_PROXY_ADDR"
	case e.hub != nil && e.hub.Replicas() == 0:
		c.Fault = "no replica of lap egress is connected: new sandboxes have no way out"
	case e.o.Observe:
		c.Note = "EGRESS_MODE is observe: what allow_out and deny_out deny is told and let pass"
	}
	return c
}
