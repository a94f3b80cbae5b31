package store

import (
	"context"
	"fmt"

	"gorm.io/gorm"
)

// EachTurn calls fn with the session's turns, Input included, from a position
// on, at most limit of them, one after the other: only one is held in memory.
// An error of fn ends it and is returned as it is.
func (s *Store) EachTurn(ctx context.Context, sessionID string, from int64, limit int, fn func(Turn) error) error {
	return s.eachTurn(ctx, fn, func(db *gorm.DB) *gorm.DB {
		return db.Where("session_id = ? AND position >= ?", idOrZero(sessionID), from).Order("position").Limit(limit)
	})
}

// EachTurnBack is EachTurn from the newest turn back.
func (s *Store) EachTurnBack(ctx context.Context, sessionID string, limit int, fn func(Turn) error) error {
	return s.eachTurn(ctx, fn, func(db *gorm.DB) *gorm.DB {
		return db.Where("session_id = ?", idOrZero(sessionID)).Order("position DESC").Limit(limit)
	})
}

func (s *Store) eachTurn(ctx context.Context, fn func(Turn) error, these func(*gorm.DB) *gorm.DB) error {
	var inner error
	err := s.query(ctx, func(db *gorm.DB) error {
		rows, err := these(db.Model(&Turn{})).Rows()
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var t Turn
			if err := db.ScanRows(rows, &t); err != nil {
				return err
			}
			if inner = fn(t); inner != nil {
				return nil
			}
		}
		return rows.Err()
	})
	if inner != nil {
		return inner
	}
	if err != nil {
		return fmt.Errorf("read turns: %w", err)
	}
	return nil
}

// idOrZero is an id that may be asked for: an ill-formed one is that of nothing.
func idOrZero(id string) string {
	if !validID(id) {
		return zeroID
	}
	return id
}

// CountTurns returns how many turns a session has and how many of them have
// ended.
func (s *Store) CountTurns(ctx context.Context, sessionID string) (all, ended int64, err error) {
	if !validID(sessionID) {
		return 0, 0, nil
	}
	err = s.query(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT count(*), count(ended_at) FROM turns WHERE session_id = ?", sessionID).Row().Scan(&all, &ended)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count turns: %w", err)
	}
	return all, ended, nil
}
