-- Times are unix milliseconds. Text that must come back byte for byte is json, not jsonb.

-- +goose Up
CREATE TABLE agents (
    id            uuid    PRIMARY KEY,
    version       integer NOT NULL,
    harness_id    text COLLATE "C" NOT NULL,
    name_up       text COLLATE "C" NOT NULL, -- name of the current version, case-folded, in the form it is sorted by
    name_down     text COLLATE "C" NOT NULL, -- the same for the other direction: agents without a name come last in both
    session_count bigint NOT NULL,
    created_at    bigint NOT NULL,
    updated_at    bigint NOT NULL,
    deleted_at    bigint
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
    agent_id           uuid    NOT NULL REFERENCES agents (id),
    version            integer NOT NULL,
    model              text    NOT NULL,
    name               text,
    prompt             text,
    requirements       text,
    repo_url           text,
    branch             text,
    pfp_url            text,
    mcp_servers        jsonb   NOT NULL,
    allow_out          jsonb   NOT NULL,
    deny_out           jsonb   NOT NULL,
    skills             jsonb   NOT NULL, -- attached ones: id, name, description
    env_sealed         bytea,
    files              jsonb   NOT NULL,
    idle_timeout_ms    bigint,
    created_at         bigint  NOT NULL,
    PRIMARY KEY (agent_id, version)
);

CREATE TABLE files (
    sha256  text  PRIMARY KEY,
    content bytea NOT NULL
);
-- Most files are compressed already: trying again only costs time.
ALTER TABLE files ALTER COLUMN content SET STORAGE EXTERNAL;

-- Skills that are not in the library live only in the prompt they were written into.
CREATE TABLE skills (
    id         uuid    PRIMARY KEY,
    version    integer NOT NULL,
    library    boolean NOT NULL,
    created_at bigint NOT NULL,
    deleted_at bigint
);
CREATE INDEX skills_newest ON skills (created_at DESC, id DESC) WHERE deleted_at IS NULL AND library;

CREATE TABLE skill_versions (
    skill_id    uuid    NOT NULL REFERENCES skills (id),
    version     integer NOT NULL,
    name        text    NOT NULL,
    description text,
    content     text    NOT NULL,
    created_at  bigint NOT NULL,
    PRIMARY KEY (skill_id, version)
);

CREATE TABLE sessions (
    id                 uuid    PRIMARY KEY,
    agent_id           uuid    NOT NULL,
    agent_version      integer NOT NULL,
    harness_id         text    NOT NULL,
    title              text,
    title_preview      text,
    desired            text    NOT NULL CHECK (desired IN ('running', 'suspended', 'stopped', 'deleted')),
    status             text    NOT NULL CHECK (status IN ('creating', 'ready', 'failed', 'dead')),
    sandbox_state      text    NOT NULL,
    phase              text,
    phase_detail       text,
    attempt            integer NOT NULL,
    sandbox_id         text    NOT NULL,
    key_id             text    NOT NULL,
    attempt_started_at bigint  NOT NULL,
    log_n              bigint  NOT NULL,
    harness_session_id text,
    response           text,
    failure_reason     text,
    turn_count         bigint  NOT NULL,
    last_seq           bigint  NOT NULL,
    skills             jsonb   NOT NULL, -- of this session only: id and version
    idle_timeout_ms    bigint  NOT NULL,
    has_settings       boolean NOT NULL,
    settled            boolean NOT NULL,
    created_at         bigint  NOT NULL,
    ready_at           bigint,
    last_seen_at       bigint,
    stopped_at         bigint,
    suspended_at       bigint, -- since when it has been suspended
    expired_at         bigint, -- since when its workspace and settings are to be gone
    deleted_at         bigint,
    FOREIGN KEY (agent_id, agent_version) REFERENCES agent_versions (agent_id, version)
) WITH (fillfactor = 80); -- room for the new versions of rows that each event updates
CREATE INDEX sessions_newest ON sessions (created_at DESC, id DESC);
CREATE INDEX sessions_of_agent ON sessions (agent_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_status ON sessions (status, created_at DESC, id DESC);
CREATE INDEX sessions_live ON sessions (agent_id) WHERE status IN ('creating', 'ready');
CREATE INDEX sessions_unsettled ON sessions (id) WHERE NOT settled;
CREATE INDEX sessions_placed ON sessions (id) WHERE status IN ('creating', 'ready') AND desired = 'running';
CREATE INDEX sessions_kept ON sessions (COALESCE(stopped_at, suspended_at)) WHERE expired_at IS NULL AND desired <> 'deleted';
CREATE INDEX sessions_ended ON sessions (stopped_at) WHERE stopped_at IS NOT NULL;

CREATE TABLE turns (
    id            uuid    PRIMARY KEY,
    session_id    uuid    NOT NULL REFERENCES sessions (id),
    position      bigint  NOT NULL,
    status        text    NOT NULL CHECK (status IN ('queued', 'handed', 'completed', 'failed', 'aborted')),
    attempt       integer NOT NULL,
    abort         boolean NOT NULL,
    after_seq     bigint  NOT NULL, -- its events have a greater seq
    idem_key      text,
    body_digest   bytea,
    input         json,
    result        json,
    error_name    text,
    error_message text,
    model         text,
    created_at    bigint  NOT NULL,
    handed_at     bigint,
    ended_at      bigint,
    UNIQUE (session_id, position),
    UNIQUE (session_id, idem_key)
);
CREATE INDEX turns_open ON turns (session_id, position) WHERE status IN ('queued', 'handed');

-- Rows are only written under the lock of their session's row, so a foreign
-- key would check for nothing what is known already.
CREATE TABLE events (
    session_id uuid    NOT NULL,
    seq        bigint  NOT NULL,
    type       text    NOT NULL,
    turn_id    uuid,
    time       bigint  NOT NULL,
    data       json    NOT NULL,
    attempt    integer NOT NULL,
    n          bigint  NOT NULL,
    PRIMARY KEY (session_id, seq)
);
CREATE UNIQUE INDEX events_source ON events (session_id, attempt, n) WHERE n > 0;

-- Answers to requests that had an Idempotency-Key. scope is method and path.
CREATE TABLE answers (
    scope      text    NOT NULL,
    key        text    NOT NULL,
    digest     bytea   NOT NULL, -- of the request's body, keyed
    status     integer NOT NULL,
    header     text    NOT NULL, -- JSON
    body       bytea   NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX answers_oldest ON answers (created_at);

CREATE TABLE leadership (
    id    integer PRIMARY KEY CHECK (id = 1),
    epoch bigint  NOT NULL
);
INSERT INTO leadership (id, epoch) VALUES (1, 0);

-- +goose Down
DROP TABLE leadership, answers, events, turns, sessions, skill_versions, skills, files, agent_versions, agents;
