package api

import (
	"context"

	"github.com/litellm-agent-platform/lap/gen"
	"github.com/litellm-agent-platform/lap/server/session"
	"github.com/litellm-agent-platform/lap/store"
)

type skills struct{ store *store.Store }

func (h skills) CreateSkill(ctx context.Context, r gen.CreateSkillRequestObject) (gen.CreateSkillResponseObject, error) {
	sk := store.Skill{Library: true, Name: r.Body.Name, Description: given(r.Body.Description), Content: r.Body.Content}
	if err := h.store.CreateSkill(ctx, &sk); err != nil {
		return nil, err
	}
	return gen.CreateSkill201JSONResponse{Body: skillAnswer(sk), Headers: gen.CreateSkill201ResponseHeaders{ETag: etag(sk.Version)}}, nil
}

func (h skills) ListSkills(ctx context.Context, r gen.ListSkillsRequestObject) (gen.ListSkillsResponseObject, error) {
	p, err := newPage(r.Params.Limit, r.Params.Offset, r.Params.Cursor, r.Params.Total)
	if err != nil {
		return nil, err
	}
	rows, err := h.store.ListSkills(ctx, p.request)
	if err != nil {
		return nil, err
	}
	return h.list(ctx, p, rows), nil
}

func (h skills) GetSkill(ctx context.Context, r gen.GetSkillRequestObject) (gen.GetSkillResponseObject, error) {
	sk, err := h.store.GetSkill(ctx, r.SkillID)
	if err != nil {
		return nil, orNotFound(err, skillNotFound(r.SkillID))
	}
	return gen.GetSkill200JSONResponse{Body: skillAnswer(sk), Headers: gen.GetSkill200ResponseHeaders{ETag: etag(sk.Version)}}, nil
}

func (h skills) UpdateSkill(ctx context.Context, r gen.UpdateSkillRequestObject) (gen.UpdateSkillResponseObject, error) {
	sk, err := h.store.UpdateSkill(ctx, r.SkillID, func(sk *store.Skill) error {
		if r.Body.Name != nil {
			sk.Name = *r.Body.Name
		}
		if r.Body.Content != nil {
			sk.Content = *r.Body.Content
		}
		if r.Body.Description.IsSpecified() {
			sk.Description = given(r.Body.Description)
		}
		return checkMatch(r.Params.IfMatch, sk.Version)
	})
	if err != nil {
		return nil, orNotFound(err, skillNotFound(r.SkillID))
	}
	return gen.UpdateSkill200JSONResponse{Body: skillAnswer(sk), Headers: gen.UpdateSkill200ResponseHeaders{ETag: etag(sk.Version)}}, nil
}

func (h skills) DeleteSkill(ctx context.Context, r gen.DeleteSkillRequestObject) (gen.DeleteSkillResponseObject, error) {
	err := h.store.DeleteSkill(ctx, r.SkillID, func(version int32) error { return checkMatch(r.Params.IfMatch, version) })
	if err != nil {
		return nil, orNotFound(err, skillNotFound(r.SkillID))
	}
	return gen.DeleteSkill204Response{}, nil
}

func (h skills) ListSkillVersions(ctx context.Context, r gen.ListSkillVersionsRequestObject) (gen.ListSkillVersionsResponseObject, error) {
	p, err := newPage(r.Params.Limit, r.Params.Offset, r.Params.Cursor, r.Params.Total)
	if err != nil {
		return nil, err
	}
	rows, err := h.store.ListSkillVersions(ctx, r.SkillID, p.request)
	if err != nil {
		return nil, orNotFound(err, skillNotFound(r.SkillID))
	}
	return h.list(ctx, p, rows), nil
}

// skillAnswer is the public form of a skill.
func skillAnswer(sk store.Skill) gen.Skill {
	return gen.Skill{
		ID: sk.ID, Name: sk.Name, Description: orNull(sk.Description), Content: sk.Content, Version: sk.Version,
		CreatedAt: session.FormatTime(sk.CreatedAt), UpdatedAt: session.FormatTime(sk.UpdatedAt),
	}
}

// list reads large contents one at a time: they can make a page 200 MB.
func (h skills) list(ctx context.Context, p page, rows store.SkillPage) listPage {
	return listPage{
		Data: func(yield func(any, error) bool) {
			for _, sk := range rows.Rows {
				var err error
				if sk.Content == "" {
					sk, err = h.version(ctx, store.SkillRef{ID: sk.ID, Version: sk.Version})
				}
				if !yield(skillAnswer(sk), err) {
					return
				}
			}
		},
		Limit: p.limit, Offset: p.offset, Total: orNull(rows.Total), NextCursor: encodeCursor(rows.Next),
	}
}

func (h skills) version(ctx context.Context, ref store.SkillRef) (store.Skill, error) {
	versions, err := h.store.SkillVersions(ctx, []store.SkillRef{ref})
	if err != nil {
		return store.Skill{}, err
	}
	return versions[0], nil
}
