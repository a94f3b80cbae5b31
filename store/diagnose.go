package store

import (
	"context"
	"fmt"
	"slices"

	"gorm.io/gorm"
)

const (
	recentSeqs  = 5000     // how far back recent events are looked for
	recentBytes = 16 << 10 // larger ones are passed over
	firstLog    = 500      // records of an attempt that are its beginning
)

// RecentEvents returns up to limit of a session's latest events of some types,
// oldest first. Large ones and those far back are left out.
func (s *Store) RecentEvents(ctx context.Context, sess Session, types []string, limit int) ([]Event, error) {
	return s.eventsWhere(ctx, limit, "session_id = ? AND seq > ? AND type IN ? AND length(CAST(data AS text)) <= ?",
		sess.ID, sess.LastSeq-recentSeqs, types, recentBytes)
}

// FirstEvents returns up to limit events of a type that came from the sandbox
// at the beginning of the session's current attempt, oldest first.
func (s *Store) FirstEvents(ctx context.Context, sess Session, typ string, limit int) ([]Event, error) {
	return s.eventsWhere(ctx, limit, "session_id = ? AND attempt = ? AND n > 0 AND n <= ? AND type = ? AND length(CAST(data AS text)) <= ?",
		sess.ID, sess.Attempt, firstLog, typ, recentBytes)
}

func (s *Store) eventsWhere(ctx context.Context, limit int, condition string, args ...any) ([]Event, error) {
	events := []Event{}
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Where(condition, args...).Order("seq DESC").Limit(limit).Find(&events).Error
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	slices.Reverse(events)
	return events, nil
}

// RecentTurns returns up to limit of a session's latest turns, oldest first,
// without what was sent and answered.
func (s *Store) RecentTurns(ctx context.Context, sessionID string, limit int) ([]Turn, error) {
	turns := []Turn{}
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Omit("input", "result").Where("session_id = ?", sessionID).Order("position DESC").Limit(limit).Find(&turns).Error
	})
	if err != nil {
		return nil, fmt.Errorf("read turns: %w", err)
	}
	slices.Reverse(turns)
	return turns, nil
}
