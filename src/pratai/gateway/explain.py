"""The story of an invocation in words: what happened, why, whose fault, what to do. Pure.

`REASONS` is the whole table of failure codes; a code that is not in it is told by the outcome.
"""

from __future__ import annotations

import msgspec

from pratai.model.api import ExplanationView, StepView
from pratai.model.invocation import FaultKind, Invocation, Mark


class Reason(msgspec.Struct, frozen=True):
    """Why an invocation did not succeed. Texts are filled in by `str.format`."""

    fault: FaultKind
    cause: str
    next: str


_FUNCTION: FaultKind = "function"
_PLATFORM: FaultKind = "platform"
_CALLER: FaultKind = "caller"
_READ_LOGS = "Read its logs with `pratai logs --request-id {request_id}`"
_SEE_NODE = "Call again; if it repeats, look at the log of node {node}."

REASONS: dict[str, Reason] = {
    "function_error": Reason(
        _FUNCTION,
        "The handler raised {error}.",
        _READ_LOGS + ", mend the line the stack names, deploy, then replay.",
    ),
    "import_error": Reason(
        _FUNCTION,
        "Importing the code failed before any event was given to it: {error}.",
        "Import the module on your machine; add what is missing to requirements.txt and deploy.",
    ),
    "handler_missing": Reason(
        _FUNCTION,
        "The handler that the configuration names is not in the package: {message}.",
        "Deploy with `--handler module:function` naming a function that exists.",
    ),
    "result_unserialisable": Reason(
        _FUNCTION,
        "What the handler returned cannot be written as JSON: {message}.",
        "Return JSON types or bytes, e.g. str(value) for a date or a decimal.",
    ),
    "result_too_large": Reason(
        _FUNCTION,
        "The result is larger than a result may be: {message}.",
        "Store the data elsewhere and return where it is.",
    ),
    "bad_response": Reason(
        _FUNCTION,
        "What the handler returned is not an HTTP response: {message}.",
        "Return a statusCode from 100 to 599, headers as strings and a text body.",
    ),
    "event_unreadable": Reason(
        _CALLER,
        "The event does not have the content type it was sent as: {message}.",
        "Send the event with the content type that it has.",
    ),
    "exited": Reason(
        _FUNCTION,
        "The code ended its own process before it gave a result: {message}.",
        "Return from the handler in place of calling sys.exit or os._exit.",
    ),
    "crashed": Reason(
        _FUNCTION,
        "The process of the function was ended by a signal: {message}.",
        "Look for native code that fails (a C extension, ctypes); test the same event locally.",
    ),
    "out_of_memory": Reason(
        _FUNCTION,
        "It used more than its {memory_mb} MB of memory and was killed.",
        "Raise memory_mb, or read the data in parts.",
    ),
    "init_timeout": Reason(
        _FUNCTION,
        "Importing the code took longer than an instance may take to start.",
        "Move slow work from import time into the handler.",
    ),
    "timed_out_queued": Reason(
        _PLATFORM,
        "It waited its whole {timeout_ms} ms in the queue; no instance became free.",
        "Raise concurrency_max or the node's slots, or call it less often.",
    ),
    "timed_out_starting": Reason(
        _FUNCTION,
        "Its {timeout_ms} ms passed while an instance was starting (import included).",
        "Raise timeout_ms, set keep_warm, or import less when the module loads.",
    ),
    "timed_out_running": Reason(
        _FUNCTION,
        "The handler still ran after {timeout_ms} ms and was killed.",
        "Raise timeout_ms, or find in its logs where the time goes.",
    ),
    "throttled": Reason(
        _CALLER,
        "Too many calls of {function} waited already, so this one was refused.",
        "Call less often, or raise concurrency_max or the node's slots.",
    ),
    "event_too_old": Reason(
        _PLATFORM,
        "The event was older than event_age_max_ms before an attempt could begin.",
        "Replay it; raise event_age_max_ms or give the function more room.",
    ),
    "caller_gone": Reason(
        _CALLER,
        "The caller closed its connection before there was a result.",
        "Wait longer in the client, or call it asynchronously.",
    ),
    "recoveries_exhausted": Reason(
        _PLATFORM,
        "The platform died under it {attempts} times, so it was given up.",
        "Check whether this event brings the node down, then replay it.",
    ),
    "node_lost": Reason(
        _PLATFORM,
        "Node {node} was lost while it ran this.",
        _SEE_NODE,
    ),
    "dispatch_lost": Reason(
        _PLATFORM,
        "Node {node} did not have this attempt any more and had said nothing of its end.",
        _SEE_NODE,
    ),
    "lease_expired": Reason(
        _PLATFORM,
        "Node {node} did not say in time how the attempt ended.",
        _SEE_NODE,
    ),
    "returned": Reason(
        _PLATFORM,
        "Node {node} gave it back before it ran, because it was shutting down.",
        "Nothing if it was repeated; otherwise replay it.",
    ),
    "start_failed": Reason(
        _PLATFORM,
        "No instance could be started on node {node}: {message}.",
        "Look at the log of node {node}; `pratai doctor` tells what its driver lacks.",
    ),
    "apt_unsupported": Reason(
        _PLATFORM,
        "It needs packages of Debian, which node {node} does not install: {message}.",
        "Give the cluster a node with [driver] name = docker, or remove `apt`.",
    ),
    "image_build_failed": Reason(
        _PLATFORM,
        "Its image could not be built on node {node}: {message}.",
        "Look at the names in `apt`, and whether the node reaches its package mirror.",
    ),
    "engine_unreachable": Reason(
        _PLATFORM,
        "The Docker engine of node {node} does not answer: {message}.",
        "Start the engine, or set [driver] docker_host to where it listens.",
    ),
    "package_unavailable": Reason(
        _PLATFORM,
        "Node {node} could not get the code or its dependencies: {message}.",
        "See that gateways run and that the node reaches them, then replay.",
    ),
    "package_damaged": Reason(
        _PLATFORM,
        "What is kept of the code or its dependencies is damaged: {message}.",
        "Deploy the function again.",
    ),
    "cluster_key_refused": Reason(
        _PLATFORM,
        "The gateways refuse node {node}: {message}.",
        "Let [queue] key_file name the same cluster key on every machine.",
    ),
    "layer_of_other_machine": Reason(
        _PLATFORM,
        "The dependencies are for another kind of machine than node {node}: {message}.",
        "Give the cluster nodes of the kind of machine that its gateways are.",
    ),
    "node_cache_full": Reason(
        _PLATFORM,
        "Node {node} has no room for the code beside what it runs: {message}.",
        "Raise [node] cache_bytes_max, or add a node.",
    ),
    "store_unavailable": Reason(
        _PLATFORM,
        "The store could not be reached or refused the write: {message}.",
        "Check the store's disk and the state that /readyz tells, then replay.",
    ),
    "draining": Reason(
        _PLATFORM,
        "The process that had it was shutting down.",
        "Call again.",
    ),
    "discarded": Reason(
        _PLATFORM,
        "It was given up before it could run.",
        "Replay it.",
    ),
    "platform_error": Reason(
        _PLATFORM,
        "The platform failed: {message}.",
        "Call again; if it repeats, give the request id to the operator.",
    ),
}

