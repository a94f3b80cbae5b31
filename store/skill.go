package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Skill is one version of a stored skill. UpdatedAt is when that version was
// made.
type Skill struct {
	ID          string
	Version     int32
	Library     bool // else it lives only in the prompt it was written into
	Name        string
	Description *string
	Content     string
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// AttachedSkill is a skill whose text stands in an agent's prompt, with the
// name and description it had when it was attached.
type AttachedSkill struct {
	ID          string  `json:"id"`
	Name        string  `json:"name"`
	Description *string `json:"description"`
}

// SkillRef names a version of a skill, which stays readable when the skill is
// changed or deleted.
type SkillRef struct {
	ID      string `json:"id"`
	Version int32  `json:"version"`
}

type skillRow struct {
	ID        string
	Version   int32
	Library   bool
	CreatedAt int64
	DeletedAt *int64
}

func (skillRow) TableName() string { return "skills" }

type skillVersionRow struct {
	SkillID     string
	Version     int32
	Name        string
	Description *string
	Content     string
	CreatedAt   int64
}

func (skillVersionRow) TableName() string { return "skill_versions" }

// joinedSkill is a skill with one of its versions.
type joinedSkill struct {
	Version        skillVersionRow `gorm:"embedded"`
	Library        bool
	SkillCreatedAt int64
}

const (
	skillColumns = `v.skill_id, v.version, v.name, v.description, v.created_at, k.library, k.created_at AS skill_created_at`
	wholeSkill   = skillColumns + `, v.content`
	listedSkill  = skillColumns + `, CASE WHEN octet_length(v.content) <= 65536 THEN v.content ELSE '' END AS content`
	currentSkill = "JOIN skill_versions v ON v.skill_id = k.id AND v.version = k.version"
	anySkill     = "JOIN skill_versions v ON v.skill_id = k.id"
	inLibrary    = "k.deleted_at IS NULL AND k.library"
)

func (j joinedSkill) skill() Skill {
	return Skill{
		ID: j.Version.SkillID, Version: j.Version.Version, Library: j.Library, Name: j.Version.Name, Description: j.Version.Description,
		Content: j.Version.Content, CreatedAt: fromMillis(j.SkillCreatedAt), UpdatedAt: fromMillis(j.Version.CreatedAt),
	}
}

// GetSkill returns the current version of a skill of the library.
func (s *Store) GetSkill(ctx context.Context, id string) (Skill, error) {
	var row joinedSkill
	err := ErrNotFound
	if validID(id) {
		err = s.query(ctx, func(db *gorm.DB) error {
			return db.Table("skills k").Select(wholeSkill).Joins(currentSkill).Where("k.id = ? AND "+inLibrary, id).Take(&row).Error
		})
	}
	if err != nil {
		return Skill{}, fmt.Errorf("get skill: %w", err)
	}
	return row.skill(), nil
}

// SkillsByID returns those of the ids that are skills, of the library or not,
// without their contents. Inside InTx none of them is changed or deleted before
// the commit.
func (s *Store) SkillsByID(ctx context.Context, ids []string) (map[string]Skill, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids))) // locked in one order by all
	found := map[string]Skill{}
	for part := range slices.Chunk(slices.DeleteFunc(ids, func(id string) bool { return !validID(id) }), 1000) {
		var locked []string
		if err := s.lockSkills(ctx, part, &locked); err != nil {
			return nil, fmt.Errorf("find skills: %w", err)
		}
		if len(locked) == 0 {
			continue
		}
		// A statement of its own: one for both would look for versions that were current before it waited.
		var rows []joinedSkill
		err := s.query(ctx, func(db *gorm.DB) error {
			return db.Table("skills k").Select(skillColumns).Joins(currentSkill).Where("k.id IN ?", locked).Find(&rows).Error
		})
		if err != nil {
			return nil, fmt.Errorf("find skills: %w", err)
		}
		for _, row := range rows {
			found[row.Version.SkillID] = row.skill()
		}
	}
	return found, nil
}

func (s *Store) lockSkills(ctx context.Context, ids []string, locked *[]string) error {
	return s.query(ctx, func(db *gorm.DB) error {
		query := db.Table("skills").Where("id IN ? AND deleted_at IS NULL", ids).Order("id")
		if s.unit != nil {
			query = query.Clauses(clause.Locking{Strength: "SHARE"})
		}
		return query.Pluck("id", locked).Error
	})
}

// SkillVersions returns the versions that refs name, in their order, of skills
// deleted or not.
func (s *Store) SkillVersions(ctx context.Context, refs []SkillRef) ([]Skill, error) {
	list := make([]Skill, 0, len(refs))
	for _, ref := range refs {
		var row joinedSkill
		err := s.query(ctx, func(db *gorm.DB) error {
			return db.Table("skills k").Select(wholeSkill).Joins(anySkill).Where("k.id = ? AND v.version = ?", ref.ID, ref.Version).Take(&row).Error
		})
		if err != nil {
			return nil, fmt.Errorf("read skill %s: %w", ref.ID, err)
		}
		list = append(list, row.skill())
	}
	return list, nil
}
