package contract

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// misfits break rules between values, by schema.
var misfits = map[string][]func(*Generator, map[string]any) *Flaw{
	"AgentCreate":   {badEnvName, reservedEnvName, longEnv, wrongSize, unknownSkill},
	"AgentUpdate":   {badEnvName, reservedEnvName, longEnv, maskOfNothing, wrongSize, unknownFile, wrongSum, noFile},
	"SessionCreate": {badEnvName, reservedEnvName, longEnv, unknownSkill},
	"SkillCreate":   {blankContent, markedContent},
	"SkillUpdate":   {blankContent, markedContent},
	"SkillAttach":   {bothSkills, noSkill, nameOfNoSkill, unknownSkillID, blankAttachment, markedAttachment},
	"MessageCreate": {bothMessages, noMessage, manyImages},
}

func invalid(rule, field string) *Flaw {
	return &Flaw{rule, field, http.StatusBadRequest, "invalid_request"}
}

func withEnv(b map[string]any) map[string]any {
	if env, ok := b["env_vars"].(map[string]any); ok && len(env) < 50 && env["K"] == nil {
		return env
	}
	env := map[string]any{}
	b["env_vars"] = env
	return env
}

func badEnvName(g *Generator, b map[string]any) *Flaw {
	key := pick(g, []string{"", "1A", "a-b", "a b", "ä", "A=B", "a/b~c", "A.B", "\n", strings.Repeat("-", 200)})
	withEnv(b)[key] = g.o.Secret
	return invalid("env name", pointer("env_vars", key))
}

func reservedEnvName(g *Generator, b map[string]any) *Flaw {
	key := pick(g, []string{"REPO_URL", "BRANCH", "LITELLM_API_KEY", "LITELLM_API_BASE", "LITELLM_DEFAULT_MODEL", "AGENT_PROMPT", "PORT", "GIT_TOKEN", "AGENT_REQUIREMENTS"})
	withEnv(b)[key] = g.o.Secret
	return invalid("reserved env name", pointer("env_vars", key))
}

func maskOfNothing(_ *Generator, b map[string]any) *Flaw {
	withEnv(b)["NEVER_STORED"] = "********"
	return invalid("mask of nothing", "/env_vars/NEVER_STORED")
}

func longEnv(g *Generator, b map[string]any) *Flaw {
	fillEnv(g, withEnv(b), 16385)
	return invalid("env size", "/env_vars")
}

func withFile(g *Generator, b map[string]any) (file map[string]any, at string) {
	file = map[string]any{"name": g.o.Marker, "sandbox_path": "/tmp/" + g.o.Marker, "content": "aGk="}
	list, _ := b["sandbox_files"].([]any)
	list = append(slices.Clone(list[:min(len(list), 19)]), file)
	b["sandbox_files"] = list
	return file, fmt.Sprint(len(list) - 1)
}

func wrongSize(g *Generator, b map[string]any) *Flaw {
	file, at := withFile(g, b)
	file["size"] = json.Number(pick(g, []string{"0", "1", "3", "9223372036854775807", "2.0e3"}))
	return invalid("file size", pointer("sandbox_files", at, "size"))
}

func unknownFile(g *Generator, b map[string]any) *Flaw {
	file, at := withFile(g, b)
	delete(file, "content")
	file["sha256"] = strings.Repeat("ab", 32)
	return invalid("unknown file", pointer("sandbox_files", at, "sha256"))
}

func wrongSum(g *Generator, b map[string]any) *Flaw {
	file, at := withFile(g, b)
	file["sha256"] = strings.Repeat("ab", 32)
	return invalid("file sum", pointer("sandbox_files", at, "sha256"))
}

func noFile(g *Generator, b map[string]any) *Flaw {
	file, at := withFile(g, b)
	delete(file, "content")
	if g.chance(0.5) {
		file["content"] = nil
	}
	return invalid("no file", pointer("sandbox_files", at, "content"))
}

func unknownSkill(g *Generator, b map[string]any) *Flaw {
	list, _ := b["skill_ids"].([]any)
	b["skill_ids"] = append(slices.Clone(list[:min(len(list), 9)]), g.unknownText("skill"))
	return &Flaw{"unknown skill", "", http.StatusNotFound, "not_found"}
}

func unknownSkillID(g *Generator, b map[string]any) *Flaw {
	clear(b)
	b["skill_id"] = g.unknownText("skill")
	return &Flaw{"unknown skill", "", http.StatusNotFound, "not_found"}
}

// unknownText is unknownID for a body, which no id can make ill-formed JSON or too long.
func (g *Generator) unknownText(kind string) string {
	for {
		id := g.unknownID(kind)
		if s := strings.ToValidUTF8(id, ""); s == id && !strings.Contains(s, "\x00") && len(s) <= 256 {
			return s
		}
	}
}

func blankContent(g *Generator, b map[string]any) *Flaw {
	b["content"] = pick(g, []string{" ", "\n\t ", "\u2028", "\u00a0"})
	return invalid("blank content", "/content")
}

func markedContent(g *Generator, b map[string]any) *Flaw {
	b["content"] = pick(g, []string{"", "x\n", "x\r\n"}) + "<!-- skill:" + pick(g, []string{"01932c07-a0b1-7c22-9d33-4e5f60718293", "x"}) + " -->" + pick(g, []string{"", " ", "\ny", "\r\ny"})
	return invalid("marker in content", "/content")
}

func blankAttachment(g *Generator, b map[string]any) *Flaw { clear(b); return blankContent(g, b) }

func markedAttachment(g *Generator, b map[string]any) *Flaw { clear(b); return markedContent(g, b) }

func bothSkills(g *Generator, b map[string]any) *Flaw {
	b["skill_id"], b["content"] = "x", g.text(10)
	return invalid("two skills", "")
}

func nameOfNoSkill(g *Generator, b map[string]any) *Flaw {
	clear(b)
	name := pick(g, []string{"name", "description"})
	b["skill_id"], b[name] = g.unknownText("skill"), g.text(8)
	return invalid("field of a new skill", "/"+name)
}

func noSkill(g *Generator, b map[string]any) *Flaw {
	clear(b)
	for _, name := range []string{"skill_id", "content"} {
		if g.chance(0.3) {
			b[name] = nil
		}
	}
	return invalid("no skill", "")
}

func bothMessages(g *Generator, b map[string]any) *Flaw {
	b["text"], b["parts"] = g.text(10), []any{map[string]any{"type": "text", "text": g.text(10)}}
	return invalid("two messages", "")
}

func noMessage(g *Generator, b map[string]any) *Flaw {
	clear(b)
	for _, name := range []string{"text", "parts"} {
		if g.chance(0.3) {
			b[name] = nil
		}
	}
	return invalid("no message", "")
}

func manyImages(_ *Generator, b map[string]any) *Flaw {
	clear(b)
	image := map[string]any{"type": "image", "source": map[string]any{"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
	b["parts"] = slices.Repeat([]any{image}, 11)
	return invalid("many images", "/parts")
}

// misfit breaks a rule between values.
func (g *Generator) misfit(op *endpoint, r *Request) []Flaw {
	list := misfits[component(op.body)]
	if len(list) == 0 {
		return nil
	}
	return []Flaw{*pick(g, list)(g, r.Value.(map[string]any))}
}
