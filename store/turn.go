package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"gorm.io/gorm"
)

// Turn is one message and what the harness made of it.
type Turn struct {
	ID         string `gorm:"primaryKey"`
	SessionID  string
	Position   int64  // order within the session, from 1, without gaps
	Status     string // queued, handed, completed, failed or aborted
	Attempt    int32
	Abort      bool  // its end was asked for while it ran
	AfterSeq   int64 // its events have a greater seq
	IdemKey    *string
	BodyDigest []byte // Keyring.Digest of the request's body

	Input        json.RawMessage `gorm:"serializer:lap_json"` // may be large, so only TurnInput reads it
	Result       json.RawMessage `gorm:"serializer:lap_json"` // nil until ended
	ErrorName    *string
	ErrorMessage *string
	Model        *string

	CreatedAt time.Time  `gorm:"serializer:lap_ms;autoCreateTime:false"`
	HandedAt  *time.Time `gorm:"serializer:lap_ms"`
	EndedAt   *time.Time `gorm:"serializer:lap_ms"`
}

// AddTurn stores t at the end of the session's turns and fills SessionID,
// Position, AfterSeq and, where empty, ID, Status queued and CreatedAt. ErrConflict when
// the session has a turn with this id or key; the unit of work may go on.
func (tx *SessionTx) AddTurn(t *Turn) error {
	row := *t
	row.SessionID = tx.Session.ID
	row.AfterSeq = tx.lastSeq + int64(len(tx.events))
	if row.ID == "" {
		id, err := newID()
		if err != nil {
			return err
		}
		row.ID = id
	}
	if !validID(row.ID) {
		return fmt.Errorf("add turn: ill-formed turn id")
	}
	if row.Status == "" {
		row.Status = "queued"
	}
	if row.CreatedAt.IsZero() {
		row.CreatedAt = tx.now
	}
	row.storable()
	if err := tx.insertTurn(&row); err != nil {
		return fmt.Errorf("add turn: %w", translate(tx.db.Statement.Context, err))
	}
	tx.turns++
	tx.news = tx.news || row.Status == "queued"
	*t = row
	return nil
}

func (tx *SessionTx) insertTurn(row *Turn) error {
	if tx.position == 0 {
		last := tx.db.Raw("SELECT COALESCE(MAX(position), 0) FROM turns WHERE session_id = ?", row.SessionID)
		if err := last.Row().Scan(&tx.position); err != nil {
			return err
		}
	}
	row.Position = tx.position + 1
	insertion, err := turnTable().insertion([]Turn{*row}, " ON CONFLICT DO NOTHING")
	if err != nil {
		return err
	}
	inserted, err := insertion.run(tx.db)
	if err == nil && inserted == 0 {
		return ErrConflict
	}
	tx.position = row.Position
	return err
}

// turnTable are turns, and turnHeads those without their input, which may be large.
var (
	turnTable = sync.OnceValue(func() table[Turn] { return newTable[Turn]("turns") })
	turnHeads = sync.OnceValue(func() table[Turn] { return newTable[Turn]("turns", "input") })
)

// Turn returns one turn of the session.
func (tx *SessionTx) Turn(id string) (Turn, error) {
	return getTurn(tx.db, tx.Session.ID, id)
}

// TurnByKey returns the turn of the session that was added with this key.
func (tx *SessionTx) TurnByKey(key string) (Turn, error) {
	return takeTurn(tx.db, "session_id = ? AND idem_key = ?", tx.Session.ID, clean(key))
}

// SaveTurn writes the state of a turn: Status, Attempt, Abort, Result, the error, the
// model and the times. The rest of a turn never changes.
func (tx *SessionTx) SaveTurn(t *Turn) error {
	t.storable()
	columns := []string{"status", "attempt", "abort", "result", "error_name", "error_message", "model", "handed_at", "ended_at"}
	change, err := turnTable().change(t, columns, "session_id = ? AND id = ?", tx.Session.ID, t.ID)
	var changed int64
	if err == nil {
		changed, err = change.run(tx.db)
	}
	if err == nil && changed == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("save turn: %w", translate(tx.db.Statement.Context, err))
	}
	tx.turns++
	tx.news = tx.news || t.Abort && t.EndedAt == nil
	tx.ends = tx.ends || t.EndedAt != nil
	return nil
}

