package store

import (
	"strconv"
	"strings"
)

// statement is SQL with the values of its parameters.
type statement struct {
	sql  string
	args []any
}

func (st *statement) add(sql string, args ...any) {
	st.sql += sql
	st.args = append(st.args, args...)
}

const (
	// EXISTS instead of LIMIT 1 would let Postgres read all live sessions at once.
	headColumns = `a.id, a.harness_id, a.created_at, a.version, a.session_count, a.sort_key,
		(SELECT 1 FROM sessions s WHERE s.agent_id = a.id AND s.status IN ('creating', 'ready') LIMIT 1) IS NOT NULL`
	versionColumns = `, v.version, v.model, v.name, v.prompt, v.requirements, v.repo_url, v.branch, v.pfp_url, v.mcp_servers, v.allow_out,
		v.deny_out, v.skills, v.env_sealed, v.files, v.idle_timeout_ms, v.created_at`

	// currentUnlessWide leaves out large configurations, which are read when it is their turn.
	currentUnlessWide = ` LEFT JOIN agent_versions v ON v.agent_id = a.id AND v.version = a.version AND
		COALESCE(octet_length(v.prompt), 0) + COALESCE(octet_length(v.requirements), 0) + COALESCE(octet_length(v.env_sealed), 0) <= 65536`
)

// page selects a page and one row more. The page is cut before the wide rows
// of the versions are looked up. Its length stands in the text: a plan for any
// length would sort.
func (q AgentQuery) page(p PageRequest) statement {
	direction, beyond := " DESC", " < "
	if q.Asc {
		direction, beyond = " ASC", " > "
	}
	order := func(column string) string {
		if q.Sort == ByHarness && q.HarnessID != "" {
			return " ORDER BY a.id" + direction // Postgres would sort by what is constant
		}
		return " ORDER BY " + column + direction + ", a.id" + direction
	}
	var st statement
	columns, join := headColumns, ""
	if !q.Heads {
		columns, join = headColumns+versionColumns, currentUnlessWide
	}
	st.add("SELECT " + columns + " FROM (SELECT a.id, a.version, a.harness_id, a.created_at, a.session_count, " +
		q.column() + " AS sort_key FROM agents a WHERE ")
	q.where(&st)
	if p.After != nil {
		id := p.After.ID
		if !validID(id) {
			id = zeroID
		}
		st.add(" AND ("+q.column()+", a.id)"+beyond+"(?, ?)", q.after(*p.After), id)
		if q.Sort == ByHarness && p.After.Value == q.HarnessID {
			st.add(" AND a.id"+beyond+"?", id) // says nothing new, but SQLite seeks by it
		}
	}
	st.add(order(q.column()) + " LIMIT " + strconv.Itoa(p.limit()+1))
	if p.Offset > 0 {
		st.add(" OFFSET " + strconv.Itoa(p.Offset))
	}
	st.add(") a" + join + order("a.sort_key"))
	return st
}

func (q AgentQuery) count() statement {
	var st statement
	st.add("SELECT count(*) FROM agents a WHERE ")
	q.where(&st)
	return st
}

func (q AgentQuery) where(st *statement) {
	st.add("a.deleted_at IS NULL")
	if q.HarnessID != "" {
		st.add(" AND a.harness_id = ?", q.HarnessID)
	}
	if q.Search != "" {
		text := "%" + likeEscapes.Replace(fold(q.Search)) + "%"
		st.add(` AND (a.name_up LIKE ? ESCAPE '\' OR CAST(a.id AS text) LIKE ? ESCAPE '\' OR a.harness_id LIKE ? ESCAPE '\')`,
			"1"+text, text, text) // the 1 is what the keys of names begin with
	}
}

var likeEscapes = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
