-- What both baselines keep in PostgreSQL, and the chunks of the one that keeps them there.

CREATE TABLE conversations (
    id         uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE messages (
    id              uuid PRIMARY KEY,
    conversation_id uuid NOT NULL REFERENCES conversations,
    position        bigint GENERATED ALWAYS AS IDENTITY,
    role            text NOT NULL,
    content         text NOT NULL DEFAULT '',
    finish_reason   text,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX messages_of_conversation ON messages (conversation_id, position);

CREATE TABLE tasks (
    id              uuid PRIMARY KEY,
    conversation_id uuid NOT NULL REFERENCES conversations,
    message_id      uuid NOT NULL REFERENCES messages,
    status          text NOT NULL DEFAULT 'queued',
    created_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz
);
-- Jobs are looked for in here.
CREATE INDEX tasks_queued ON tasks (created_at) WHERE status = 'queued';

-- Database only. No foreign key: it would cost each chunk a lock on its task.
CREATE TABLE chunks (
    task_id uuid NOT NULL,
    seq     bigint NOT NULL,
    event   text NOT NULL,
    data    text NOT NULL,
    -- What a poll looks into: one range of one index.
    PRIMARY KEY (task_id, seq)
);
