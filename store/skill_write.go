package store

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// CreateSkill stores sk as version 1. It fills ID, Version and the times.
func (s *Store) CreateSkill(ctx context.Context, sk *Skill) error {
	id, err := newID()
	if err != nil {
		return err
	}
	created := *sk
	created.ID, created.Version, created.CreatedAt = id, 1, now()
	created.UpdatedAt = created.CreatedAt
	row := skillRow{ID: id, Version: 1, Library: sk.Library, CreatedAt: created.CreatedAt.UnixMilli()}
	err = s.InTx(ctx, func(s *Store) error {
		if err := s.exec(ctx, func(db *gorm.DB) error { return db.Create(&row).Error }); err != nil {
			return err
		}
		return s.putSkillVersion(ctx, created)
	})
	if err != nil {
		return fmt.Errorf("create skill: %w", err)
	}
	*sk = created
	return nil
}

// UpdateSkill stores what change makes of name, description and content of a
// skill of the library as its next version, and returns that. Updates of one
// skill run one after the other; change runs in their transaction, and its
// error is returned as it is. A change of nothing makes no version.
// ErrNotFound if the skill is gone.
func (s *Store) UpdateSkill(ctx context.Context, id string, change func(*Skill) error) (Skill, error) {
	var current Skill
	err := s.InTx(ctx, func(s *Store) error {
		var err error
		if current, err = s.lockSkill(ctx, id); err != nil {
			return fmt.Errorf("update skill: %w", err)
		}
		wanted := current
		if err := change(&wanted); err != nil {
			return err
		}
		next := current
		next.Name, next.Description, next.Content = wanted.Name, wanted.Description, wanted.Content
		if reflect.DeepEqual(next, current) {
			return nil
		}
		next.Version++
		// Versions differ in their time, whatever the clock does: lists continue by it.
		next.UpdatedAt = latest(now(), current.UpdatedAt.Add(time.Millisecond))
		if err := s.addSkillVersion(ctx, next); err != nil {
			return fmt.Errorf("update skill: %w", err)
		}
		current = next
		return nil
	})
	if err != nil {
		return Skill{}, err
	}
	return current, nil
}

// DeleteSkill takes a skill out of the library. Its versions stay readable.
// check, which may be nil, is given the current version; its error is returned
// and nothing is changed. ErrNotFound if the skill is gone.
func (s *Store) DeleteSkill(ctx context.Context, id string, check func(version int32) error) error {
	return s.InTx(ctx, func(s *Store) error {
		sk, err := s.lockSkill(ctx, id)
		if err != nil {
			return fmt.Errorf("delete skill: %w", err)
		}
		if check != nil {
			if err := check(sk.Version); err != nil {
				return err
			}
		}
		err = s.exec(ctx, func(db *gorm.DB) error {
			return db.Exec("UPDATE skills SET deleted_at = ? WHERE id = ?", now().UnixMilli(), id).Error
		})
		if err != nil {
			return fmt.Errorf("delete skill: %w", err)
		}
		return nil
	})
}

// lockSkill returns the current version of a skill of the library and keeps it
// current until the commit. The version is read after the lock was granted.
func (s *Store) lockSkill(ctx context.Context, id string) (Skill, error) {
	if !validID(id) {
		return Skill{}, ErrNotFound
	}
	var locked string
	err := s.exec(ctx, func(db *gorm.DB) error {
		return db.Table("skills k").Select("k.id").Where("k.id = ? AND "+inLibrary, id).
			Clauses(clause.Locking{Strength: "UPDATE"}).Take(&locked).Error
	})
	if err != nil {
		return Skill{}, err
	}
	return s.GetSkill(ctx, id)
}

func (s *Store) addSkillVersion(ctx context.Context, sk Skill) error {
	if err := s.putSkillVersion(ctx, sk); err != nil {
		return err
	}
	return s.exec(ctx, func(db *gorm.DB) error {
		return db.Exec("UPDATE skills SET version = ? WHERE id = ?", sk.Version, sk.ID).Error
	})
}

func (s *Store) putSkillVersion(ctx context.Context, sk Skill) error {
	row := skillVersionRow{
		SkillID: sk.ID, Version: sk.Version, Name: sk.Name, Description: sk.Description, Content: sk.Content,
		CreatedAt: sk.UpdatedAt.UnixMilli(),
	}
	return s.exec(ctx, func(db *gorm.DB) error { return db.Create(&row).Error })
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
