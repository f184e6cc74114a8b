-- Every statement of the SQLite store. `-- name:` is how the code finds it, the line below says
-- what it is for. `/* rows */ (...)` is repeated for many rows in one step (statements.py);
-- `where_...` are conditions put in the place of `/* where */` of the statement they follow.

-- name: fresh
-- Before the first table: pages that become free can be given back in small steps.
PRAGMA auto_vacuum = INCREMENTAL;

-- name: journal_mode
-- Readers and the writer never wait for each other.
PRAGMA journal_mode = WAL;

-- name: durable
-- A commit is on disk before it returns.
PRAGMA synchronous = FULL;

-- name: relaxed
-- For background work: reaches the disk with the next durable commit, never out of order.
PRAGMA synchronous = NORMAL;

-- name: foreign_keys
-- There are none.
PRAGMA foreign_keys = OFF;

-- name: busy_timeout
-- Only checkpoints and another program that looks into the file can hold us up.
PRAGMA busy_timeout = 5000;

-- name: writer_cache
-- 32 MiB of pages.
PRAGMA cache_size = -32768;

-- name: reader_cache
-- 4 MiB of pages in each reader.
PRAGMA cache_size = -4096;

-- name: mmap
-- Read pages through the page cache of the system.
PRAGMA mmap_size = 268435456;

-- name: temp_store
-- Sorting happens in memory.
PRAGMA temp_store = MEMORY;

-- name: secure_delete
-- Zero what is deleted only where that costs no further write.
PRAGMA secure_delete = FAST;

-- name: autocheckpoint
-- Pages of WAL after which a commit moves them to the database.
PRAGMA wal_autocheckpoint = 4000;

-- name: journal_size_limit
-- A WAL that grew beyond this is cut back.
PRAGMA journal_size_limit = 67108864;

-- name: read_only
-- Readers cannot write even by mistake.
PRAGMA query_only = ON;

-- name: checkpoint
-- Move everything from the WAL to the database and empty it.
PRAGMA wal_checkpoint(TRUNCATE);

-- name: schema_version
-- Number of the newest migration applied.
PRAGMA user_version;

-- name: page_count
-- Pages of the database file.
PRAGMA page_count;

-- name: page_size
-- Bytes of a page.
PRAGMA page_size;

-- name: freelist_count
-- Pages of the file that hold nothing.
PRAGMA freelist_count;

-- name: vacuum_step
-- Give a few free pages back to the system.
PRAGMA incremental_vacuum(256);

-- name: begin
-- Start a write transaction.
BEGIN IMMEDIATE;

-- name: commit
-- End it, kept.
COMMIT;

-- name: rollback
-- End it, undone.
ROLLBACK;

-- name: savepoint
-- Start of one item when a batch is redone item by item.
SAVEPOINT item;

-- name: release
-- The item is good.
RELEASE item;

-- name: rollback_item
-- The item is bad; what went before stays.
ROLLBACK TO item;

-- name: watermarks
-- All positions.
SELECT name, position FROM watermark;

-- name: raise_watermark
-- Background work came this far; never goes back.
UPDATE watermark SET position = max(position, :position) WHERE name = :name;

-- name: last_positions
-- Highest invocation id, finished order, log sequence and document revision.
SELECT
    (SELECT coalesce(max(id), 0) FROM invocation),
    max(
        (SELECT coalesce(max(finished_order), 0) FROM invocation
         WHERE dead = 0 AND finished_order IS NOT NULL),
        (SELECT coalesce(max(finished_order), 0) FROM invocation
         WHERE dead = 1 AND finished_order IS NOT NULL)
    ),
    (SELECT coalesce(max(sequence), 0) FROM log),
    (SELECT coalesce(max(revision), 0) FROM document);

-- name: document
-- One document.
SELECT kind, namespace, id, body, revision FROM document
WHERE namespace = :namespace AND kind = :kind AND id = :id;

-- name: documents_of_namespace
-- Documents of a kind in one namespace, by id.
SELECT kind, namespace, id, body, revision FROM document
WHERE namespace = :namespace AND kind = :kind
AND id > :after AND id >= :prefix AND substr(id, 1, length(:prefix)) = :prefix
ORDER BY id LIMIT :limit;

