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
	return checker.Check(ctx), true
}
