package api

import (
	"testing"

	"github.com/litellm-agent-platform/lap/server/skill"
)

func TestTheLongestPromptIsThatOfTheDocument(t *testing.T) {
	t.Parallel()
	prompt := readSpec(t).Components.Schemas["AgentCreate"].Value.Properties["prompt"].Value
	if *prompt.MaxLength != skill.MaxPrompt {
		t.Errorf("%d and %d", *prompt.MaxLength, skill.MaxPrompt)
	}
}
