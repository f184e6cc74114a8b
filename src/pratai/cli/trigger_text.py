"""A trigger in words: for lists, and for one of them whole."""

from __future__ import annotations

from pratai.cli.client import decode
from pratai.cli.output import Moment, when
from pratai.cli.session import Session
from pratai.model.api import TriggerView

COLUMNS = ("name", "kind", "function", "state", "?when", "last run", "next run", ">runs")


def write_trigger(session: Session, body: bytes) -> None:
    """A trigger, as JSON or for people."""
    if session.output.as_json:
        session.output.write_json(body)
        return
    view = decode(body, TriggerView)
    state = view.state
    given = bytes(view.input)
    session.output.fields(
        {
            "name": view.name,
            "state": state_of(view),
            "kind": view.kind,
            "when": when_of(view),
            "missed runs": view.timer.missed if view.timer else "",
            "function": view.function,
            "qualifier": view.qualifier,
            "description": view.description,
            "input": "" if given == b"null" else given.decode(),
            "next run": when(state.next_run_at_ms),
            "last run": when(state.last_run_at_ms),
            "last invocation": state.last_request_id,
            "runs": str(state.runs),
            "skipped": str(state.skipped),
            "failures": str(state.failures),
            "last failure": state.last_failure,
            "failed": when(state.last_failure_at_ms),
            "made": when(view.created_at_ms),
            "changed": when(view.updated_at_ms),
        }
    )


def row_of(view: TriggerView) -> tuple[object, ...]:
    """A trigger in the list; the columns are `COLUMNS`."""
    state = view.state
    return (
        view.name,
        view.kind,
        f"{view.function}:{view.qualifier}" if view.qualifier else view.function,
        state_of(view),
        when_of(view),
        Moment(state.last_run_at_ms) if state.last_run_at_ms else "",
        Moment(state.next_run_at_ms) if state.next_run_at_ms else "",
        state.runs,
    )


def state_of(view: TriggerView) -> str:
    """How it is switched, and whether its last run failed."""
    if not view.enabled:
        return f"disabled: {view.disabled_because}" if view.disabled_because else "disabled"
    if view.paused:
        return "paused"
    return "failing" if view.state.last_failure_at_ms > view.state.last_run_at_ms else "enabled"


def when_of(view: TriggerView) -> str:
    """The source in a few words."""
    if view.timer is not None:
        if view.timer.every_ms:
            return f"every {_whole_span(view.timer.every_ms)}"
        return f"{view.timer.cron} {view.timer.timezone}"
    if view.folder is not None:
        return f"{view.folder.path.rstrip('/')}/{view.folder.pattern}"
    if view.event is None:
        return ""
    named = {"type": view.event.type, "source": view.event.source, "subject": view.event.subject}
    told = [
        f"{name} {' | '.join(patterns)}"
        for name, patterns in (*named.items(), *view.event.extensions.items())
        if patterns
    ]
    told += [
        f"{path} {' | '.join(bytes(one).decode() for one in allowed)}"
        for path, allowed in view.event.data.items()
    ]
    return ", ".join(told) or "every event"


def _whole_span(span_ms: int) -> str:
    """A span in the largest unit that tells it exactly."""
    for unit, length_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if span_ms % length_ms == 0:
            return f"{span_ms // length_ms} {unit}"
    return f"{span_ms:,} ms"
