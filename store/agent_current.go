package store

import (
	"context"
	"fmt"
	"sync"

	"gorm.io/gorm"
)

// askedAtOnce bounds the agents that one query asks for.
const askedAtOnce = 64

// currents asks for the versions of many agents at once. While one query is under way those who ask wait, and the next query asks
// for all of them: each is answered by a query that began after it asked, as if it had sent its own.
type currents struct {
	mu      sync.Mutex
	running bool
	waiting []*question
}

type question struct {
	id       string
	answered chan struct{} // closed when the fields below are set
	version  int32         // 0: there is no such agent
	err      error
}

// CurrentVersion returns the number of the current version of an agent that is
// not deleted.
func (s *Store) CurrentVersion(ctx context.Context, id string) (int32, error) {
	if !validID(id) {
		return 0, fmt.Errorf("get version of agent: %w", ErrNotFound)
	}
	q := &question{id: id, answered: make(chan struct{})}
	if s.unit != nil || s.onceOf(ctx) != nil {
		s.answer(ctx, []*question{q})
	} else {
		s.ask(q)
	}
	select {
	case <-q.answered:
	case <-ctx.Done():
		return 0, fmt.Errorf("get version of agent: %w", context.Cause(ctx))
	}
	if q.err == nil && q.version == 0 {
		q.err = ErrNotFound
	}
	if q.err != nil {
		return 0, fmt.Errorf("get version of agent: %w", q.err)
	}
	return q.version, nil
}

// ask has a question answered by the goroutine that asks for all, which lives while somebody waits.
func (s *Store) ask(q *question) {
	c := &s.asked
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, q)
	if c.running {
		return
	}
	c.running = true
	go func() {
		for {
			c.mu.Lock()
			n := min(len(c.waiting), askedAtOnce)
			now := c.waiting[:n:n]
			c.waiting = c.waiting[n:]
			c.running = n > 0
			c.mu.Unlock()
			if n == 0 {
				return
			}
			s.answer(context.Background(), now)
		}
	}()
}

func (s *Store) answer(ctx context.Context, qs []*question) {
	ids := make([]string, len(qs))
	for i, q := range qs {
		ids[i] = q.id
	}
	versions := make(map[string]int32, len(qs))
	err := s.query(ctx, func(db *gorm.DB) error {
		rows, err := db.Raw("SELECT id, version FROM agents WHERE id IN ? AND deleted_at IS NULL", ids).Rows()
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var version int32
			if err := rows.Scan(&id, &version); err != nil {
				return err
			}
			versions[id] = version
		}
		return rows.Err()
	})
	for _, q := range qs {
		q.version, q.err = versions[q.id], err
		close(q.answered)
	}
}
