"""What the native HTTP API answers with, shared by the gateway that writes and the CLI that reads.

Shapes only. Times are epoch milliseconds, sizes bytes. The OpenAPI document is generated from them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pratai.model.function import Network
from pratai.model.invocation import Failure
from pratai.model.trigger import EventFilter, FolderSource, TimerSource, TriggerKind


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error: RFC 9457 `application/problem+json`, with our extensions."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    #: caller, function or platform.
    fault: str = ""
    next: str = ""
    request_id: str = ""
    field: str | None = None
    value: msgspec.Raw | str | int | float | bool | None = None
    allowed: str | list[str] | None = None
    #: Of a function's own failure.
    error_type: str = ""
    error_message: str = ""
    stack: list[str] = []
    retry_after_s: int | None = None


class FunctionView(msgspec.Struct, frozen=True, kw_only=True):
    """A function at its `$LATEST` version, configuration included."""

    namespace: str
    name: str
    #: Number of the version that `$LATEST` means, as text.
    version: str
    digest: str
    package_bytes: int
    layer: str
    created_at_ms: int
    updated_at_ms: int
    #: `active` or `preparing`.
    state: str
    url: str
    runtime: str
    handler: str
    description: str
    memory_mb: int
    timeout_ms: int
    concurrency_max: int | None
    environment: dict[str, str]
    secrets: list[str]
    network: Network
    tmp_mb: int
    retries: int
    retry_backoff_ms: int
    event_age_max_ms: int
    on_success: str
    on_failure: str
    public: bool
    keep_warm: int
    labels: dict[str, str]
    aliases: dict[str, AliasView]
    #: Debian packages that its image has.
    apt: list[str] = []


class AliasView(msgspec.Struct, frozen=True, kw_only=True):
    """An alias; `weights` maps further versions to their share (0..1) of calls."""

    name: str
    version: str
    weights: dict[str, float] = {}


class AliasRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `PUT /v1/functions/{name}/aliases/{alias}`."""

    version: str
    weights: dict[str, float] = {}


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/functions/{name}/versions`; may be empty."""

    description: str = ""


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/functions/{name}/rollback`; "" = the version before `$LATEST`."""

    version: str = ""


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A numbered version."""

    name: str
    version: str
    digest: str
    package_bytes: int
    layer: str
    runtime: str
    handler: str
    memory_mb: int
    timeout_ms: int
    created_at_ms: int
    description: str
    #: Whether `$LATEST` means this one.
    latest: bool
    #: Names of aliases that point to it.
    aliases: list[str]


class MarkView(msgspec.Struct, frozen=True, kw_only=True):
    """A point of a timeline; `offset_ms` counts from acceptance."""

    name: str
    at_ms: int
    offset_ms: int
    attempt: int = 0
    detail: str = ""


