-- +goose Up
-- The state of a session's harness, where the workspace goes with its sandbox. At most one for each session.
CREATE TABLE checkpoints (
    session_id   uuid    PRIMARY KEY REFERENCES sessions (id),
    attempt      integer NOT NULL,
    number       bigint  NOT NULL, -- within the attempt
    mark         text    NOT NULL,
    conversation text    NOT NULL,
    covers       bigint  NOT NULL, -- position of the last turn that is in it
    sealed       bytea   NOT NULL,
    created_at   bigint  NOT NULL
);
-- It is compressed already.
ALTER TABLE checkpoints ALTER COLUMN sealed SET STORAGE EXTERNAL;

-- +goose Down
DROP TABLE checkpoints;
