package store

import (
	"context"
	"fmt"
	"strconv"

	"gorm.io/gorm"
)

// SkillPage is one part of a list of skills. Next is nil on the last page, Total
// nil unless it was asked for. A content of more than 64 KiB is left out and
// empty; SkillVersions has it.
type SkillPage struct {
	Rows  []Skill
	Total *int64
	Next  *Key
}

// ListSkills returns a page of the library. Its cost does not grow with the
// number of skills, except for the total and the offset.
func (s *Store) ListSkills(ctx context.Context, p PageRequest) (SkillPage, error) {
	var list, count statement
	count.add("SELECT count(*) FROM skills k WHERE " + inLibrary)
	// The page is cut before the wide rows of the versions are looked up.
	list.add("SELECT " + listedSkill + " FROM (SELECT k.* FROM skills k WHERE " + inLibrary)
	if p.After != nil {
		id := p.After.ID
		if !validID(id) {
			id = zeroID
		}
		list.add(" AND (k.created_at, k.id) < (?, ?)", toMillis(p.After.CreatedAt), id)
	}
	list.add(" ORDER BY k.created_at DESC, k.id DESC" + p.window() + ") k " + currentSkill + " ORDER BY k.created_at DESC, k.id DESC")
	page, err := s.skillPage(ctx, p, list, count, func(sk Skill) Key { return Key{CreatedAt: sk.CreatedAt, ID: sk.ID} })
	if err != nil {
		return SkillPage{}, fmt.Errorf("list skills: %w", err)
	}
	return page, nil
}

// ListSkillVersions returns a page of the versions of a skill of the library,
// newest first.
func (s *Store) ListSkillVersions(ctx context.Context, id string, p PageRequest) (SkillPage, error) {
	if _, err := s.GetSkill(ctx, id); err != nil {
		return SkillPage{}, fmt.Errorf("list versions: %w", err)
	}
	var list, count statement
	count.add("SELECT count(*) FROM skill_versions WHERE skill_id = ?", id)
	list.add("SELECT "+listedSkill+" FROM skills k "+anySkill+" WHERE k.id = ?", id)
	if p.After != nil { // no two versions are of the same time
		list.add(" AND v.created_at < ?", toMillis(p.After.CreatedAt))
	}
	list.add(" ORDER BY v.version DESC" + p.window())
	page, err := s.skillPage(ctx, p, list, count, func(sk Skill) Key { return Key{CreatedAt: sk.UpdatedAt, ID: sk.ID} })
	if err != nil {
		return SkillPage{}, fmt.Errorf("list versions: %w", err)
	}
	return page, nil
}

func (s *Store) skillPage(ctx context.Context, p PageRequest, list, count statement, key func(Skill) Key) (page SkillPage, err error) {
	var rows []joinedSkill
	err = s.query(ctx, func(db *gorm.DB) error {
		if err := db.Raw(list.sql, list.args...).Scan(&rows).Error; err != nil || !p.Total {
			return err
		}
		page.Total = new(int64)
		return db.Raw(count.sql, count.args...).Scan(page.Total).Error
	})
	if err != nil {
		return page, err
	}
	page.Rows = make([]Skill, 0, len(rows))
	for _, row := range rows {
		page.Rows = append(page.Rows, row.skill())
	}
	page.Rows, page.Next = cut(page.Rows, p, key)
	return page, nil
}

// window is the part of the rows that was asked for and one row more. The
// numbers stand in the text: a plan for any length would sort.
func (p PageRequest) window() string {
	w := " LIMIT " + strconv.Itoa(p.limit()+1)
	if p.Offset > 0 {
		w += " OFFSET " + strconv.Itoa(p.Offset)
	}
	return w
}
