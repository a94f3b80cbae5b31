package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"gorm.io/gorm"
)

// AgentPage is one part of the list of agents. Next is nil on the last page,
// Total nil unless it was asked for.
type AgentPage struct {
	Rows  []AgentRow
	Total *int64
	Next  *Key
}

// AgentRow is an agent in a list. SessionCount is the number of sessions ever
// created. HasActive: one of its sessions is creating or ready. Wide: its
// configuration takes more than 64 KiB, or is beyond the 8 MiB of a page, or
// only heads were asked for; of Agent only ID, Version, HarnessID and CreatedAt
// are set, and GetAgentVersion has the rest, which never changes.
type AgentRow struct {
	Agent
	SessionCount int64
	HasActive    bool
	Wide         bool
}

// listedRow is what headColumns and versionColumns are read to.
type listedRow struct {
	joinedRow
	version      int32
	sessionCount int64
	sortKey      string
	hasActive    bool
}

func (r *listedRow) scan(rows *sql.Rows, heads bool) error {
	head := []any{&r.Version.AgentID, &r.HarnessID, &r.AgentCreatedAt, &r.version, &r.sessionCount, &r.sortKey, &r.hasActive}
	if heads {
		return rows.Scan(head...)
	}
	columns := r.Version.columns()
	for i, c := range columns {
		switch c := c.(type) { // a wide row has no version
		case *string:
			columns[i] = orZero[string]{c}
		case *int32:
			columns[i] = orZero[int32]{c}
		case *int64:
			columns[i] = orZero[int64]{c}
		}
	}
	return rows.Scan(append(head, columns...)...)
}

// orZero reads NULL as zero.
type orZero[T any] struct{ to *T }

func (o orZero[T]) Scan(v any) error {
	var n sql.Null[T]
	err := n.Scan(v)
	*o.to = n.V
	return err
}

func (s *Store) listed(row listedRow) (AgentRow, error) {
	listed := AgentRow{SessionCount: row.sessionCount, HasActive: row.hasActive, Wide: row.Version.Version == 0}
	if listed.Wide {
		listed.Agent = Agent{ID: row.Version.AgentID, Version: row.version, HarnessID: row.HarnessID, CreatedAt: fromMillis(row.AgentCreatedAt)}
		return listed, nil
	}
	var err error
	listed.Agent, err = s.agent(row.joinedRow)
	return listed, err
}

// ListAgents returns a page of the agents that are not deleted and match q. Its
// cost does not grow with their number, except for the total, the offset and a
// search. p.After must satisfy q.Holds.
func (s *Store) ListAgents(ctx context.Context, q AgentQuery, p PageRequest) (AgentPage, error) {
	if p.After != nil && !q.Holds(*p.After) {
		return AgentPage{}, errors.New("list agents: the key is not of this order")
	}
	var page AgentPage
	var rows []listedRow
	err := s.query(ctx, func(db *gorm.DB) (err error) {
		if rows, err = q.read(db, p); err != nil || !p.Total {
			return err
		}
		page.Total = new(int64)
		count := q.count()
		return db.Raw(count.sql, count.args...).Scan(page.Total).Error
	})
	if err != nil {
		return AgentPage{}, fmt.Errorf("list agents: %w", err)
	}
	rows, page.Next = cut(rows, p, q.keyOf)
	page.Rows = make([]AgentRow, 0, len(rows))
	for _, row := range rows {
		listed, err := s.listed(row)
		if err != nil {
			return AgentPage{}, fmt.Errorf("list agents: %w", err)
		}
		page.Rows = append(page.Rows, listed)
	}
	return page, nil
}

const pageBytes = 8 << 20 // of configurations, the rest of the rows are wide

func (v *versionRow) size() int {
	n := len(v.EnvSealed) + len(v.McpServers) + len(v.AllowOut) + len(v.DenyOut) + len(v.Skills) + len(v.Files)
	for _, text := range []*string{v.Prompt, v.Requirements} {
		if text != nil {
			n += len(*text)
		}
	}
	return n
}

func (q AgentQuery) read(db *gorm.DB, p PageRequest) ([]listedRow, error) {
	page := q.page(p)
	rows, err := db.Raw(page.sql, page.args...).Rows()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	kept := 0
	list := make([]listedRow, 0, min(p.limit()+1, 256))
	for rows.Next() {
		var row listedRow
		if err := row.scan(rows, q.Heads); err != nil {
			return nil, err
		}
		if kept += row.Version.size(); kept > pageBytes {
			row.Version = versionRow{AgentID: row.Version.AgentID}
		}
		list = append(list, row)
	}
	return list, rows.Err()
}

// AgentSort is what agents are sorted by; ties by id.
type AgentSort string

// The ways to sort agents. Names compare case-folded; agents without a name
// come last, up and down.
const (
	ByCreated  AgentSort = "created_at"
	ByName     AgentSort = "name"
	ByHarness  AgentSort = "harness_id"
	BySessions AgentSort = "sessions" // number of sessions ever created
)

// AgentQuery says which agents are listed, and in what order. The zero value is
// all of them, newest first.
type AgentQuery struct {
	Sort AgentSort // empty: ByCreated
	Asc  bool
	// Search matches agents with this text, in any case, in name, id or harness
	// id. Valid UTF-8 without NUL; empty matches all.
	Search    string
	HarnessID string // empty: any
	// Heads leaves out configurations, which makes the list cheap.
	Heads bool
}

// newest: the order of all other lists too.
func (q AgentQuery) newest() bool { return q.byCreated() && !q.Asc }

func (q AgentQuery) byCreated() bool { return q.Sort == "" || q.Sort == ByCreated }

// order names the order in keys.
func (q AgentQuery) order() string {
	switch {
	case q.newest():
		return ""
	case q.byCreated():
		return "created_at asc"
	case q.Asc:
		return string(q.Sort) + " asc"
	}
	return string(q.Sort) + " desc"
}

// Holds reports whether k is a position in this order.
func (q AgentQuery) Holds(k Key) bool {
	_, err := strconv.ParseInt(k.Value, 10, 64)
	switch {
	case k.Order != q.order() || strings.Contains(k.Value, "\x00"):
		return false
	case q.byCreated():
		return k.Value == ""
	}
	return q.Sort != BySessions || err == nil
}

// column is what is sorted by.
func (q AgentQuery) column() string {
	switch {
	case q.Sort == ByName && q.Asc:
		return "a.name_up"
	case q.Sort == ByName:
		return "a.name_down"
	case q.Sort == ByHarness:
		return "a.harness_id"
	case q.Sort == BySessions:
		return "a.session_count"
	}
	return "a.created_at"
}

func (q AgentQuery) keyOf(row listedRow) Key {
	k := Key{Order: q.order(), CreatedAt: fromMillis(row.AgentCreatedAt), ID: row.Version.AgentID}
	if !q.byCreated() {
		k.Value = row.sortKey
	}
	return k
}

// after is the value of column at k, as the database compares it.
func (q AgentQuery) after(k Key) any {
	switch {
	case q.byCreated():
		return toMillis(k.CreatedAt)
	case q.Sort == BySessions:
		n, _ := strconv.ParseInt(k.Value, 10, 64) // Holds has looked
		return n
	}
	return k.Value
}
