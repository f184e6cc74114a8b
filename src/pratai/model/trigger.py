"""Triggers: what turns outside happenings into events of a function. Values only.

A trigger is one document of kind `trigger`; what an agent remembers of its runs is another
(`TriggerState`, kind `trigger-state`), so that its owner's changes and the agent's never collide.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

#: Kinds of documents in the store; ids are names within the namespace.
TRIGGER, TRIGGER_STATE, DELIVERY = "trigger", "trigger-state", "delivery"
#: A namespace's secret for signing deliveries (one document, id `deliveries`); who works on what.
SIGNING_SECRET, AGENT_LEASE = "signing-secret", "agent-lease"

#: JSON null.
NOTHING = msgspec.Raw(b"null")

TriggerKind = Literal["timer", "event", "folder"]
#: What becomes of runs that were due while no agent ran: none, the latest one, every one.
Missed = Literal["skip", "latest", "all"]
#: What becomes of a file once its event is accepted.
FileAfter = Literal["keep", "move", "delete"]


class TimerSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs at times: `cron` in `timezone`, or every `every_ms` counted from `start_at_ms`."""

    #: Five fields, or six with seconds first; names, `L` and `#` as cron has. "" = an interval.
    cron: str = ""
    every_ms: int = 0
    #: IANA name; daylight saving is its own.
    timezone: str = "UTC"
    start_at_ms: int = 0
    missed: Missed = "latest"
    #: Runs made up for at most, with `missed` = all.
    missed_max: int = 1_000


class EventFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CloudEvents that match. Of each attribute: exact text, or `PREFIX*`, `*SUFFIX`, `*PART*`;
    several values are alternatives; attributes not named match anything.
    """

    type: list[str] = []
    source: list[str] = []
    subject: list[str] = []
    #: {extension attribute: alternatives}.
    extensions: dict[str, list[str]] = {}
    #: {path in the JSON data, dots between: allowed values}; JSON values, or patterns as above.
    data: dict[str, list[msgspec.Raw]] = {}


class FolderSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files that appear in a folder of the agent's machine."""

    path: str
    #: Which file names, as a shell would match them.
    pattern: str = "*"
    #: A file that has not changed for this long is taken to be whole.
    settle_ms: int = 1_000
    after: FileAfter = "keep"
    #: Where files go with `after` = move.
    move_to: str = ""


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a function runs by itself. Exactly the source that `kind` names is set."""

    namespace: str
    #: Unique in its namespace.
    name: str
    kind: TriggerKind
    function: str
    #: Version or alias; "" = `$LATEST`.
    qualifier: str = ""
    description: str = ""
    timer: TimerSource | None = None
    event: EventFilter | None = None
    folder: FolderSource | None = None
    #: Timers: what the function is given; JSON null = an event that tells name and time. Never
    #: None (msgspec cannot read `Raw | None`): ask `given_input`.
    input: msgspec.Raw = NOTHING
    #: False: it does nothing, and what happens meanwhile is not made up for.
    enabled: bool = True
    #: Why the platform disabled it; "" when its owner did, or it is enabled.
    disabled_because: str = ""
    #: Paused: it does nothing for now; what was due meanwhile is made up for by `missed`.
    paused: bool = False
    created_at_ms: int = 0
    updated_at_ms: int = 0
    #: Rises each time it is enabled or its source changes (`revised` does it).
    epoch: int = 0
    #: Of that moment: what was due before it is none of this trigger's runs.
    since_ms: int = 0

    def given_input(self) -> bytes | None:
        """What the function is given, JSON; None = what its source makes of the occasion."""
        given = bytes(self.input)
        return None if given == b"null" else given


class TriggerState(msgspec.Struct, frozen=True, kw_only=True):
    """What was done for a trigger."""

    namespace: str
    name: str
    #: Of the trigger's `epoch` that the rest is about.
    epoch: int = 0
    #: Timers: due times up to here are settled: their runs were accepted, refused or skipped.
    cursor_ms: int = 0
    #: Timers: due time of the last run that was accepted; 0 = none.
    last_due_ms: int = 0
    last_run_at_ms: int = 0
    last_request_id: str = ""
    next_due_ms: int = 0
    runs: int = 0
    skipped: int = 0
    failures: int = 0
    last_failure: str = ""
    last_failure_at_ms: int = 0
    #: Folders: {file name: fingerprint} of those whose event was accepted and which are there yet.
    taken: dict[str, str] = {}


def revised(before: Trigger | None, after: Trigger, now_ms: int) -> Trigger:
    """`after` as it is to be kept: its times and epoch follow from what `before` (None: new) was.

    Pausing, resuming and changes of input or description keep the epoch, so that nothing is run
    twice or forgotten; enabling and a new source begin a new one.
    """
    if before is None:
        return replace(after, created_at_ms=now_ms, updated_at_ms=now_ms, epoch=1, since_ms=now_ms)
    begins = (after.enabled and not before.enabled) or (
        (after.kind, after.timer, after.event, after.folder)
        != (before.kind, before.timer, before.event, before.folder)
    )
    return replace(
        after,
        created_at_ms=before.created_at_ms,
        updated_at_ms=now_ms,
        epoch=before.epoch + begins,
        since_ms=now_ms if begins else before.since_ms,
    )


def timer_event(trigger: Trigger, due_ms: int) -> bytes:
    """What the function of a timer is given for the run of `due_ms`: its input, else its time."""
    given = trigger.given_input()
    if given is not None:
        return given
    due_at = datetime.fromtimestamp(due_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode(
        {"trigger": trigger.name, "due_at": due_at.replace("+00:00", "Z"), "due_at_ms": due_ms}
    )


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome on its way to a destination: kept until it is delivered or given up."""

    #: Request id of the invocation whose outcome it is.
    request_id: str
    namespace: str
    #: The function whose outcome it is.
    function: str
    #: `function:NAME` or a URL.
    destination: str
    #: The event to be delivered, JSON.
    body: bytes
    created_at_ms: int
    attempts: int = 0
    next_attempt_at_ms: int = 0
    last_failure: str = ""
    #: Given up after this time; it then counts as a failure of the destination.
    expires_at_ms: int = 0
    #: Agent that works on it, until then.
    claimed_by: str = ""
    claimed_until_ms: int = 0
