package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/server/skill"
	"github.com/litellm-agent-platform/lap/store"
)

// errPromptTooLong is the answer to skills that make a prompt too long, but for the field to blame.
var errPromptTooLong = errors.New("the prompt would be too long")

// draft is a prompt that skills are attached to.
type draft struct {
	prompt  skill.Prompt
	known   map[string]store.Skill // those named by markers or to be attached that exist
	changed bool
}

// newDraft reads a prompt. It reads through st, in whose transaction, if it is in one, the skills stay as they are.
func newDraft(ctx context.Context, st *store.Store, prompt *string, add []string) (*draft, error) {
	text := ""
	if prompt != nil {
		text = *prompt
	}
	d := &draft{}
	var err error
	if d.known, err = st.SkillsByID(ctx, append(skill.Markers(text), add...)); err != nil {
		return nil, err
	}
	d.prompt = skill.Parse(text, d.exists)
	return d, nil
}

func (d *draft) exists(id string) bool {
	_, ok := d.known[id]
	return ok
}

func (d *draft) attached(id string) bool {
	return slices.ContainsFunc(d.prompt.Blocks, func(b skill.Block) bool { return b.ID == id })
}

func (d *draft) attach(sk store.Skill) error {
	d.known[sk.ID], d.changed = sk, true
	if d.prompt = d.prompt.Attach(sk.ID, sk.Content); d.prompt.TooLong() {
		return errPromptTooLong
	}
	return nil
}

// text is the prompt, which stays as it was written unless something was attached.
func (d *draft) text(written *string) *string {
	if !d.changed {
		return written
	}
	text := d.prompt.String()
	return &text
}

// recorded says of each attached skill what it was when it was attached; before is what was known of the prompt.
func (d *draft) recorded(before []store.AttachedSkill) []store.AttachedSkill {
	were := map[string]store.AttachedSkill{}
	for _, s := range before {
		were[s.ID] = s
	}
	list := []store.AttachedSkill{}
	for _, id := range d.prompt.IDs() {
		s, ok := were[id]
		if !ok {
			s = store.AttachedSkill{ID: id, Name: d.known[id].Name, Description: d.known[id].Description}
		}
		list = append(list, s)
	}
	return list
}

// compose returns the prompt that results when the skills of the library with the ids of add are attached to prompt, and every skill
// whose block stands in it; before says what is known of those that were attached already. It reads through st, which is to be in
// the transaction that writes the prompt.
func compose(ctx context.Context, st *store.Store, prompt *string, add []string, before []store.AttachedSkill) (*string, []store.AttachedSkill, error) {
	d, err := newDraft(ctx, st, prompt, add)
	if err == nil {
		err = d.attachAll(ctx, st, add)
	}
	if err != nil {
		return nil, nil, blame(err, "/skill_ids")
	}
	return d.text(prompt), d.recorded(before), nil
}

// attachAll attaches skills of the library.
func (d *draft) attachAll(ctx context.Context, st *store.Store, ids []string) error {
	for _, id := range ids {
		if !d.attached(id) && !d.known[id].Library {
			return skillNotFound(id)
		}
	}
	for _, id := range ids {
		if d.attached(id) {
			continue
		}
		sk, err := st.GetSkill(ctx, id) // one at a time: their contents together have no bound
		if err != nil {
			return err
		}
		if err := d.attach(sk); err != nil {
			return err
		}
	}
	return nil
}

// blame names the field that makes a prompt too long.
func blame(err error, field string) error {
	if errors.Is(err, errPromptTooLong) {
		return invalid([]gen.ErrorDetail{{Field: field, Message: session.ErrPrompt.Error()}})
	}
	return err
}

func skillIDs(list []store.AttachedSkill) []string {
	ids := make([]string, len(list))
	for i, s := range list {
		ids[i] = s.ID
	}
	return ids
}

