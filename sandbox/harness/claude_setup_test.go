package harness_test

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
	"github.com/litellm-agent-platform/lap/server/demo"
)

// claudeBin is the real claude.
var claudeBin = realHarness("claude-code")

// claudeBox is a place to run claude in.
type claudeBox struct{ *homeBox }

func newClaudeBox(t *testing.T) *claudeBox {
	t.Helper()
	return &claudeBox{newHomeBox(t, claudeBin)}
}

func (b *claudeBox) runs(t *testing.T, command string) bool {
	t.Helper()
	for _, c := range b.processes(t) {
		if strings.HasPrefix(c, command) {
			return true
		}
	}
	return false
}

// kill kills the claude in a box.
func (b *claudeBox) kill(t *testing.T) {
	t.Helper()
	for pid, command := range b.processes(t) {
		if strings.HasPrefix(command, b.config.Bin) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no claude runs")
}

// start starts claude without a terminal and ends it with the test.
func (b *claudeBox) start(t *testing.T) harness.Running {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := harness.NewClaudeAgentSDK().Start(ctx, b.config)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

// last is what the gateway was asked last.
func (b *claudeBox) last(t *testing.T) demo.Request {
	t.Helper()
	requests := b.gateway.Requests()
	if len(requests) == 0 {
		t.Fatal("the gateway was asked nothing")
	}
	return requests[len(requests)-1]
}