-- name: documents_of_all
-- Documents of a kind in every namespace, by namespace and id.
SELECT kind, namespace, id, body, revision FROM document INDEXED BY document_by_kind
WHERE kind = :kind AND (namespace, id) > (:after_namespace, :after)
AND substr(id, 1, length(:prefix)) = :prefix
ORDER BY namespace, id LIMIT :limit;

-- name: put_document
-- Create or replace.
INSERT INTO document (namespace, kind, id, revision, body)
VALUES (:namespace, :kind, :id, :revision, :body)
ON CONFLICT (namespace, kind, id) DO UPDATE SET revision = excluded.revision, body = excluded.body;

-- name: delete_document
-- Remove one document.
DELETE FROM document WHERE namespace = :namespace AND kind = :kind AND id = :id;

-- name: find_idempotency_keys
-- Which of these (namespace, function, key) have been used, by which request and event.
SELECT i.namespace, i.function, i.idempotency_key, i.request_id, i.idempotency_digest
FROM (VALUES /* rows */ (?, ?, ?)) AS wanted
CROSS JOIN invocation AS i
ON i.namespace = wanted.column1 AND i.function = wanted.column2
AND i.idempotency_key = wanted.column3 AND i.idempotency_digest IS NOT NULL;

-- name: find_event
-- The event of a request that may exist already.
SELECT e.payload FROM invocation AS i JOIN event AS e ON e.id = i.id
WHERE i.namespace = :namespace AND i.request_id = :request_id;

-- name: accept
-- The journal entry of an accepted invocation.
INSERT INTO invocation (
    id, namespace, request_id, function, state, attempt, available_at_ms, accepted_at_ms,
    idempotency_key, idempotency_digest, accepted, timeline
) VALUES /* rows */ (?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?);

-- name: keep_event
-- The event of an invocation.
INSERT INTO event (id, payload) VALUES /* rows */ (?, ?);

