"""What is asked of the simulated platform: functions of many tempers, and calls of them."""

from __future__ import annotations

from random import Random

import msgspec

from pratai.model.invocation import Invocation
from pratai.wire.messages import Invoke

NAMESPACE = "default"
SPIKE_MS_MAX = 120


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """How one simulated function behaves. Shares are of its events, or of its starts."""

    name: str
    run_ms: tuple[int, int] = (0, 2)
    start_ms: tuple[int, int] = (5, 60)
    timeout_ms: int = 800
    attempts_max: int = 3
    backoff_ms: int = 40
    concurrency_max: int = 0
    event_age_max_ms: int = 30_000
    raises: float = 0.02
    crashes: float = 0.01
    hangs: float = 0.0
    #: Events that take up to `SPIKE_MS_MAX`, whatever `run_ms` says.
    spikes: float = 0.0
    init_fails: float = 0.01
    driver_fails: float = 0.01
    #: Share of its invocations that are synchronous.
    sync: float = 0.5
    keep_warm: int = 0

    @property
    def version_id(self) -> str:
        """The one version it has."""
        return f"{NAMESPACE}/{self.name}/1"


FUNCTIONS: tuple[Function, ...] = (
    Function(name="quick", run_ms=(0, 1)),
    Function(name="quick_async", run_ms=(0, 1), sync=0.0),
    Function(name="spiky", run_ms=(0, 0), spikes=0.15, crashes=0.25, hangs=0.01),
    Function(name="slow", run_ms=(20, 300)),
    Function(name="uneven", run_ms=(0, 120), hangs=0.05, timeout_ms=300),
    Function(name="limited", run_ms=(5, 40), concurrency_max=1),
    Function(name="impatient", run_ms=(10, 80), timeout_ms=60, event_age_max_ms=400),
    Function(name="raises", raises=0.6, sync=0.3, backoff_ms=150),
    Function(name="crashes", crashes=0.4, run_ms=(0, 20)),
    Function(name="hangs", hangs=0.4, timeout_ms=200, run_ms=(0, 20)),
    Function(name="broken_init", init_fails=0.5, driver_fails=0.2),
    Function(name="kept", run_ms=(1, 10), keep_warm=1),
    Function(name="once", attempts_max=1, raises=0.3, crashes=0.1, sync=0.2),
)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a client does."""

    at_ms: int
    request_id: str
    function: Function
    sync: bool
    #: With an idempotency key: kept in the journal although its caller waits.
    journalled: bool
    #: When the caller hangs up; 0 = it does not.
    gone_at_ms: int
    payload: bytes


def plan(chance: Random, count: int, start_ms: int) -> list[Call]:
    """The calls of one run, in order of time: single ones and bursts of a few functions."""
    functions = chance.sample(FUNCTIONS, chance.randint(1, 5))
    calls: list[Call] = []
    at_ms = start_ms
    while len(calls) < count:
        at_ms += round(chance.expovariate(1 / chance.choice((2, 10, 40))))
        burst = chance.randint(5, 25) if chance.random() < 0.05 else 1
        function = chance.choice(functions)
        for _ in range(min(burst, count - len(calls))):
            sync = chance.random() < function.sync
            leaves = sync and chance.random() < 0.08
            calls.append(
                Call(
                    at_ms=at_ms,
                    request_id=f"r{len(calls)}",
                    function=function,
                    sync=sync,
                    journalled=not sync or chance.random() < 0.15,
                    gone_at_ms=at_ms + chance.randint(0, 200) if leaves else 0,
                    payload=b"x" * chance.randint(1, 400),
                )
            )
    return calls


def invocation_of(call: Call, now_ms: int) -> Invocation:
    """The record that the journal keeps of a call."""
    function = call.function
    age_ms = function.timeout_ms if call.sync else function.event_age_max_ms
    return Invocation(
        namespace=NAMESPACE,
        request_id=call.request_id,
        function=function.name,
        version="1",
        mode="sync" if call.sync else "async",
        event=call.payload,
        accepted_at_ms=now_ms,
        timeout_ms=function.timeout_ms,
        attempts_max=1 if call.sync else function.attempts_max,
        backoff_ms=function.backoff_ms,
        expires_at_ms=now_ms + age_ms,
        concurrency_max=function.concurrency_max,
    )


def invoke_of(invocation: Invocation, *, reply_to: str, journalled: bool) -> Invoke:
    """The message that a gateway makes of a call."""
    return Invoke(
        request_id=invocation.request_id,
        namespace=invocation.namespace,
        function=invocation.function,
        version_id=invocation.version_id,
        reply_to=reply_to,
        deadline_ms=invocation.expires_at_ms,
        timeout_ms=invocation.timeout_ms,
        accepted_at_ms=invocation.accepted_at_ms,
        payload=invocation.event,
        journalled=journalled,
        attempts_max=invocation.attempts_max,
        backoff_ms=invocation.backoff_ms,
        concurrency_max=invocation.concurrency_max,
    )