// CountOpenTurns counts the session's queued and handed turns.
func (tx *SessionTx) CountOpenTurns() (queued, handed int, err error) {
	err = tx.db.Raw(`SELECT COUNT(CASE status WHEN 'queued' THEN 1 END), COUNT(CASE status WHEN 'handed' THEN 1 END),
		(SELECT COALESCE(MAX(position), 0) FROM turns WHERE session_id = ?)
		FROM turns WHERE session_id = ? AND status IN ('queued', 'handed')`, tx.Session.ID, tx.Session.ID).Row().Scan(&queued, &handed, &tx.position)
	if err != nil {
		return 0, 0, fmt.Errorf("count open turns: %w", translate(tx.db.Statement.Context, err))
	}
	return queued, handed, nil
}

// OpenTurns returns the session's queued and handed turns, oldest first.
func (tx *SessionTx) OpenTurns() ([]Turn, error) {
	turns, err := turnHeads().list(tx.db, turnHeads().selected+"WHERE session_id = ? AND status IN ('queued', 'handed') ORDER BY position",
		[]any{tx.Session.ID})
	if err != nil {
		return nil, fmt.Errorf("list open turns: %w", translate(tx.db.Statement.Context, err))
	}
	return turns, nil
}

// HasOpenTurns tells whether a session has queued or handed turns.
func (s *Store) HasOpenTurns(ctx context.Context, sessionID string) (has bool, err error) {
	err = s.query(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT EXISTS (SELECT 1 FROM turns WHERE session_id = ? AND status IN ('queued', 'handed'))", idOrZero(sessionID)).Scan(&has).Error
	})
	if err != nil {
		return false, fmt.Errorf("look for open turns: %w", err)
	}
	return has, nil
}

// GetTurn returns one turn of a session.
func (s *Store) GetTurn(ctx context.Context, sessionID, turnID string) (t Turn, err error) {
	if !validID(sessionID) {
		return Turn{}, fmt.Errorf("get turn: %w", ErrNotFound)
	}
	err = s.query(ctx, func(db *gorm.DB) error {
		t, err = getTurn(db, sessionID, turnID)
		return err
	})
	return t, err
}

// TurnInput returns what a turn was added with.
func (s *Store) TurnInput(ctx context.Context, sessionID, turnID string) (json.RawMessage, error) {
	var t Turn
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Select("input").Where("session_id = ? AND id = ?", sessionID, turnID).Take(&t).Error
	})
	if err != nil {
		return nil, fmt.Errorf("read input of turn: %w", err)
	}
	return t.Input, nil
}

// AbortAsked tells whether the end of a turn was asked for.
func (s *Store) AbortAsked(ctx context.Context, sessionID, turnID string) (asked bool, err error) {
	err = s.query(ctx, func(db *gorm.DB) error {
		return db.Model(&Turn{}).Select("abort").Where("session_id = ? AND id = ?", sessionID, turnID).Take(&asked).Error
	})
	if err != nil {
		return false, fmt.Errorf("read turn: %w", err)
	}
	return asked, nil
}

func getTurn(db *gorm.DB, sessionID, id string) (Turn, error) {
	if !validID(id) {
		return Turn{}, fmt.Errorf("get turn: %w", ErrNotFound)
	}
	return takeTurn(db, "session_id = ? AND id = ?", sessionID, id)
}

func takeTurn(db *gorm.DB, where string, args ...any) (Turn, error) {
	t, err := turnHeads().take(db, turnHeads().selected+"WHERE "+where, args)
	if err != nil {
		return Turn{}, fmt.Errorf("get turn: %w", translate(db.Statement.Context, err))
	}
	return t, nil
}

// storable makes t equal to what will be read back.
func (t *Turn) storable() {
	cleanText(t)
	truncate(&t.CreatedAt, t.HandedAt, t.EndedAt)
}
