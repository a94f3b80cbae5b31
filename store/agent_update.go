package store

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	"golang.org/x/text/cases"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// UpdateAgent makes what change returns for the current version of an agent its
// next version, and returns that. Updates of one agent run one after the other.
// change runs in their transaction and reads through the Store it is given; its
// error is returned as it is and nothing is written. A configuration that does
// not differ makes no version. ErrNotFound if the agent is gone. Files are as
// for CreateAgent.
func (s *Store) UpdateAgent(
	ctx context.Context, id string, change func(s *Store, current Agent) (AgentConfig, error),
) (Agent, error) {
	if !validID(id) {
		return Agent{}, fmt.Errorf("update agent: %w", ErrNotFound)
	}
	var agent Agent
	err := s.InTx(ctx, func(s *Store) (err error) {
		if agent, err = s.lockAgent(ctx, id); err != nil {
			return fmt.Errorf("update agent: %w", err)
		}
		// Another copy, so that what is changed in place is a difference too.
		current, err := s.GetAgent(ctx, id)
		if err != nil {
			return fmt.Errorf("update agent: %w", err)
		}
		config, err := change(s, current)
		if err != nil {
			return err
		}
		if err := s.addVersion(ctx, &agent, config); err != nil {
			return fmt.Errorf("update agent: %w", err)
		}
		return nil
	})
	if err != nil {
		return Agent{}, err
	}
	return agent, nil
}

// lockAgent returns the current version and keeps it current until the commit.
// The version is read after the lock was granted: one statement for both would
// look for the version that was current before it waited.
func (s *Store) lockAgent(ctx context.Context, id string) (Agent, error) {
	var locked string
	err := s.exec(ctx, func(db *gorm.DB) error {
		return db.Table("agents").Select("id").Where("id = ? AND deleted_at IS NULL", id).
			Clauses(clause.Locking{Strength: "UPDATE"}).Take(&locked).Error
	})
	if err != nil {
		return Agent{}, err
	}
	return s.GetAgent(ctx, id)
}

// addVersion makes config the next version of agent, unless it is the current
// one already.
func (s *Store) addVersion(ctx context.Context, agent *Agent, config AgentConfig) error {
	next := *agent
	next.AgentConfig = config
	next.Files = hashed(config.Files)
	before, err := columnsOf(*agent)
	if err != nil {
		return err
	}
	after, err := columnsOf(next)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(before, after) && maps.Equal(agent.EnvVars, next.EnvVars) {
		return nil
	}
	next.Version++
	next.UpdatedAt = now()
	row, err := s.newVersionRow(next)
	if err != nil {
		return err
	}
	if err := s.putFiles(ctx, next.Files); err != nil {
		return err
	}
	up, down := nameKeys(next.Name)
	err = s.exec(ctx, func(db *gorm.DB) error {
		if err := db.Create(&row).Error; err != nil {
			return err
		}
		return db.Exec("UPDATE agents SET version = ?, name_up = ?, name_down = ?, updated_at = ? WHERE id = ?",
			next.Version, up, down, row.CreatedAt, next.ID).Error
	})
	*agent = next
	return err
}

// MarkAgentDeleted makes the agent invisible and unusable for new sessions.
// Its versions and sessions stay. check, which may be nil, is given the current
// version; its error is returned and nothing is changed. ErrNotFound if the
// agent is gone.
func (s *Store) MarkAgentDeleted(ctx context.Context, id string, check func(version int32) error) error {
	if !validID(id) {
		return fmt.Errorf("delete agent: %w", ErrNotFound)
	}
	err := s.InTx(ctx, func(s *Store) error {
		t := now().UnixMilli()
		var versions []int32
		err := s.exec(ctx, func(db *gorm.DB) error {
			return db.Raw("UPDATE agents SET deleted_at = ?, updated_at = ? WHERE id = ? AND deleted_at IS NULL RETURNING version", t, t, id).
				Scan(&versions).Error
		})
		switch {
		case err != nil:
			return err
		case len(versions) == 0:
			return ErrNotFound
		case check == nil:
			return nil
		}
		return check(versions[0])
	})
	if err != nil {
		return fmt.Errorf("delete agent: %w", err)
	}
	return nil
}

// nameKeys are the texts that a name is sorted by, up and down. Both databases
// compare them by byte, so that they agree on the order.
func nameKeys(name *string) (up, down string) {
	if name == nil {
		return "2", "0"
	}
	named := "1" + fold(*name)
	return named, named
}

func fold(s string) string { return cases.Fold().String(s) }
