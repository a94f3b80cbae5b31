package store

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// Checkpoint is the state of a session's harness at one moment. A session has
// at most one.
type Checkpoint struct {
	SessionID    string `gorm:"primaryKey"`
	Attempt      int32
	Number       int64  // within the attempt; a later one is greater
	Mark         string // the sandbox's name for the state
	Conversation string // the harness's id of the conversation in it
	Covers       int64  // position of the last turn that is in it; 0: none
	Sealed       []byte // read by CheckpointState only

	CreatedAt time.Time `gorm:"serializer:lap_ms;autoCreateTime:false"`
}

// TableName tells gorm the name of the table.
func (Checkpoint) TableName() string { return "checkpoints" }

// checkpointAD binds a sealed state to its session and to this use.
func checkpointAD(sessionID string) []byte { return []byte("checkpoint " + sessionID) }

// PutCheckpoint stores state, sealed, in the place of the session's checkpoint,
// as a transaction of the leader. lastTurn is the last turn of the attempt that
// is in it; empty: there is none, and it holds what was said in earlier
// attempts. It reports false, having stored nothing, if the session has a newer
// one, of a later attempt or number, has not come to this attempt, or is to keep
// nothing any more. Covers, Sealed and CreatedAt are filled in.
func (s *Store) PutCheckpoint(ctx context.Context, l Lease, c Checkpoint, lastTurn string, state []byte) (stored bool, err error) {
	cleanText(&c)
	c.Sealed = s.keyring.Seal(state, checkpointAD(c.SessionID))
	err = s.Observe(ctx, l, c.SessionID, func(tx *SessionTx) error {
		if sess := tx.Session; sess.Desired == "deleted" || sess.ExpiredAt != nil || c.Attempt > sess.Attempt {
			return nil
		}
		covers := tx.db.Raw(`SELECT COALESCE(MAX(position), 0) FROM turns WHERE session_id = ? AND handed_at IS NOT NULL AND (attempt < ? OR id = ?)`,
			c.SessionID, c.Attempt, idOrZero(lastTurn))
		if err := covers.Scan(&c.Covers).Error; err != nil {
			return translate(tx.db.Statement.Context, err)
		}
		res := tx.db.Exec(`INSERT INTO checkpoints (session_id, attempt, number, mark, conversation, covers, sealed, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (session_id) DO UPDATE SET attempt = excluded.attempt, number = excluded.number, mark = excluded.mark,
				conversation = excluded.conversation, covers = excluded.covers, sealed = excluded.sealed, created_at = excluded.created_at
			WHERE (checkpoints.attempt, checkpoints.number) < (excluded.attempt, excluded.number)`,
			c.SessionID, c.Attempt, c.Number, c.Mark, c.Conversation, c.Covers, c.Sealed, toMillis(tx.Now()))
		stored = res.RowsAffected > 0
		return translate(tx.db.Statement.Context, res.Error)
	})
	if err != nil {
		return false, fmt.Errorf("store checkpoint: %w", err)
	}
	return stored, nil
}

// GetCheckpoint returns the session's checkpoint without its state. ErrNotFound
// if there is none.
func (s *Store) GetCheckpoint(ctx context.Context, sessionID string) (c Checkpoint, err error) {
	err = s.query(ctx, func(db *gorm.DB) error {
		return db.Omit("sealed").Where("session_id = ?", idOrZero(sessionID)).Take(&c).Error
	})
	if err != nil {
		return Checkpoint{}, fmt.Errorf("get checkpoint: %w", err)
	}
	return c, nil
}

// CheckpointState returns the session's checkpoint with its state, opened.
// ErrNotFound if there is none; ErrSealed if its key is gone or it is damaged.
func (s *Store) CheckpointState(ctx context.Context, sessionID string) (c Checkpoint, state []byte, err error) {
	err = s.query(ctx, func(db *gorm.DB) error {
		return db.Where("session_id = ?", idOrZero(sessionID)).Take(&c).Error
	})
	if err == nil {
		state, err = s.keyring.Open(c.Sealed, checkpointAD(sessionID))
		c.Sealed = nil
	}
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("read checkpoint: %w", err)
	}
	return c, state, nil
}

// DeleteCheckpoint removes the session's checkpoint, if it has one, as a
// transaction of the leader.
func (s *Store) DeleteCheckpoint(ctx context.Context, l Lease, sessionID string) error {
	err := s.InTx(ctx, func(s *Store) error {
		if err := s.fence(ctx, l); err != nil {
			return err
		}
		return s.exec(ctx, func(db *gorm.DB) error {
			return db.Exec("DELETE FROM checkpoints WHERE session_id = ?", idOrZero(sessionID)).Error
		})
	})
	if err != nil {
		return fmt.Errorf("delete checkpoint: %w", err)
	}
	return nil
}

// rekeyCheckpoints seals again, one after the other, what the first key did not
// seal.
func (s *Store) rekeyCheckpoints(ctx context.Context, changed func()) (unread int64, err error) {
	first, after := s.keyring.header(), zeroID
	for {
		var c Checkpoint
		err := s.query(ctx, func(db *gorm.DB) error {
			return db.Select("session_id", "sealed").Where("session_id > ? AND substr(sealed, 1, ?) <> ?", after, len(first), first).
				Order("session_id").Limit(1).Find(&c).Error
		})
		if err != nil || c.SessionID == "" {
			return unread, err
		}
		after = c.SessionID
		state, err := s.keyring.Open(c.Sealed, checkpointAD(c.SessionID))
		if err != nil {
			unread++
			continue
		}
		err = s.exec(ctx, func(db *gorm.DB) error {
			res := db.Exec("UPDATE checkpoints SET sealed = ? WHERE session_id = ? AND sealed = ?",
				s.keyring.Seal(state, checkpointAD(c.SessionID)), c.SessionID, c.Sealed)
			if res.RowsAffected > 0 {
				changed()
			}
			return res.Error
		})
		if err != nil {
			return unread, err
		}
	}
}
