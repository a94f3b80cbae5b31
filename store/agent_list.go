package store

import (
	"context"
	"fmt"

	"gorm.io/gorm"
)

// AgentPage is one part of the list of agents. Next is nil on the last page,
// Total nil unless it was asked for.
type AgentPage struct {
	Rows  []AgentRow
	Total *int64
	Next  *Key
}

// AgentRow is an agent in a list. HasActive: one of its sessions is creating or
// ready.
type AgentRow struct {
	Agent
	SessionCount int64
	HasActive    bool
}

// EXISTS instead of LIMIT 1 would let Postgres read all live sessions at once.
const listedColumns = joinedColumns + `,
	(SELECT count(*) FROM sessions s WHERE s.agent_id = a.id) AS session_count,
	(SELECT 1 FROM sessions s WHERE s.agent_id = a.id AND s.status IN ('creating', 'ready') LIMIT 1) IS NOT NULL AS has_active`

// ListAgents returns a page of the agents that are not deleted. Its cost does
// not grow with their number, except for the total and the offset.
func (s *Store) ListAgents(ctx context.Context, p PageRequest) (AgentPage, error) {
	var page AgentPage
	var rows []joinedRow
	err := s.query(ctx, func(db *gorm.DB) error {
		list := db.Table("agents a").Select(listedColumns).
			Joins("JOIN agent_versions v ON v.agent_id = a.id AND v.version = a.version").
			Where("a.deleted_at IS NULL")
		if err := p.apply(list, "a").Find(&rows).Error; err != nil || !p.Total {
			return err
		}
		page.Total = new(int64)
		return db.Table("agents").Where("deleted_at IS NULL").Count(page.Total).Error
	})
	if err != nil {
		return AgentPage{}, fmt.Errorf("list agents: %w", err)
	}
	rows, page.Next = cut(rows, p, func(r joinedRow) Key { return Key{CreatedAt: fromMillis(r.AgentCreatedAt), ID: r.Version.AgentID} })
	page.Rows = make([]AgentRow, 0, len(rows))
	for _, row := range rows {
		a, err := s.agent(row)
		if err != nil {
			return AgentPage{}, fmt.Errorf("list agents: %w", err)
		}
		page.Rows = append(page.Rows, AgentRow{Agent: a, SessionCount: row.SessionCount, HasActive: row.HasActive})
	}
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
