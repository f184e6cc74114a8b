-- The first schema. Everything is found by namespace first. `docs/internals/store.md` explains it.

-- How far background work has come, and counters that must survive the rows they counted.
CREATE TABLE watermark (
    name TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO watermark (name, position)
VALUES ('events', 0), ('outcomes', 0), ('logs', 0), ('revision', 0);

-- Small JSON documents: functions, versions, aliases, keys, members, triggers.
CREATE TABLE document (
    namespace TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (namespace, kind, id)
) WITHOUT ROWID;

CREATE INDEX document_by_kind ON document (kind, namespace, id);

-- Invocations: the journal of asynchronous ones and the record of synchronous ones.
-- `id` is given by the writer and rises; `finished_order` likewise, NULL until done.
-- `accepted` and `ended` are msgpack (rows.py), `timeline` JSON lines, `failure` JSON.
CREATE TABLE invocation (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    request_id TEXT NOT NULL,
    function TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    available_at_ms INTEGER NOT NULL,
    accepted_at_ms INTEGER NOT NULL,
    outcome TEXT NOT NULL DEFAULT '',
    dead INTEGER NOT NULL DEFAULT 0,
    finished_order INTEGER,
    finished_at_ms INTEGER NOT NULL DEFAULT 0,
    node_id TEXT NOT NULL DEFAULT '',
    idempotency_key TEXT NOT NULL DEFAULT '',
    idempotency_digest BLOB,
    accepted BLOB NOT NULL,
    timeline TEXT NOT NULL,
    failure TEXT,
    ended BLOB,
    result BLOB
);

CREATE UNIQUE INDEX invocation_by_request ON invocation (namespace, request_id);
CREATE INDEX invocation_by_function ON invocation (namespace, function, request_id);
CREATE UNIQUE INDEX invocation_by_idempotency_key
ON invocation (namespace, function, idempotency_key) WHERE idempotency_digest IS NOT NULL;
CREATE INDEX invocation_unfinished ON invocation (request_id) WHERE state <> 'done';
CREATE INDEX invocation_finished
ON invocation (dead, finished_order) WHERE finished_order IS NOT NULL;
CREATE INDEX invocation_dead ON invocation (namespace, request_id) WHERE dead = 1;
CREATE INDEX invocation_unsuccessful
ON invocation (namespace, outcome, request_id) WHERE outcome NOT IN ('', 'succeeded');

-- Events apart from their invocations, so that a change of state never rewrites an event.
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    payload BLOB NOT NULL
);

-- What functions wrote.
CREATE TABLE log (
    sequence INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    function TEXT NOT NULL,
    version TEXT NOT NULL,
    request_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    level TEXT NOT NULL,
    text TEXT NOT NULL
);

CREATE INDEX log_by_function ON log (namespace, function, sequence);
CREATE INDEX log_by_request ON log (namespace, request_id, sequence);

-- Full text. Contentless: a row is taken out by giving the text that went in, which is why one
-- view gives it both times. `plain` is a function of the program (store/words.py).
-- Row 2 * id has the event of an invocation, row 2 * id + 1 its result and failure.
CREATE VIRTUAL TABLE invocation_text USING fts5 (
    text, content = '', columnsize = 0, tokenize = 'unicode61 remove_diacritics 2'
);

CREATE VIRTUAL TABLE log_text USING fts5 (
    text, content = '', columnsize = 0, tokenize = 'unicode61 remove_diacritics 2'
);

CREATE VIEW event_searchable AS
SELECT
    id,
    id * 2 AS text_id,
    CASE
        WHEN instr(substr(payload, 1, 65536), x'5c75') > 0 THEN plain(payload)
        ELSE CAST(substr(payload, 1, 65536) AS TEXT)
    END AS text
FROM event;

CREATE VIEW outcome_searchable AS
SELECT
    id,
    dead,
    finished_order,
    id * 2 + 1 AS text_id,
    CASE
        WHEN result IS NULL THEN ''
        WHEN instr(substr(result, 1, 65536), x'5c75') > 0 THEN plain(result)
        ELSE CAST(substr(result, 1, 65536) AS TEXT)
    END
    || char(10) || coalesce(failure ->> '$.code', '')
    || char(10) || coalesce(failure ->> '$.error_type', '')
    || char(10) || coalesce(substr(failure ->> '$.error_message', 1, 65536), '') AS text
FROM invocation
WHERE finished_order IS NOT NULL;

CREATE VIEW log_searchable AS
SELECT
    sequence,
    CAST(substr(CAST(text AS BLOB), 1, 65536) AS TEXT) AS text
FROM log;

PRAGMA user_version = 1;
