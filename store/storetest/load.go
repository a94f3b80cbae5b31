package storetest

import (
	"database/sql"
	"net/url"
	"strings"
	"testing"

	"github.com/libtnb/sqlite"
)

// sentence makes up the prompts of loaded agents: 1.5 KB, which with the rest is 2 KB a row.
const sentence = "Read the failing test first, say what it expects and why, then change as little as makes it pass. "

// LoadAgents replaces all agents of a database by n, one second apart, the last one in 2025. No server may use it.
// It writes past the store, which would take minutes for a million.
func LoadAgents(t testing.TB, kind, dsn string, n int) {
	t.Helper()
	prompt := strings.Repeat(sentence, 1500/len(sentence))
	driver, statements := "pgx", loadPostgres(n, prompt)
	if kind == KindSQLite {
		u := url.URL{Scheme: "file", Path: dsn, OmitHost: true, RawQuery: "_pragma=synchronous(0)&_pragma=cache_size(-200000)"}
		driver, dsn, statements = sqlite.DriverName, u.String(), loadSQLite(n, prompt)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s.sql, s.args...); err != nil {
			t.Fatalf("load agents: %v", err)
		}
	}
}

// loading is a statement with the values of its parameters.
type loading struct {
	sql  string
	args []any
}

func loadPostgres(n int, prompt string) []loading {
	return []loading{
		{sql: "TRUNCATE agents, agent_versions, sessions, turns, events, answers, checkpoints"},
		{args: []any{n}, sql: `INSERT INTO agents (id, version, harness_id, name_up, name_down, session_count, created_at, updated_at)
		SELECT (lpad(to_hex(at), 12, '0') || '7' || lpad(to_hex(i % 4096), 3, '0') || '8' || lpad(to_hex(i), 15, '0'))::uuid, 1,
			(ARRAY['opencode', 'claude-agent-sdk', 'claude-code', 'codex'])[1 + i % 4],
			'1agent ' || (i * 7919 % 1000003), '1agent ' || (i * 7919 % 1000003), i % 5, at, at
		FROM (SELECT i, 1760000000000 - ($1::bigint - i) * 1000 AS at FROM generate_series(1, $1::bigint) i) n`},
		{args: []any{prompt}, sql: `INSERT INTO agent_versions (agent_id, version, model, name, prompt, repo_url, mcp_servers, allow_out, deny_out, skills, files, created_at)
		SELECT id, 1, 'anthropic/claude-sonnet-4-5', 'Agent ' || substr(name_up, 8), $1::text || id, 'https://github.com/example/service.git',
			'["docs=https://mcp.example.com/docs", "https://mcp.example.com/tickets"]', '["*.example.com", "registry.npmjs.org"]',
			'["internal.example.com"]', '[]', '[]', created_at
		FROM agents`},
		{sql: "ANALYZE"},
		{sql: "CHECKPOINT"},
	}
}

func loadSQLite(n int, prompt string) []loading {
	return []loading{
		{sql: "DELETE FROM agent_versions"},
		{sql: "DELETE FROM agents"},
		{args: []any{n, n}, sql: `WITH RECURSIVE n(i, at) AS (SELECT 1, 1760000000000 - (? - 1) * 1000 UNION ALL SELECT i + 1, at + 1000 FROM n WHERE i < ?)
		INSERT INTO agents (id, version, harness_id, name_up, name_down, session_count, created_at, updated_at)
		SELECT printf('%08x-%04x-7%03x-8%03x-%012x', at >> 16, at & 65535, i % 4096, i >> 48, i), 1,
			CASE i % 4 WHEN 0 THEN 'opencode' WHEN 1 THEN 'claude-agent-sdk' WHEN 2 THEN 'claude-code' ELSE 'codex' END,
			'1agent ' || (i * 7919 % 1000003), '1agent ' || (i * 7919 % 1000003), i % 5, at, at
		FROM n`},
		{args: []any{prompt}, sql: `INSERT INTO agent_versions (agent_id, version, model, name, prompt, repo_url, mcp_servers, allow_out, deny_out, skills, files, created_at)
		SELECT id, 1, 'anthropic/claude-sonnet-4-5', 'Agent ' || substr(name_up, 8), ? || id, 'https://github.com/example/service.git',
			'["docs=https://mcp.example.com/docs", "https://mcp.example.com/tickets"]', '["*.example.com", "registry.npmjs.org"]',
			'["internal.example.com"]', '[]', '[]', created_at
		FROM agents`},
		{sql: "ANALYZE"},
		{sql: "PRAGMA wal_checkpoint(TRUNCATE)"},
	}
}