#: Other names of the same reason.
_SAME = {
    "timed_out_queue": "timed_out_queued",
    "timed_out_start": "timed_out_starting",
    "timed_out_run": "timed_out_running",
    "queue_full": "throttled",
    "backlog_full": "throttled",
    "signal": "crashed",
    "internal": "platform_error",
    "recoveries": "recoveries_exhausted",
}
_OF_OUTCOME = {
    "failed": "function_error",
    "crashed": "crashed",
    "throttled": "throttled",
    "discarded": "discarded",
}
_ENDED = {
    "succeeded": "succeeded",
    "failed": "failed",
    "timed_out": "timed out",
    "crashed": "crashed",
    "throttled": "was refused",
    "discarded": "was discarded",
}


def explain(invocation: Invocation) -> ExplanationView:
    """The story of one invocation."""
    fault: FaultKind = ""
    cause = advice = ""
    if invocation.state == "done" and invocation.outcome != "succeeded":
        fault, cause, advice = _why(invocation)
    return ExplanationView(
        request_id=invocation.request_id,
        function=invocation.function,
        version=invocation.version,
        outcome=invocation.outcome,
        fault=fault,
        summary=_summary(invocation),
        cause=cause,
        next=advice,
        steps=_steps(invocation),
        stack=list(invocation.failure.stack) if invocation.failure else [],
    )


def reason_code(invocation: Invocation) -> str:
    """Which entry of `REASONS` tells why it ended so."""
    code = invocation.failure.code if invocation.failure else ""
    code = _SAME.get(code, code)
    if code in REASONS:
        return code
    if invocation.outcome == "timed_out":
        return f"timed_out_{_stage(invocation)}"
    return _OF_OUTCOME.get(invocation.outcome, "platform_error")


def _why(invocation: Invocation) -> tuple[FaultKind, str, str]:
    reason = REASONS[reason_code(invocation)]
    failure = invocation.failure
    kind = failure.error_type if failure else ""
    message = failure.error_message if failure else ""
    parts = {
        "request_id": invocation.request_id,
        "function": invocation.function,
        "timeout_ms": invocation.timeout_ms,
        "memory_mb": invocation.memory_mb,
        "attempts": max(1, invocation.attempt),
        "node": invocation.node_id or "?",
        "message": (message or kind or "it said no more").rstrip("."),
        "error": (": ".join(part for part in (kind, message) if part) or "an error").rstrip("."),
    }
    fault = failure.fault if failure and failure.fault else reason.fault
    told = failure.next if failure and failure.next else reason.next.format_map(parts)
    return fault, reason.cause.format_map(parts), told


