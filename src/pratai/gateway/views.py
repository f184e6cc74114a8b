"""Stored values as the API shows them (`model/api.py`). Pure."""

from __future__ import annotations

import base64

import msgspec

from pratai.gateway.auth import Key
from pratai.model.api import (
    AliasView,
    FunctionView,
    InvocationView,
    KeyView,
    LogView,
    MarkView,
    VersionView,
)
from pratai.model.function import Alias, Function, Version
from pratai.model.invocation import Invocation, LogRecord, Mark

OCTETS = "application/octet-stream"


def function_view(function: Function, version: Version, base_url: str) -> FunctionView:
    """A function at the version that `$LATEST` means."""
    config = {key: getattr(version.config, key) for key in version.config.__struct_fields__}
    return FunctionView(
        namespace=function.namespace,
        name=function.name,
        version=str(version.number),
        digest=version.digest,
        package_bytes=version.package_bytes,
        layer=version.layer,
        created_at_ms=function.created_at_ms,
        updated_at_ms=function.updated_at_ms,
        state="active",
        url=f"{base_url}/fn/{function.name}",
        aliases={name: alias_view(alias) for name, alias in function.aliases.items()},
        **config,
    )


def version_view(version: Version, function: Function) -> VersionView:
    """A version of a function."""
    return VersionView(
        name=version.name,
        version=str(version.number),
        digest=version.digest,
        package_bytes=version.package_bytes,
        layer=version.layer,
        runtime=version.config.runtime,
        handler=version.config.handler,
        memory_mb=version.config.memory_mb,
        timeout_ms=version.config.timeout_ms,
        created_at_ms=version.created_at_ms,
        description=version.note or version.config.description,
        latest=version.number == function.latest,
        aliases=[
            name
            for name, alias in function.aliases.items()
            if alias.version == version.number or version.number in alias.weights
        ],
    )


def alias_view(alias: Alias) -> AliasView:
    """An alias."""
    return AliasView(
        name=alias.name,
        version=str(alias.version),
        weights={str(number): share for number, share in alias.weights.items()},
    )


def key_view(key: Key) -> KeyView:
    """A key, without the key itself."""
    return KeyView(
        key_id=key.key_id,
        namespace=key.namespace,
        admin=key.admin,
        label=key.label,
        created_at_ms=key.created_at_ms,
    )


def invocation_view(invocation: Invocation) -> InvocationView:
    """An invocation; event and result as far as they were read."""
    done = invocation.state == "done"
    event, event_encoding = _payload(invocation.event, invocation.content_type)
    result, result_encoding = _payload(
        invocation.result if done and invocation.outcome == "succeeded" else None,
        invocation.result_content_type,
    )
    took_ms = invocation.finished_at_ms - invocation.accepted_at_ms if done else 0
    return InvocationView(
        request_id=invocation.request_id,
        function=invocation.function,
        version=invocation.version,
        qualifier=invocation.qualifier,
        mode=invocation.mode,
        trigger=invocation.trigger,
        state=invocation.state,
        outcome=invocation.outcome,
        attempt=invocation.attempt,
        attempts_max=invocation.attempts_max,
        accepted_at_ms=invocation.accepted_at_ms,
        finished_at_ms=invocation.finished_at_ms,
        duration_ms=float(max(0, took_ms)),
        queue_ms=invocation.queue_us / 1_000,
        start_ms=invocation.start_us / 1_000,
        run_ms=invocation.run_us / 1_000,
        start_kind=invocation.start_kind,
        cold_reason=invocation.cold_reason,
        node_id=invocation.node_id,
        instance_id=invocation.instance_id,
        idempotency_key=invocation.idempotency_key,
        trace=invocation.trace,
        content_type=invocation.content_type,
        event=event,
        event_encoding=event_encoding,
        result=result,
        result_encoding=result_encoding,
        result_content_type=invocation.result_content_type,
        failure=invocation.failure,
        timeline=[_mark_view(mark, invocation) for mark in invocation.timeline],
        replay_of=invocation.replay_of,
        dead=invocation.dead,
    )


def log_view(record: LogRecord) -> LogView:
    """A log record."""
    return LogView(
        at_ms=record.at_ms,
        level=record.level,
        text=record.text,
        function=record.function,
        version=record.version,
        request_id=record.request_id,
        instance_id=record.instance_id,
        sequence=record.sequence,
    )


def media_type(content_type: str) -> str:
    """A content type that a function gave, fit for a header."""
    fit = content_type.isascii() and content_type.isprintable() and len(content_type) <= 256
    return content_type if content_type and fit else OCTETS


def _mark_view(mark: Mark, invocation: Invocation) -> MarkView:
    return MarkView(
        name=mark.name,
        at_ms=mark.at_ms,
        offset_ms=max(0, mark.at_ms - invocation.accepted_at_ms),
        attempt=mark.attempt,
        detail=mark.detail,
    )


def _payload(data: bytes | None, content_type: str) -> tuple[msgspec.Raw | None, str]:
    """Bytes for a place in a JSON document, and how they are told: json, text or base64."""
    if data is None:
        return None, ""
    kind = content_type.partition(";")[0].strip().lower()
    if data and (kind == "application/json" or kind.endswith("+json")):
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            kind = ""
        else:
            return msgspec.Raw(data), "json"
    try:
        return msgspec.Raw(msgspec.json.encode(data.decode())), "text"
    except UnicodeDecodeError:
        return msgspec.Raw(msgspec.json.encode(base64.b64encode(data).decode())), "base64"
