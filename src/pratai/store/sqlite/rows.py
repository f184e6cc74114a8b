"""Turns invocations and records into rows of the tables and back. No SQL, no I/O.

What is not queried lies in two msgpack arrays: `accepted` (fixed at acceptance) and `ended` (known
at the end). Fields are only ever added at their ends, with a default: older rows stay readable.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from pratai.model.invocation import Failure, Invocation, LogRecord, Mark, Mode, StartKind
from pratai.store.base import OutcomeRecord
from pratai.store.sqlite.statements import Row


class AcceptedPart(msgspec.Struct, frozen=True, array_like=True):
    """Fields of an invocation that never change and are never searched by."""

    version: str
    qualifier: str
    mode: Mode
    trigger: str
    content_type: str
    trace: str
    timeout_ms: int
    attempts_max: int
    backoff_ms: int
    expires_at_ms: int
    concurrency_max: int
    memory_mb: int
    replay_of: str


class EndedPart(msgspec.Struct, frozen=True, array_like=True):
    """Fields of an outcome that are never searched by."""

    result_content_type: str = ""
    start_kind: StartKind = ""
    cold_reason: str = ""
    instance_id: str = ""
    queue_us: int = 0
    start_us: int = 0
    run_us: int = 0


_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode
_lines = msgspec.json.Encoder().encode_lines
_accepted_part = msgspec.msgpack.Decoder(AcceptedPart).decode
_ended_part = msgspec.msgpack.Decoder(EndedPart).decode
_marks = msgspec.json.Decoder(Mark).decode_lines
_failure = msgspec.json.Decoder(Failure).decode
_NOT_ENDED = EndedPart()


def digest_of(event: bytes | None) -> bytes:
    """What tells two events with the same idempotency key apart."""
    return hashlib.sha256(event or b"").digest()


def timeline_of(marks: list[Mark]) -> str:
    """Marks as text to which further marks can be appended."""
    return _lines(marks).decode() if marks else ""


def failure_text(failure: Failure | None) -> str | None:
    """A failure as the JSON that SQL can look into."""
    return None if failure is None else _json(failure).decode()


def accept_row(invocation: Invocation, id_: int, digest: bytes | None) -> Row:
    """The row of statement `accept`."""
    return (
        id_,
        invocation.namespace,
        invocation.request_id,
        invocation.function,
        invocation.attempt,
        invocation.available_at_ms,
        invocation.accepted_at_ms,
        invocation.idempotency_key,
        digest,
        _accepted_blob(invocation),
        timeline_of(invocation.timeline),
    )


def record_row(invocation: Invocation, id_: int, finished_order: int) -> Row:
    """The row of statement `record`."""
    ended = _pack(
        (
            invocation.result_content_type,
            invocation.start_kind,
            invocation.cold_reason,
            invocation.instance_id,
            invocation.queue_us,
            invocation.start_us,
            invocation.run_us,
        )
    )
    return (
        id_,
        invocation.namespace,
        invocation.request_id,
        invocation.function,
        invocation.attempt,
        invocation.available_at_ms,
        invocation.accepted_at_ms,
        invocation.idempotency_key,
        _accepted_blob(invocation),
        timeline_of(invocation.timeline),
        invocation.outcome,
        int(invocation.dead),
        finished_order,
        invocation.finished_at_ms,
        invocation.node_id,
        failure_text(invocation.failure),
        ended,
        invocation.result or b"",
    )


def finish_row(record: OutcomeRecord, finished_order: int) -> Row:
    """The row of statement `finish`."""
    ended = _pack(
        (
            record.result_content_type,
            record.start_kind,
            record.cold_reason,
            record.instance_id,
            record.queue_us,
            record.start_us,
            record.run_us,
        )
    )
    return (
        record.namespace,
        record.request_id,
        record.attempt,
        record.outcome,
        int(record.dead),
        finished_order,
        record.finished_at_ms,
        record.node_id,
        failure_text(record.failure),
        ended,
        record.result,
        timeline_of(record.marks),
    )


def log_row(record: LogRecord, sequence: int) -> Row:
    """The row of statement `append_log`."""
    return (
        sequence,
        record.namespace,
        record.function,
        record.version,
        record.request_id,
        record.instance_id,
        record.at_ms,
        record.level,
        record.text,
    )


def log_of(row: Row) -> LogRecord:
    """A log record from a row of `logs` and `logs_tail`."""
    return LogRecord(
        namespace=row[0],
        function=row[1],
        version=row[2],
        request_id=row[3],
        instance_id=row[4],
        at_ms=row[5],
        level=row[6],
        text=row[7],
        sequence=row[8],
    )


def invocation_of(row: Row) -> Invocation:
    """An invocation from a row of `invocation`, `invocations` and `pending`."""
    accepted = _accepted_part(row[12])
    ended = _NOT_ENDED if row[15] is None else _ended_part(row[15])
    values: dict[str, Any] = dict(zip(_COLUMNS, row[:12], strict=True))
    values["dead"] = bool(values["dead"])
    return Invocation(
        **values,
        **msgspec.structs.asdict(accepted),
        **msgspec.structs.asdict(ended),
        timeline=_marks(row[13]) if row[13] else [],
        failure=None if row[14] is None else _failure(row[14]),
        event=row[16],
        result=row[17],
    )


_COLUMNS = (
    "namespace",
    "request_id",
    "function",
    "state",
    "attempt",
    "available_at_ms",
    "accepted_at_ms",
    "outcome",
    "dead",
    "finished_at_ms",
    "node_id",
    "idempotency_key",
)


def _accepted_blob(invocation: Invocation) -> bytes:
    return _pack(
        (
            invocation.version,
            invocation.qualifier,
            invocation.mode,
            invocation.trigger,
            invocation.content_type,
            invocation.trace,
            invocation.timeout_ms,
            invocation.attempts_max,
            invocation.backoff_ms,
            invocation.expires_at_ms,
            invocation.concurrency_max,
            invocation.memory_mb,
            invocation.replay_of,
        )
    )