def _stage(invocation: Invocation) -> str:
    names = {mark.name for mark in invocation.timeline if mark.attempt == invocation.attempt}
    if invocation.run_us or names & {"started", "ran"}:
        return "running"
    if invocation.node_id or "placed" in names:
        return "starting"
    return "queued"


def _summary(invocation: Invocation) -> str:
    what = f"{invocation.function} version {invocation.version}"
    if invocation.state == "queued":
        return f"{what} waits to run (attempt {invocation.attempt + 1})."
    if invocation.state == "leased":
        return f"{what} runs now (attempt {invocation.attempt})."
    ended = _ENDED.get(invocation.outcome, invocation.outcome)
    took = max(0, invocation.finished_at_ms - invocation.accepted_at_ms)
    told = f"{what} {ended} after {took} ms"
    if invocation.attempt > 1:
        attempts_max = max(invocation.attempt, invocation.attempts_max)
        told += f", at attempt {invocation.attempt} of {attempts_max}"
    return f"{told}."


def _steps(invocation: Invocation) -> list[StepView]:
    steps = [
        StepView(
            name="accepted",
            offset_ms=0.0,
            duration_ms=None,
            text=f"Accepted as {_article(invocation.mode)} call by way of {invocation.trigger}.",
        )
    ]
    steps += _earlier_attempts(invocation)
    if invocation.state == "queued":
        steps.append(_step("queued", _last_offset(steps), None, "Waits for a free instance."))
        return steps
    steps += _last_attempt(invocation, _attempt_offset(invocation))
    if invocation.state == "done":
        steps.append(_answered(invocation))
    return steps


def _earlier_attempts(invocation: Invocation) -> list[StepView]:
    texts = {
        "retried": "Attempt {attempt} did not succeed; another was planned.",
        "recovered": "The platform restarted; attempt {attempt} was taken up again.",
    }
    return [
        _step(
            mark.name,
            float(_offset(invocation, mark)),
            None,
            texts[mark.name].format(attempt=mark.attempt) + (f" {mark.detail}" * bool(mark.detail)),
        )
        for mark in invocation.timeline
        if mark.name in texts
    ]


def _last_attempt(invocation: Invocation, at_ms: float) -> list[StepView]:
    """queued, placed, started, ran: as far as it came. `at_ms`: when it was placed."""
    queue_ms = invocation.queue_us / 1_000
    steps = [_step("queued", max(0.0, at_ms - queue_ms), queue_ms, "Waited for a free instance.")]
    if not invocation.node_id:
        return steps
    steps.append(_step("placed", at_ms, None, f"Given to node {invocation.node_id}."))
    start_ms = invocation.start_us / 1_000
    if invocation.start_kind:
        steps.append(_step("started", at_ms, start_ms, _start_text(invocation)))
    if invocation.run_us:
        run_ms = invocation.run_us / 1_000
        steps.append(_step("ran", at_ms + start_ms, run_ms, f"The handler ran {run_ms:.1f} ms."))
    return steps


def _answered(invocation: Invocation) -> StepView:
    took = float(max(0, invocation.finished_at_ms - invocation.accepted_at_ms))
    ended = _ENDED.get(invocation.outcome, invocation.outcome)
    verb = "The caller was answered" if invocation.mode == "sync" else "The outcome was recorded"
    kept = " It is kept as a dead letter." if invocation.dead else ""
    return _step("answered", took, None, f"{verb}: it {ended}.{kept}")


def _start_text(invocation: Invocation) -> str:
    if invocation.start_kind != "cold":
        kept = "An instance kept ready" if invocation.start_kind == "provisioned" else "A warm one"
        return f"{kept} took it ({invocation.instance_id or 'instance unknown'})."
    why = invocation.cold_reason or "no instance was idle"
    return f"Cold start of {invocation.start_us / 1_000:.1f} ms: {why}."


def _attempt_offset(invocation: Invocation) -> float:
    for mark in reversed(invocation.timeline):
        if mark.name == "placed" and mark.attempt in (0, invocation.attempt):
            return float(_offset(invocation, mark))
    if invocation.attempt <= 1 or not invocation.finished_at_ms:
        return invocation.queue_us / 1_000
    took = invocation.finished_at_ms - invocation.accepted_at_ms
    return max(0.0, took - (invocation.start_us + invocation.run_us) / 1_000)


def _offset(invocation: Invocation, mark: Mark) -> int:
    return max(0, mark.at_ms - invocation.accepted_at_ms)


def _last_offset(steps: list[StepView]) -> float:
    return max(step.offset_ms for step in steps)


def _step(name: str, offset_ms: float, duration_ms: float | None, text: str) -> StepView:
    return StepView(name=name, offset_ms=offset_ms, duration_ms=duration_ms, text=text)


def _article(mode: str) -> str:
    return "an async" if mode == "async" else "a sync"
