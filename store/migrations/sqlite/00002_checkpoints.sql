-- +goose Up
-- The state of a session's harness, where the workspace goes with its sandbox. At most one for each session.
CREATE TABLE checkpoints (
    session_id   TEXT    PRIMARY KEY REFERENCES sessions (id),
    attempt      INTEGER NOT NULL,
    number       INTEGER NOT NULL, -- within the attempt
    mark         TEXT    NOT NULL,
    conversation TEXT    NOT NULL,
    covers       INTEGER NOT NULL, -- position of the last turn that is in it
    created_at   INTEGER NOT NULL,
    sealed       BLOB    NOT NULL
);

-- +goose Down
DROP TABLE checkpoints;
