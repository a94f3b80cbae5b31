package store_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/litellm-agent-platform/lap/store"
	"github.com/litellm-agent-platform/lap/store/storetest"
)

// fillAgents inserts rows enough for a planner to prefer an index.
var fillAgents = map[string]string{
	storetest.KindSQLite: `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
		INSERT INTO agents (id, version, harness_id, name_up, name_down, session_count, created_at, updated_at)
		SELECT printf('%08x-0000-7000-8000-000000000000', i), 1, CASE i % 4 WHEN 0 THEN 'codex' ELSE 'opencode' END,
			'1' || i % 1000, '1' || i % 1000, i % 50, i, i FROM n`,
	storetest.KindPostgres: `INSERT INTO agents (id, version, harness_id, name_up, name_down, session_count, created_at, updated_at)
		SELECT (lpad(to_hex(i), 8, '0') || '-0000-7000-8000-000000000000')::uuid, 1, CASE i % 4 WHEN 0 THEN 'codex' ELSE 'opencode' END,
			'1' || i % 1000, '1' || i % 1000, i % 50, i, i FROM generate_series(1, 20000) i`,
}

func TestAPageOfAgentsIsReadFromAnIndexInItsOrder(t *testing.T) {
	t.Parallel()
	storetest.EachKind(t, func(t *testing.T, kind string) {
		db := storetest.Options(t, kind)
		db.Timeout = 2 * time.Minute // the rows are many for the race detector
		s := storetest.OpenWith(t, db)
		for _, sql := range []string{
			fillAgents[kind],
			`INSERT INTO agent_versions (agent_id, version, model, prompt, mcp_servers, allow_out, deny_out, skills, files, created_at)
			SELECT id, 1, 'm', '` + strings.Repeat("p", 500) + `', '[]', '[]', '[]', '[]', '[]', created_at FROM agents`,
			`INSERT INTO sessions (id, agent_id, agent_version, harness_id, desired, status, sandbox_state, attempt, sandbox_id, key_id,
				attempt_started_at, log_n, turn_count, last_seq, skills, idle_timeout_ms, has_settings, settled, created_at)
			SELECT id, id, 1, 'codex', 'running', 'ready', '', 1, '', '', 1, 0, 0, 0, '[]', 1, false, false, 1 FROM agents`,
			"ANALYZE",
		} {
			check(t, store.Exec(t, s, sql))
		}
		for _, q := range everyOrder() {
			page, err := s.ListAgents(t.Context(), q, store.PageRequest{Limit: 200})
			check(t, err)
			if len(page.Rows) != 200 || page.Next == nil {
				t.Fatalf("%+v: %d rows", q, len(page.Rows))
			}
			for _, p := range []store.PageRequest{{}, {After: page.Next}} {
				plan := store.ExplainAgents(t, s, q, p)
				if strings.Contains(plan, "Sort") || strings.Contains(plan, "TEMP B-TREE") || strings.Contains(plan, "Seq Scan") {
					t.Errorf("%+v is not read in order:\n%s", q, plan)
				}
				if p.After != nil && !sought.MatchString(plan) {
					t.Errorf("%+v is read from its start up to the key:\n%s", q, plan)
				}
			}
		}
	})
}

// sought matches a plan that enters an index at a key.
var sought = regexp.MustCompile(`Index Cond: .*(ROW\(|\bid [<>])|\)[<>]\(\?,\?\)|\bid[<>]\?`)

// everyOrder is each order of the list of agents, without and with a harness.
func everyOrder() (list []store.AgentQuery) {
	for _, sort := range []store.AgentSort{store.ByCreated, store.ByName, store.ByHarness, store.BySessions} {
		for _, harness := range []string{"", "codex"} {
			list = append(list, store.AgentQuery{Sort: sort, HarnessID: harness}, store.AgentQuery{Sort: sort, HarnessID: harness, Asc: true})
		}
	}
	return list
}
