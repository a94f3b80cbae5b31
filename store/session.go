package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// Session is one conversation with a pinned agent version.
type Session struct {
	ID           string `gorm:"primaryKey"`
	AgentID      string
	AgentVersion int32
	HarnessID    string
	Title        *string
	TitlePreview *string

	Desired      string // running, suspended, stopped or deleted
	Status       string // creating, ready, failed or dead
	SandboxState string
	Phase        *string
	PhaseDetail  *string

	Attempt          int32
	SandboxID        string    // empty: none
	KeyID            string    // signing key the sandbox was started with
	AttemptStartedAt time.Time `gorm:"serializer:lap_ms"`
	LogN             int64     // last sandbox log record stored of this attempt

	HarnessSessionID *string
	Response         *string
	FailureReason    *string
	TurnCount        int64
	LastSeq          int64 // owned by the store
	IdleTimeoutMs    int64
	Skills           []SkillRef `gorm:"serializer:json"` // attached to this session only, owned by the store once created
	HasSettings      bool
	Settled          bool // nothing is left to do for the controller

	CreatedAt  time.Time  `gorm:"serializer:lap_ms;autoCreateTime:false"`
	ReadyAt    *time.Time `gorm:"serializer:lap_ms"`
	LastSeenAt *time.Time `gorm:"serializer:lap_ms"`
	StoppedAt  *time.Time `gorm:"serializer:lap_ms"`
	DeletedAt  *time.Time `gorm:"serializer:lap_ms"`

	SuspendedAt *time.Time `gorm:"serializer:lap_ms"` // nil unless it is suspended, or ended so
	ExpiredAt   *time.Time `gorm:"serializer:lap_ms"` // workspace and settings are gone, or about to go; nil: kept
}

// SessionFilter narrows a list of sessions; empty fields match all.
type SessionFilter struct {
	AgentID string
	Status  string
}

// SessionPage is one part of a list of sessions. Next is nil on the last page,
// Total nil unless it was asked for.
type SessionPage struct {
	Rows  []Session
	Total *int64
	Next  *Key
}

// pinned is what a new session takes from its agent.
type pinned struct {
	Version   int32
	HarnessID string
}

// CreateSession inserts sess, pinned to the current version and harness of its
// agent, and runs fn, which may be nil, in the same transaction. Empty fields
// get their start values: ID, CreatedAt, AttemptStartedAt, Desired running,
// Status creating, SandboxState none, and IdleTimeoutMs from the agent. It
// fails with ErrAgentGone unless the agent exists and stays until the commit.
func (s *Store) CreateSession(ctx context.Context, sess *Session, fn func(tx *SessionTx) error) error {
	if !validID(sess.AgentID) {
		return fmt.Errorf("create session: %w", ErrAgentGone)
	}
	row := *sess
	if err := row.startValues(); err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	err := s.InTx(ctx, func(s *Store) error {
		if err := s.pin(ctx, &row); err != nil {
			return err
		}
		cleanText(&row)
		err := s.exec(ctx, func(db *gorm.DB) error {
			insertion, err := sessionTable().insertion([]Session{row}, "")
			if err != nil {
				return err
			}
			return s.touch(db, []statement{insertion}, Change{SessionID: row.ID})
		})
		if err != nil {
			return err
		}
		return s.work(ctx, &row, fn)
	})
	if err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	*sess = row
	return nil
}

func (sess *Session) startValues() (err error) {
	if sess.ID == "" {
		if sess.ID, err = newID(); err != nil {
			return err
		}
	}
	if !validID(sess.ID) {
		return errors.New("ill-formed session id")
	}
	for _, f := range []struct {
		field *string
		value string
	}{{&sess.Desired, "running"}, {&sess.Status, "creating"}, {&sess.SandboxState, "none"}} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	sess.Skills = append([]SkillRef{}, sess.Skills...)
	sess.CreatedAt = now()
	if sess.AttemptStartedAt.IsZero() {
		sess.AttemptStartedAt = sess.CreatedAt
	}
	sess.LastSeq = 0
	return nil
}

