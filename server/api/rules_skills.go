package api

import (
	"strings"

	"github.com/litellm-agent-platform/lap/server/skill"
)

// checkSkill finds what is wrong with the content of a skill.
func checkSkill(body map[string]any, found *violations) {
	content, ok := body["content"].(string)
	switch {
	case !ok || content == "": // the schema has said so
	case strings.TrimSpace(content) == "":
		found.add("/content", "must not be blank")
	case skill.HasMarker(content):
		found.add("/content", "must not have a line that is a skill marker")
	}
}

func checkAttach(body map[string]any, found *violations) {
	checkSkill(body, found)
	if (body["skill_id"] == nil) == (body["content"] == nil) {
		found.add("", "must have either skill_id or content")
	}
	for _, name := range []string{"name", "description", "save_to_library"} {
		if body[name] != nil && body["content"] == nil {
			found.add(pointer(name), "is for a new skill, which needs content")
		}
	}
}