class InvocationView(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation. Listings leave `event` and `result` out (null)."""

    request_id: str
    function: str
    version: str
    qualifier: str
    #: sync or async.
    mode: str
    trigger: str
    #: queued, leased or done.
    state: str
    #: succeeded, failed, timed_out, crashed, throttled, discarded; "" while not done.
    outcome: str
    attempt: int
    attempts_max: int
    accepted_at_ms: int
    finished_at_ms: int
    #: Whole time from acceptance to outcome.
    duration_ms: float
    queue_ms: float
    start_ms: float
    run_ms: float
    start_kind: str
    cold_reason: str
    node_id: str
    instance_id: str
    idempotency_key: str
    trace: str
    content_type: str
    #: JSON as it is; other content as text, or base64 when it is not text.
    event: msgspec.Raw | None
    event_encoding: str
    result: msgspec.Raw | None
    result_encoding: str
    result_content_type: str
    failure: Failure | None
    timeline: list[MarkView]
    replay_of: str
    dead: bool


class ExplanationView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/invocations/{id}/why`: the story of an invocation in words."""

    request_id: str
    function: str
    version: str
    outcome: str
    #: caller, function, platform; "" for success.
    fault: str
    #: One sentence: what happened.
    summary: str
    #: One sentence: why; "" for success.
    cause: str
    #: One sentence: what to do; "" for success.
    next: str
    #: Steps in order, each with milliseconds since acceptance.
    steps: list[StepView]
    stack: list[str]


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the story."""

    name: str
    offset_ms: float
    #: How long it took; null where a step is a moment.
    duration_ms: float | None
    text: str


class LogView(msgspec.Struct, frozen=True, kw_only=True):
    """A log record, one JSON line each."""

    at_ms: int
    level: str
    text: str
    function: str
    version: str
    request_id: str
    instance_id: str
    sequence: int


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster."""

    node_id: str
    state: str
    driver: str
    runtimes: list[str]
    slots: int
    slots_busy: int
    memory_mb: int
    instances: int
    architecture: str
    degraded: list[str]
    joined_at_ms: int
    heard_at_ms: int


class RuntimeView(msgspec.Struct, frozen=True, kw_only=True):
    """A language environment."""

    name: str
    language: str
    version: str
    default: bool


class AcceptedView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer 202 to an async call or a replay."""

    request_id: str
    location: str


class PurgeView(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were removed or replayed."""

    count: int


class FunctionList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of functions."""

    items: list[FunctionView]
    next_cursor: str = ""


class VersionList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of versions, newest first."""

    items: list[VersionView]
    next_cursor: str = ""


class AliasList(msgspec.Struct, frozen=True, kw_only=True):
    """All aliases of a function."""

    items: list[AliasView]
    next_cursor: str = ""


class InvocationList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of invocations, newest first."""

    items: list[InvocationView]
    next_cursor: str = ""


class NodeList(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes."""

    items: list[NodeView]
    next_cursor: str = ""


class RuntimeList(msgspec.Struct, frozen=True, kw_only=True):
    """All runtimes."""

    items: list[RuntimeView]
    next_cursor: str = ""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without the key itself."""

    key_id: str
    namespace: str
    admin: bool
    label: str
    created_at_ms: int


class KeyCreatedView(msgspec.Struct, frozen=True, kw_only=True):
    """A new key; `key` is told this once."""

    key: str
    key_id: str
    namespace: str
    admin: bool
    label: str
    created_at_ms: int


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/keys`; "" = the namespace of the request."""

    namespace: str = ""
    admin: bool = False
    label: str = ""


class SigningSecretView(msgspec.Struct, frozen=True, kw_only=True):
    """By which outcomes sent to URLs are signed; whoever knows it can sign as this namespace."""

    namespace: str
    #: `whsec_` and base64, as Standard Webhooks has it.
    secret: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of keys."""

    items: list[KeyView]
    next_cursor: str = ""


class PendingView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer 202 to a question for a result that is not there yet."""

    request_id: str
    #: queued or leased.
    state: str
    attempt: int


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /healthz` and `GET /readyz`: "" for each component that is well."""

    status: str
    components: dict[str, str] = {}


class ProgressView(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a deployment's progress."""

    phase: str
    line: str


class TriggerRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `PUT /v1/triggers/{name}`: the whole trigger; what is not given has its default."""

    function: str
    #: timer, event or folder; "" = the one whose source is given.
    kind: Literal["", "timer", "event", "folder"] = ""
    qualifier: str = ""
    description: str = ""
    timer: TimerSource | None = None
    event: EventFilter | None = None
    folder: FolderSource | None = None
    #: Timers: the event that the function is given; null = one that tells name and time.
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    #: null = as it is; a new trigger is enabled and not paused.
    enabled: bool | None = None
    paused: bool | None = None


class TriggerStateView(msgspec.Struct, frozen=True, kw_only=True):
    """What a trigger did; times are 0 and texts empty for what has not been."""

    last_run_at_ms: int
    last_request_id: str
    #: Timers: when it is due next; 0 = not.
    next_run_at_ms: int
    runs: int
    skipped: int
    failures: int
    last_failure: str
    last_failure_at_ms: int


class TriggerView(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger: what it was told, and what it did."""

    namespace: str
    name: str
    kind: TriggerKind
    function: str
    qualifier: str
    description: str
    timer: TimerSource | None
    event: EventFilter | None
    folder: FolderSource | None
    input: msgspec.Raw
    enabled: bool
    #: Why the platform disabled it; "" when its owner did, or it is enabled.
    disabled_because: str
    paused: bool
    created_at_ms: int
    updated_at_ms: int
    state: TriggerStateView


class TriggerList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of triggers by name."""

    items: list[TriggerView]
    next_cursor: str = ""


class FireRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/triggers/{name}/fire`; may be empty for a timer."""

    #: What the function is given; null = what a timer gives it.
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class MatchView(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger that an event matched, and the invocation that was accepted for it."""

    trigger: str
    function: str
    #: "" when it failed.
    request_id: str
    #: It was accepted before, when the same event came: nothing runs again.
    repeated: bool = False
    #: Why nothing was accepted for this trigger; "" when it was.
    failure: str = ""


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was taken."""

    id: str
    source: str
    matched: list[MatchView]
    #: Triggers that would have matched and are paused: they were not given it.
    paused: list[str] = []


class EventsView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer 202 of `POST /v1/events`: the events in the order in which they were sent."""

    events: list[EventView]
