-- Who owns conversations. One built-in account until accounts exist.
CREATE TABLE accounts (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO accounts (id, name) VALUES ('00000000-0000-0000-0000-000000000000', 'built-in');

CREATE TABLE conversations (
    id              uuid PRIMARY KEY,
    account_id      uuid NOT NULL REFERENCES accounts,
    title           text,
    -- Standing instructions: the prompt's system message.
    instructions    text,
    -- The place that the next message takes.
    next_position   bigint NOT NULL DEFAULT 0,
    last_message_id uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    -- Hidden at once; removed when its tasks have ended and its streams expired.
    deleted_at      timestamptz
);
CREATE INDEX conversations_by_account ON conversations (account_id, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX conversations_to_purge ON conversations (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE messages (
    id              uuid PRIMARY KEY,
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    parent_id       uuid,
    -- Orders a conversation.
    position        bigint NOT NULL,
    role            text NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    -- user: a string or an array of parts; tool: an array of results; assistant: null.
    content         jsonb,
    -- assistant: the answer, which is text and can be large.
    answer          text,
    reasoning       text,
    tool_calls      jsonb,
    finish_reason   text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (conversation_id, position)
);

-- A worker process. Its heartbeat is what makes its tasks its own.
CREATE TABLE workers (
    id           uuid PRIMARY KEY,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    -- Since when it has not missed a lease. One that was itself away must not
    -- judge others dead: after an outage of PostgreSQL everybody looks dead.
    steady_since timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tasks (
    id                  uuid PRIMARY KEY,
    account_id          uuid NOT NULL REFERENCES accounts,
    conversation_id     uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    -- The assistant's message that the task fills.
    message_id          uuid NOT NULL UNIQUE REFERENCES messages ON DELETE CASCADE,
    model               text NOT NULL,
    parameters          jsonb NOT NULL,
    idempotency_key     text,
    -- The request as it came, to tell a repeat from a reuse of its key.
    request             jsonb NOT NULL,
    status              text NOT NULL DEFAULT 'queued'
                        CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    -- The fence. Rises with every attempt and with every ending by a non-owner.
    attempt             bigint NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND 4294967295),
    -- Failures that count against the limit.
    failures            integer NOT NULL DEFAULT 0,
    claim_id            uuid,
    worker_id           uuid,
    -- When the job was last added to the queue; null when it surely is not there.
    enqueued_at         timestamptz,
    run_after           timestamptz,
    deadline_at         timestamptz NOT NULL,
    cancel_requested_at timestamptz,
    error_code          text,
    error_message       text,
    usage               jsonb,
    -- The terminal event, as anyone may append it any number of times.
    final_id            text,
    final_event         text,
    final_data          text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    UNIQUE (account_id, idempotency_key),
    CHECK ((final_id IS NULL) = (status IN ('queued', 'running')))
);
CREATE INDEX tasks_active ON tasks (status, run_after) WHERE status IN ('queued', 'running');
CREATE INDEX tasks_of_worker ON tasks (worker_id) WHERE status = 'running';
CREATE INDEX tasks_by_conversation ON tasks (conversation_id);
