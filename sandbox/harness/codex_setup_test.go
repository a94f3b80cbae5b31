package harness_test

import (
	"testing"

	"github.com/litellm-agent-platform/lap/sandbox/harness"
)

// codexBin is the real codex.
var codexBin = realHarness("codex")

// codexBox is a place to run codex in.
type codexBox struct{ *homeBox }

func newCodexBox(t *testing.T) *codexBox {
	t.Helper()
	return &codexBox{newHomeBox(t, codexBin)}
}

func (b *codexBox) start(t *testing.T) tuiRun {
	t.Helper()
	return startTUI(t, harness.NewCodex(), b.config)
}
