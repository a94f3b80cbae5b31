-- Times are unix milliseconds, truth values 0 or 1; lists and objects are JSON text.

-- +goose Up
CREATE TABLE agents (
    id            TEXT    PRIMARY KEY,
    version       INTEGER NOT NULL,
    harness_id    TEXT NOT NULL,
    name_up       TEXT NOT NULL, -- name of the current version, case-folded, in the form it is sorted by
    name_down     TEXT NOT NULL, -- the same for the other direction: agents without a name come last in both
    session_count INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    deleted_at    INTEGER
);
-- One index for each order of the list, without and with a harness.
CREATE INDEX agents_by_created         ON agents (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_by_name            ON agents (name_up, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_by_name_down       ON agents (name_down, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_by_harness         ON agents (harness_id, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_by_sessions        ON agents (session_count, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_harness_created    ON agents (harness_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_harness_name       ON agents (harness_id, name_up, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_harness_name_down  ON agents (harness_id, name_down, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_harness_sessions   ON agents (harness_id, session_count, id) WHERE deleted_at IS NULL;
CREATE INDEX agents_deleted          ON agents (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE agent_versions (
    agent_id           TEXT    NOT NULL REFERENCES agents (id),
    version            INTEGER NOT NULL,
    model              TEXT    NOT NULL,
    name               TEXT,
    prompt             TEXT,
    requirements       TEXT,
    repo_url           TEXT,
    branch             TEXT,
    pfp_url            TEXT,
    mcp_servers        TEXT    NOT NULL,
    allow_out          TEXT    NOT NULL,
    deny_out           TEXT    NOT NULL,
    skills             TEXT    NOT NULL, -- attached ones: id, name, description
    env_sealed         BLOB,
    files              TEXT    NOT NULL,
    idle_timeout_ms    INTEGER,
    created_at         INTEGER NOT NULL,
    PRIMARY KEY (agent_id, version)
);

CREATE TABLE files (
    sha256             TEXT    PRIMARY KEY,
    content            BLOB    NOT NULL
);

-- Skills that are not in the library live only in the prompt they were written into.
CREATE TABLE skills (
    id         TEXT    PRIMARY KEY,
    version    INTEGER NOT NULL,
    library    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER
);
CREATE INDEX skills_newest ON skills (created_at DESC, id DESC) WHERE deleted_at IS NULL AND library;

CREATE TABLE skill_versions (
    skill_id    TEXT    NOT NULL REFERENCES skills (id),
    version     INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    description TEXT,
    content     TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (skill_id, version)
);

CREATE TABLE sessions (
    id                 TEXT    PRIMARY KEY,
    agent_id           TEXT    NOT NULL,
    agent_version      INTEGER NOT NULL,
    harness_id         TEXT    NOT NULL,
    title              TEXT,
    title_preview      TEXT,
    desired            TEXT    NOT NULL CHECK (desired IN ('running', 'suspended', 'stopped', 'deleted')),
    status             TEXT    NOT NULL CHECK (status IN ('creating', 'ready', 'failed', 'dead')),
    sandbox_state      TEXT    NOT NULL,
    phase              TEXT,
    phase_detail       TEXT,
    attempt            INTEGER NOT NULL,
    sandbox_id         TEXT    NOT NULL,
    key_id             TEXT    NOT NULL,
    attempt_started_at INTEGER NOT NULL,
    log_n              INTEGER NOT NULL,
    harness_session_id TEXT,
    response           TEXT,
    failure_reason     TEXT,
    turn_count         INTEGER NOT NULL,
    last_seq           INTEGER NOT NULL,
    skills             TEXT    NOT NULL, -- of this session only: id and version
    idle_timeout_ms    INTEGER NOT NULL,
    has_settings       INTEGER NOT NULL,
    settled            INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    ready_at           INTEGER,
    last_seen_at       INTEGER,
    stopped_at         INTEGER,
    suspended_at       INTEGER, -- since when it has been suspended
    expired_at         INTEGER, -- since when its workspace and settings are to be gone
    deleted_at         INTEGER,
    FOREIGN KEY (agent_id, agent_version) REFERENCES agent_versions (agent_id, version)
);
CREATE INDEX sessions_newest ON sessions (created_at DESC, id DESC);
CREATE INDEX sessions_of_agent ON sessions (agent_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_status ON sessions (status, created_at DESC, id DESC);
CREATE INDEX sessions_live ON sessions (agent_id) WHERE status IN ('creating', 'ready');
CREATE INDEX sessions_unsettled ON sessions (id) WHERE NOT settled;
CREATE INDEX sessions_placed ON sessions (id) WHERE status IN ('creating', 'ready') AND desired = 'running';
CREATE INDEX sessions_kept ON sessions (COALESCE(stopped_at, suspended_at)) WHERE expired_at IS NULL AND desired <> 'deleted';
CREATE INDEX sessions_ended ON sessions (stopped_at) WHERE stopped_at IS NOT NULL;

CREATE TABLE turns (
    id                 TEXT    PRIMARY KEY,
    session_id         TEXT    NOT NULL REFERENCES sessions (id),
    position           INTEGER NOT NULL,
    status             TEXT    NOT NULL CHECK (status IN ('queued', 'handed', 'completed', 'failed', 'aborted')),
    attempt            INTEGER NOT NULL,
    abort              INTEGER NOT NULL,
    after_seq          INTEGER NOT NULL, -- its events have a greater seq
    idem_key           TEXT,
    body_digest        BLOB,
    input              TEXT,
    result             TEXT,
    error_name         TEXT,
    error_message      TEXT,
    model              TEXT,
    created_at         INTEGER NOT NULL,
    handed_at          INTEGER,
    ended_at           INTEGER,
    UNIQUE (session_id, position),
    UNIQUE (session_id, idem_key)
);
CREATE INDEX turns_open ON turns (session_id, position) WHERE status IN ('queued', 'handed');

-- Rows are only written together with their session's row.
CREATE TABLE events (
    session_id         TEXT    NOT NULL,
    seq                INTEGER NOT NULL,
    type               TEXT    NOT NULL,
    turn_id            TEXT,
    time               INTEGER NOT NULL,
    data               TEXT    NOT NULL,
    attempt            INTEGER NOT NULL,
    n                  INTEGER NOT NULL,
    PRIMARY KEY (session_id, seq)
);
CREATE UNIQUE INDEX events_source ON events (session_id, attempt, n) WHERE n > 0;

-- Answers to requests that had an Idempotency-Key. scope is method and path.
CREATE TABLE answers (
    scope      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    digest     BLOB   NOT NULL, -- of the request's body, keyed
    status     INTEGER NOT NULL,
    header     TEXT    NOT NULL, -- JSON
    body       BLOB   NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX answers_oldest ON answers (created_at);

CREATE TABLE leadership (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    epoch              INTEGER NOT NULL
);
INSERT INTO leadership (id, epoch) VALUES (1, 0);

-- +goose Down
DROP TABLE leadership;
DROP TABLE answers;
DROP TABLE events;
DROP TABLE turns;
DROP TABLE sessions;
DROP TABLE skill_versions;
DROP TABLE skills;
DROP TABLE files;
DROP TABLE agent_versions;
DROP TABLE agents;
