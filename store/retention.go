package store

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// purgeRows bounds the rows of one deletion.
const purgeRows = 2000

// spent is the condition of sessions that ended before a time and of which nothing is left outside the database.
const spent = "stopped_at IS NOT NULL AND stopped_at <= ? AND settled AND status IN ('failed', 'dead') AND (expired_at IS NOT NULL OR desired = 'deleted')"

// RestedSessions returns the ids of up to limit sessions, longest first, that
// ended or were suspended before a time and still have workspace and settings.
func (s *Store) RestedSessions(ctx context.Context, before time.Time, limit int) ([]string, error) {
	const since = "COALESCE(stopped_at, suspended_at)"
	return s.sessionIDs(ctx, since, limit, since+" <= ? AND expired_at IS NULL AND desired <> 'deleted'", before)
}

// SpentSessions returns the ids of up to limit sessions, longest first, that
// ended before a time and of which nothing is left outside the database.
func (s *Store) SpentSessions(ctx context.Context, before time.Time, limit int) ([]string, error) {
	return s.sessionIDs(ctx, "stopped_at", limit, spent, before)
}

func (s *Store) sessionIDs(ctx context.Context, order string, limit int, condition string, before time.Time) ([]string, error) {
	ids := []string{}
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Table("sessions").Where(condition, toMillis(before)).Order(order).Limit(limit).Pluck("id", &ids).Error
	})
	if err != nil {
		return nil, fmt.Errorf("list sessions at rest: %w", err)
	}
	return ids, nil
}

// PurgeSession removes the rows of a session that ended before a time and of
// which nothing is left elsewhere: events, then turns, its checkpoint, then the session, in
// small transactions of the leader. Stopped in the middle it is begun again
// later, for the session goes last. It does nothing to any other session.
func (s *Store) PurgeSession(ctx context.Context, l Lease, id string, before time.Time) error {
	for _, step := range []string{
		`DELETE FROM events WHERE session_id = @id AND seq IN (SELECT seq FROM events WHERE session_id = @id ORDER BY seq LIMIT @rows)`,
		`DELETE FROM turns WHERE session_id = @id AND position IN (SELECT position FROM turns WHERE session_id = @id ORDER BY position LIMIT @rows)`,
		`DELETE FROM checkpoints WHERE session_id = @id`,
		`DELETE FROM sessions WHERE id = @id`,
	} {
		for n := int64(purgeRows); n == purgeRows; {
			err := s.InTx(ctx, func(s *Store) (err error) {
				if err := s.fence(ctx, l); err != nil {
					return err
				}
				n, err = s.purge(ctx, id, before, step)
				return err
			})
			if err != nil {
				return fmt.Errorf("purge session: %w", err)
			}
		}
	}
	return nil
}

// purge runs one deletion, if the session is still one to be purged, and counts its rows.
func (s *Store) purge(ctx context.Context, id string, before time.Time, step string) (n int64, err error) {
	err = s.exec(ctx, func(db *gorm.DB) error {
		// Changes nothing, but locks the row, and no restart comes between.
		res := db.Exec("UPDATE sessions SET settled = settled WHERE id = ? AND "+spent, id, toMillis(before))
		if res.Error != nil || res.RowsAffected == 0 {
			return res.Error
		}
		res = db.Exec(step, map[string]any{"id": id, "rows": purgeRows})
		n = res.RowsAffected
		return res.Error
	})
	return n, err
}

// PurgeAgents removes up to limit agents, all their versions and secrets
// included, that were deleted before a time and have no session left. It
// returns how many it removed.
func (s *Store) PurgeAgents(ctx context.Context, l Lease, before time.Time, limit int) (int, error) {
	ids := []string{}
	err := s.InTx(ctx, func(s *Store) error {
		if err := s.fence(ctx, l); err != nil {
			return err
		}
		err := s.query(ctx, func(db *gorm.DB) error {
			return db.Table("agents").Where("deleted_at IS NOT NULL AND deleted_at <= ?", toMillis(before)).
				Where("NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.agent_id = agents.id)").
				Order("id").Limit(limit).Pluck("id", &ids).Error
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		return s.exec(ctx, func(db *gorm.DB) error {
			if err := db.Exec("DELETE FROM agent_versions WHERE agent_id IN ?", ids).Error; err != nil {
				return err
			}
			return db.Exec("DELETE FROM agents WHERE id IN ?", ids).Error
		})
	})
	if err != nil {
		return 0, fmt.Errorf("purge agents: %w", err)
	}
	return len(ids), nil
}