-- name: record
-- A finished synchronous invocation.
INSERT INTO invocation (
    id, namespace, request_id, function, state, attempt, available_at_ms, accepted_at_ms,
    idempotency_key, accepted, timeline, outcome, dead, finished_order, finished_at_ms, node_id,
    failure, ended, result
) VALUES /* rows */ (?, ?, ?, ?, 'done', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (namespace, request_id) DO NOTHING;

-- name: recorded
-- Which of these ids are there; asked when `record` added fewer rows than it was given.
SELECT id FROM invocation WHERE id IN (SELECT value FROM json_each(:ids));

-- name: lease
-- An attempt began; older and finished ones stay as they are.
UPDATE invocation SET state = 'leased', attempt = lease.column3, node_id = lease.column4
FROM (VALUES /* rows */ (?, ?, ?, ?)) AS lease
WHERE namespace = lease.column1 AND request_id = lease.column2
AND state <> 'done' AND attempt < lease.column3;

-- name: retry
-- Back to the queue, unless a later attempt is known or it is done.
UPDATE invocation SET
    state = 'queued', attempt = :attempt, available_at_ms = :available_at_ms,
    failure = :failure, timeline = timeline || :timeline
WHERE namespace = :namespace AND request_id = :request_id
AND state <> 'done' AND attempt <= :attempt;

-- name: finish
-- The outcome, once.
UPDATE invocation SET
    state = 'done', attempt = max(attempt, ended.column3), outcome = ended.column4,
    dead = ended.column5, finished_order = ended.column6, finished_at_ms = ended.column7,
    node_id = CASE WHEN ended.column8 = '' THEN node_id ELSE ended.column8 END,
    failure = ended.column9, ended = ended.column10, result = ended.column11,
    timeline = timeline || ended.column12
FROM (VALUES /* rows */ (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)) AS ended
WHERE namespace = ended.column1 AND request_id = ended.column2 AND state <> 'done';

-- name: finished_now
-- Whose outcome these orders are; asked when `finish` changed fewer rows than it was given.
SELECT namespace, request_id FROM invocation
WHERE dead IN (0, 1) AND finished_order IN (SELECT value FROM json_each(:orders));

-- name: append_log
-- A log record.
INSERT INTO log (
    sequence, namespace, function, version, request_id, instance_id, at_ms, level, text
) VALUES /* rows */ (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: event
-- The event of an invocation.
SELECT e.payload FROM invocation AS i JOIN event AS e ON e.id = i.id
WHERE i.namespace = :namespace AND i.request_id = :request_id;

-- name: invocation
-- One invocation whole.
SELECT
    i.namespace, i.request_id, i.function, i.state, i.attempt, i.available_at_ms,
    i.accepted_at_ms, i.outcome, i.dead, i.finished_at_ms, i.node_id, i.idempotency_key,
    i.accepted, i.timeline, i.failure, i.ended, e.payload, coalesce(i.result, x'')
FROM invocation AS i JOIN event AS e ON e.id = i.id
WHERE i.namespace = :namespace AND i.request_id = :request_id;

-- name: pending
-- Unfinished invocations of all namespaces.
SELECT
    namespace, request_id, function, state, attempt, available_at_ms,
    accepted_at_ms, outcome, dead, finished_at_ms, node_id, idempotency_key,
    accepted, timeline, failure, ended, NULL, NULL
FROM invocation INDEXED BY invocation_unfinished
WHERE state <> 'done' AND request_id > :after
ORDER BY request_id LIMIT :limit;

-- name: invocations
-- Invocations of a namespace, newest first, without events and results.
SELECT
    namespace, request_id, function, state, attempt, available_at_ms,
    accepted_at_ms, outcome, dead, finished_at_ms, node_id, idempotency_key,
    accepted, timeline, failure, ended, NULL, NULL
FROM invocation
WHERE namespace = :namespace /* where */
ORDER BY request_id DESC LIMIT :limit;

-- name: where_cursor
-- Only those after a page's last.
AND request_id < :cursor

-- name: where_function
-- Of one function.
AND function = :function

-- name: where_state
-- In one state.
AND state = :state

-- name: where_outcome
-- With one outcome.
AND outcome = :outcome

-- name: where_unsuccessful
-- Said beside an outcome other than success, so that its index is used.
AND outcome NOT IN ('', 'succeeded')

-- name: where_dead
-- Dead letters.
AND dead = 1

-- name: where_not_dead
-- No dead letters.
AND dead = 0

-- name: where_since
-- Accepted at or after; request ids sort by time, which ends the search early.
AND accepted_at_ms >= :since_ms AND request_id >= :since_request_id

-- name: where_until
-- Accepted before or at.
AND accepted_at_ms <= :until_ms

-- name: where_words
-- With these words (`word` is repeated in the place of the words).
AND id IN (/* words */)

-- name: word
-- Invocations with one word in event, result or failure.
SELECT rowid / 2 FROM invocation_text WHERE invocation_text MATCH ?

-- name: and_word
-- Between two words.
INTERSECT

-- name: logs
-- Log records of a namespace, oldest first.
SELECT namespace, function, version, request_id, instance_id, at_ms, level, text, sequence
FROM log
WHERE namespace = :namespace AND sequence > :after /* where */
ORDER BY sequence LIMIT :limit;

-- name: logs_tail
-- Log records of a namespace, newest first.
SELECT namespace, function, version, request_id, instance_id, at_ms, level, text, sequence
FROM log
WHERE namespace = :namespace AND sequence > :after /* where */
ORDER BY sequence DESC LIMIT :limit;

-- name: where_request
-- Of one invocation.
AND request_id = :request_id

-- name: where_log_since
-- Written at or after.
AND at_ms >= :since_ms

-- name: where_grep
-- With these words.
AND sequence IN (SELECT rowid FROM log_text WHERE log_text MATCH :grep)

-- name: log_bounds
-- Lowest and highest sequence kept.
SELECT coalesce((SELECT min(sequence) FROM log), 0), coalesce((SELECT max(sequence) FROM log), 0);

-- name: log_at
-- Time of the first record from a sequence on.
SELECT at_ms FROM log WHERE sequence >= :sequence ORDER BY sequence LIMIT 1;

-- name: index_events
-- Make the events of a range of invocations searchable.
INSERT INTO invocation_text (rowid, text)
SELECT text_id, text FROM event_searchable WHERE id > :after AND id <= :upto;

-- name: index_outcomes
-- Make results and failures of a range of finished invocations searchable.
INSERT INTO invocation_text (rowid, text)
SELECT text_id, text FROM outcome_searchable
WHERE dead IN (0, 1) AND finished_order > :after AND finished_order <= :upto;

-- name: index_logs
-- Make a range of log records searchable.
INSERT INTO log_text (rowid, text)
SELECT sequence, text FROM log_searchable WHERE sequence > :after AND sequence <= :upto;

-- name: finished_due
-- The oldest finished invocations that ended before a time.
SELECT id FROM (
    SELECT id, finished_at_ms FROM invocation
    WHERE dead = :dead AND finished_order IS NOT NULL
    ORDER BY finished_order LIMIT 1000
) WHERE finished_at_ms < :before_ms LIMIT :limit;

-- name: finished_of_requests
-- Ids of those of the given requests that are finished.
SELECT id FROM invocation
WHERE namespace = :namespace AND request_id IN (SELECT value FROM json_each(:request_ids))
AND finished_order IS NOT NULL;

-- name: oldest_finished
-- When the oldest finished invocation that size may remove ended.
SELECT finished_at_ms FROM invocation
WHERE dead = 0 AND finished_order IS NOT NULL ORDER BY finished_order LIMIT 1;

-- name: oldest_log
-- When the oldest log record was written.
SELECT at_ms FROM log ORDER BY sequence LIMIT 1;

-- name: unindex_events
-- Take events out of the full text, where they are in it.
INSERT INTO invocation_text (invocation_text, rowid, text)
SELECT 'delete', text_id, text FROM event_searchable
WHERE id IN (SELECT value FROM json_each(:ids)) AND id <= :indexed;

-- name: unindex_outcomes
-- Take results and failures out of the full text, where they are in it.
INSERT INTO invocation_text (invocation_text, rowid, text)
SELECT 'delete', text_id, text FROM outcome_searchable
WHERE id IN (SELECT value FROM json_each(:ids)) AND finished_order <= :indexed;

-- name: delete_events
-- Remove events.
DELETE FROM event WHERE id IN (SELECT value FROM json_each(:ids));

-- name: delete_invocations
-- Remove invocations.
DELETE FROM invocation WHERE id IN (SELECT value FROM json_each(:ids));

-- name: logs_due
-- The oldest searchable log records written before a time.
SELECT sequence FROM (
    SELECT sequence, at_ms FROM log WHERE sequence <= :indexed ORDER BY sequence LIMIT 2000
) WHERE at_ms < :before_ms LIMIT :limit;

-- name: unindex_logs
-- Take log records out of the full text.
INSERT INTO log_text (log_text, rowid, text)
SELECT 'delete', sequence, text FROM log_searchable
WHERE sequence IN (SELECT value FROM json_each(:ids));

-- name: delete_logs
-- Remove log records.
DELETE FROM log WHERE sequence IN (SELECT value FROM json_each(:ids));

-- name: merge_invocation_text
-- Let the full text give up what was deleted, a few pages at a time.
INSERT INTO invocation_text (invocation_text, rank) VALUES ('merge', :pages);

-- name: merge_log_text
-- The same for logs.
INSERT INTO log_text (log_text, rank) VALUES ('merge', :pages);

-- name: check_database
-- Every page, index and constraint.
PRAGMA integrity_check(20);

-- name: check_invocation_text
-- The full text agrees with itself.
INSERT INTO invocation_text (invocation_text) VALUES ('integrity-check');

-- name: check_log_text
-- The full text of logs agrees with itself.
INSERT INTO log_text (log_text) VALUES ('integrity-check');

-- name: check_states
-- Invocations whose columns contradict each other.
SELECT count(*) FROM invocation
WHERE state NOT IN ('queued', 'leased', 'done')
OR (state = 'done') <> (outcome <> '')
OR (state = 'done') <> (finished_order IS NOT NULL);

-- name: check_events
-- Invocations without an event, and events without an invocation.
SELECT
    (SELECT count(*) FROM invocation WHERE id NOT IN (SELECT id FROM event)),
    (SELECT count(*) FROM event WHERE id NOT IN (SELECT id FROM invocation));
