package session

import (
	"context"
	"fmt"
	"slices"

	"github.com/litellm-agent-platform/lap/gen/sandboxd"
	"github.com/litellm-agent-platform/lap/server/skill"
	"github.com/litellm-agent-platform/lap/store"
)

// equip gives agent the prompt of a session: its own, and behind it the blocks of the skills that only the session has. It returns
// the SKILL.md files of all skills in it.
func (r *reconciler) equip(ctx context.Context, s store.Session, agent *store.Agent) ([]sandboxd.File, error) {
	own, err := r.c.o.Store.SkillVersions(ctx, s.Skills)
	if err != nil {
		return nil, fmt.Errorf("read skills of session: %w", err)
	}
	p := promptOf(*agent, own)
	if len(own) > 0 {
		text := p.String()
		agent.Prompt = &text
	}
	return skillFiles(p, agent.Skills, own), nil
}

// promptOf is an agent's prompt with blocks of own at the end, if they are not attached to the agent.
func promptOf(a store.Agent, own []store.Skill) skill.Prompt {
	text := ""
	if a.Prompt != nil {
		text = *a.Prompt
	}
	p := skill.Parse(text, func(id string) bool {
		return slices.ContainsFunc(a.Skills, func(s store.AttachedSkill) bool { return s.ID == id })
	})
	for _, s := range own {
		p = p.Attach(s.ID, s.Content)
	}
	return p
}

// skillFiles are the files of the skills that have a block, each with the text of its first. What the agent recorded of a skill
// counts before what the session knows of it.
func skillFiles(p skill.Prompt, attached []store.AttachedSkill, own []store.Skill) []sandboxd.File {
	known := map[string]store.AttachedSkill{}
	for _, s := range own {
		known[s.ID] = store.AttachedSkill{ID: s.ID, Name: s.Name, Description: s.Description}
	}
	for _, s := range attached {
		known[s.ID] = s
	}
	var files []sandboxd.File
	slugs, done := map[string]bool{}, map[string]bool{}
	for _, b := range p.Blocks {
		if done[b.ID] {
			continue
		}
		s := known[b.ID]
		slug := skill.Slug(s.Name, s.ID, func(slug string) bool { return slugs[slug] })
		slugs[slug], done[b.ID] = true, true
		files = append(files, sandboxd.File{
			Path: "~/.claude/skills/" + slug + "/SKILL.md", Content: skill.File(slug, s.Name, s.Description, b.Text),
		})
	}
	return files
}