func (h skills) AttachSkill(ctx context.Context, r gen.AttachSkillRequestObject) (gen.AttachSkillResponseObject, error) {
	var created *gen.Skill
	a, err := h.store.UpdateAgent(ctx, r.AgentID, func(st *store.Store, current store.Agent) (c store.AgentConfig, err error) {
		c, created, err = attach(ctx, st, current.AgentConfig, r.Body)
		return c, err
	})
	if err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	return gen.AttachSkill200JSONResponse{
		Body: gen.SkillAttached{Agent: agentAnswer(a), Skill: created}, Headers: gen.AttachSkill200ResponseHeaders{ETag: etag(a.Version)},
	}, nil
}

// attach attaches a skill to an agent. A prompt that has the skill already stays as it is. It returns the skill if that is new in
// the library.
func attach(ctx context.Context, st *store.Store, c store.AgentConfig, b *gen.SkillAttach) (store.AgentConfig, *gen.Skill, error) {
	var add []string
	field := "/content"
	if id := given(b.SkillID); id != nil {
		add, field = []string{*id}, "/skill_id"
	}
	d, err := newDraft(ctx, st, c.Prompt, add)
	if err != nil {
		return c, nil, err
	}
	var created *gen.Skill
	if add != nil {
		err = d.attachAll(ctx, st, add)
	} else {
		created, err = d.attachNew(ctx, st, newSkill(b))
	}
	if err != nil || !d.changed {
		return c, nil, blame(err, field)
	}
	c.Prompt, c.Skills = d.text(c.Prompt), d.recorded(c.Skills)
	return c, created, nil
}

// attachNew creates a skill and attaches it. It returns the skill if that is in the library.
func (d *draft) attachNew(ctx context.Context, st *store.Store, sk store.Skill) (*gen.Skill, error) {
	if err := st.CreateSkill(ctx, &sk); err != nil {
		return nil, err
	}
	if err := d.attach(sk); err != nil || !sk.Library {
		return nil, err
	}
	answer := skillAnswer(sk)
	return &answer, nil
}

func newSkill(b *gen.SkillAttach) store.Skill {
	sk := store.Skill{Library: true, Content: *given(b.Content), Description: given(b.Description)}
	if name := given(b.Name); name != nil {
		sk.Name = *name
	} else {
		sk.Name = "Skill " + session.FormatTime(time.Now())
	}
	if save := given(b.SaveToLibrary); save != nil {
		sk.Library = *save
	}
	return sk
}

func (h skills) DetachSkill(ctx context.Context, r gen.DetachSkillRequestObject) (gen.DetachSkillResponseObject, error) {
	a, err := h.store.UpdateAgent(ctx, r.AgentID, func(st *store.Store, current store.Agent) (store.AgentConfig, error) {
		if err := checkMatch(r.Params.IfMatch, current.Version); err != nil {
			return store.AgentConfig{}, err
		}
		return detach(ctx, st, current.AgentConfig, r.Params.SkillID)
	})
	if err != nil {
		return nil, orNotFound(err, agentNotFound(r.AgentID))
	}
	return gen.DetachSkill200JSONResponse{
		Body: gen.SkillDetached{Agent: agentAnswer(a)}, Headers: gen.DetachSkill200ResponseHeaders{ETag: etag(a.Version)},
	}, nil
}

// detach takes the blocks of a skill out of a prompt, or all of them. What counts as a block is what did when the prompt was
// written: a skill that was deleted since can be detached.
func detach(ctx context.Context, st *store.Store, c store.AgentConfig, id *string) (store.AgentConfig, error) {
	if c.Prompt == nil {
		return c, nil
	}
	attached := skillIDs(c.Skills)
	before := skill.Parse(*c.Prompt, func(id string) bool { return slices.Contains(attached, id) })
	after := before.DetachAll()
	if id != nil {
		after = before.Detach(*id)
	}
	if len(after.Blocks) == len(before.Blocks) {
		return c, nil
	}
	text := after.String()
	if c.Prompt = &text; text == "" {
		c.Prompt = nil
	}
	var err error
	c.Prompt, c.Skills, err = compose(ctx, st, c.Prompt, nil, c.Skills)
	return c, err
}
