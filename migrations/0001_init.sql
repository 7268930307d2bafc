-- Which deployment this is, in one row. Redis keeps a copy of the ID under its
-- prefix: processes refuse a Redis that belongs to another database.
CREATE TABLE deployment (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    -- What the hash tags of tasks' keys are counted by; fixed once there are tasks.
    partitions integer NOT NULL DEFAULT 64 CHECK (partitions > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO deployment DEFAULT VALUES;

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
    -- The end user within the account; '' for none.
    subject         text NOT NULL DEFAULT '' CHECK (octet_length(subject) <= 255),
    title           text,
    -- Standing instructions: the prompt's system message.
    instructions    text,
    -- The place that the next message takes.
    next_position   bigint NOT NULL DEFAULT 0,
    -- The newest answer: the parent of a message that names none.
    last_message_id uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    -- Hidden at once; removed when its tasks have ended and its streams expired.
    deleted_at      timestamptz,
    -- For the key by which tasks refer to it.
    UNIQUE (account_id, id)
);
CREATE INDEX conversations_by_account ON conversations (account_id, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX conversations_to_purge ON conversations (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE messages (
    id              uuid PRIMARY KEY,
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    -- The message before it. A prompt is the path from here to the root.
    parent_id       uuid,
    -- The order in which messages were accepted, for lists.
    position        bigint NOT NULL,
    role            text NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    -- user: a string or an array of parts; tool: an array of results; assistant:
    -- null. As it was written.
    content         json,
    -- assistant: the answer, which is text and can be large.
    answer          text,
    reasoning       text,
    tool_calls      jsonb,
    -- assistant: data that the model's server wants back. Never shown to clients.
    opaque          json,
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

-- What jobs of the kind `generate` have to do. Each kind of job has a queue of its
-- own in Redis and a table of its own here, from which its relay restores the
-- queue: a worker never sees a kind that it doesn't know.
CREATE TABLE tasks (
    id                  uuid PRIMARY KEY,
    account_id          uuid NOT NULL,
    -- The conversation's.
    subject             text NOT NULL DEFAULT '',
    conversation_id     uuid NOT NULL,
    -- The assistant's message that the task fills.
    message_id          uuid NOT NULL UNIQUE REFERENCES messages ON DELETE CASCADE,
    model               text NOT NULL,
    -- As they were written: order, digits and white space.
    parameters          json NOT NULL,
    -- A caller's has visible characters only; one of rill's own begins with a blank.
    idempotency_key     text,
    -- SHA-256 of the request that came with the caller's key, to tell a repeat from
    -- a reuse.
    request_hash        bytea CHECK (octet_length(request_hash) = 32),
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
    -- The trace that the request belongs to (W3C Trace Context).
    traceparent         text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    FOREIGN KEY (account_id, conversation_id) REFERENCES conversations (account_id, id) ON DELETE CASCADE,
    UNIQUE (account_id, subject, idempotency_key),
    CHECK (request_hash IS NULL OR idempotency_key IS NOT NULL),
    CHECK ((final_id IS NULL) = (status IN ('queued', 'running')))
);
CREATE INDEX tasks_active ON tasks (status, run_after) WHERE status IN ('queued', 'running');
CREATE INDEX tasks_of_worker ON tasks (worker_id) WHERE status = 'running';
CREATE INDEX tasks_by_conversation ON tasks (conversation_id);

-- Every attempt, and what it cost. A ledger: it holds no text, and refers to
-- nothing, so that it outlives task, conversation, user and account.
CREATE TABLE attempts (
    task_id         uuid NOT NULL,
    number          bigint NOT NULL,
    account_id      uuid NOT NULL,
    subject         text NOT NULL,
    conversation_id uuid NOT NULL,
    model           text NOT NULL,
    worker_id       uuid NOT NULL,
    begun_at        timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    -- done, failed, cancelled: the task ended with it. retried: it failed, another
    -- follows. released: handed back by a worker that stops. yielded: left to a
    -- newer worker. lost: its worker missed its lease, or another ended the task.
    outcome         text CHECK (outcome IN ('done', 'failed', 'cancelled', 'retried', 'released',
                                            'yielded', 'lost')),
    error_code      text,
    -- Tokens, as the model's server counted them or as they were estimated.
    usage           jsonb,
    usage_source    text CHECK (usage_source IN ('reported', 'estimated')),
    PRIMARY KEY (task_id, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CHECK ((usage IS NULL) = (usage_source IS NULL))
) WITH (fillfactor = 85); -- Each row is changed once, when the attempt ends.