// pin counts the session, which locks the agent against changes and deletion
// until the commit.
func (s *Store) pin(ctx context.Context, sess *Session) error {
	var agents []pinned
	err := s.exec(ctx, func(db *gorm.DB) error {
		return db.Raw(`UPDATE agents SET session_count = session_count + 1 WHERE id = ? AND deleted_at IS NULL
			RETURNING version, harness_id`, sess.AgentID).Scan(&agents).Error
	})
	if err != nil {
		return err
	}
	if len(agents) == 0 {
		return ErrAgentGone
	}
	sess.AgentVersion, sess.HarnessID = agents[0].Version, agents[0].HarnessID
	if sess.IdleTimeoutMs != 0 {
		return nil
	}
	// A statement of its own: joined to the one above it would not see a version that was made while that waited.
	var timeout *int64
	err = s.exec(ctx, func(db *gorm.DB) error {
		return db.Raw("SELECT idle_timeout_ms FROM agent_versions WHERE agent_id = ? AND version = ?", sess.AgentID, sess.AgentVersion).
			Scan(&timeout).Error
	})
	if timeout != nil {
		sess.IdleTimeoutMs = *timeout
	}
	return err
}

// GetSession returns a session, whatever became of it.
func (s *Store) GetSession(ctx context.Context, id string) (Session, error) {
	var sess Session
	err := ErrNotFound
	if validID(id) {
		err = s.query(ctx, func(db *gorm.DB) error {
			sess, err = sessionTable().take(db, sessionTable().selected+"WHERE id = ?", []any{id})
			return err
		})
	}
	if err != nil {
		return Session{}, fmt.Errorf("get session: %w", err)
	}
	return sess, nil
}

// ListSessions returns a page of the sessions that match f, ended and deleted
// ones included.
func (s *Store) ListSessions(ctx context.Context, f SessionFilter, p PageRequest) (SessionPage, error) {
	if f.AgentID != "" && !validID(f.AgentID) {
		f.AgentID = zeroID
	}
	page := SessionPage{Rows: []Session{}}
	err := s.query(ctx, func(db *gorm.DB) error {
		matching := db.Model(&Session{})
		if f.AgentID != "" {
			matching = matching.Where("agent_id = ?", f.AgentID)
		}
		if f.Status != "" {
			matching = matching.Where("status = ?", f.Status)
		}
		matching = matching.Session(&gorm.Session{})
		if p.Total {
			page.Total = new(int64)
			if err := matching.Count(page.Total).Error; err != nil {
				return err
			}
		}
		return p.apply(matching, "sessions").Find(&page.Rows).Error
	})
	if err != nil {
		return SessionPage{}, fmt.Errorf("list sessions: %w", err)
	}
	page.Rows, page.Next = cut(page.Rows, p, func(r Session) Key { return Key{CreatedAt: r.CreatedAt, ID: r.ID} })
	return page, nil
}

// LiveSessionsOfAgent returns the ids, sorted, of the agent's sessions that are
// creating or ready.
func (s *Store) LiveSessionsOfAgent(ctx context.Context, agentID string) ([]string, error) {
	ids := []string{}
	if !validID(agentID) {
		return ids, nil
	}
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Table("sessions").Where("agent_id = ? AND status IN ('creating', 'ready')", agentID).
			Order("id").Pluck("id", &ids).Error
	})
	if err != nil {
		return nil, fmt.Errorf("list live sessions: %w", err)
	}
	return ids, nil
}

// UnsettledSessions returns the ids of all sessions the controller still has
// work for, oldest first.
func (s *Store) UnsettledSessions(ctx context.Context) ([]string, error) {
	ids := []string{}
	err := s.query(ctx, func(db *gorm.DB) error {
		return db.Table("sessions").Where("NOT settled").Order("id").Pluck("id", &ids).Error
	})
	if err != nil {
		return nil, fmt.Errorf("list unsettled sessions: %w", err)
	}
	return ids, nil
}
