"""How a dispatch ends: the messages that say so, and the failures of the node itself. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from pratai.model.invocation import Failure, OutcomeKind
from pratai.node.pool import Held
from pratai.wire.instance import Answered, Streamed
from pratai.wire.messages import Chunk, Dispatch, Outcome, Result

RETURNED = Failure(
    code="returned",
    fault="platform",
    error_message="the node was shutting down before it began",
    next="Call again.",
)
#: Codes of failures that say of the node, not of the version, that they do not go together.
UNFIT_CODES = frozenset({"apt_unsupported", "layer_of_other_machine"})
CALLER_GONE = Failure(
    code="caller_gone",
    fault="caller",
    error_message="the caller hung up before the result was there",
    next="Nothing, or call asynchronously if the caller cannot wait.",
)


def refused_here(held: Held, failure: Failure) -> Failure:
    """How a call ends whose version cannot be made ready here. What may run elsewhere does, and
    whoever waits for it is not told.
    """
    if failure.code not in UNFIT_CODES or not held.dispatch.movable:
        return failure
    held.dispatch = replace(held.dispatch, reply_to="")
    return replace(failure, code="unfit")


def timed_out(dispatch: Dispatch, stage: str, waited_ms: int) -> Failure:
    """The failure of an attempt whose deadline passed in the node, running or starting."""
    if stage == "run":
        return Failure(
            code="timed_out",
            stage="run",
            fault="function",
            error_message=f"it was still running after its timeout of {dispatch.timeout_ms} ms",
            next="Raise its timeout_ms (at most 900,000), or make it faster.",
        )
    return Failure(
        code="timed_out",
        stage="start",
        fault="platform",
        error_message=f"no instance of it was free or started within {waited_ms} ms",
        next="Raise its concurrency_max or the node's slots, or import less at its start.",
    )


def chunk_of(held: Held, streamed: Streamed) -> Chunk:
    """A part of a streamed result, for the caller that waits."""
    return Chunk(
        request_id=held.dispatch.request_id,
        payload=streamed.payload,
        content_type=streamed.content_type,
    )


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one dispatch, told twice: to who waits, and to the collector."""

    node_id: str
    outcome: OutcomeKind
    failure: Failure | None
    #: What the instance said, if it did.
    answered: Answered | None
    now_ms: int

    def run_us(self, held: Held) -> int:
        """As measured by the instance; else from when it was given the event."""
        if self.answered is not None:
            return self.answered.run_us
        return (self.now_ms - held.started_at_ms) * 1_000 if held.started_at_ms else 0

    def result(self, held: Held) -> Result:
        """For the caller that waits."""
        dispatch, answered = held.dispatch, self.answered
        return Result(
            request_id=dispatch.request_id,
            outcome=self.outcome,
            payload=answered.payload if answered is not None else b"",
            content_type=answered.content_type if answered is not None else "application/json",
            failure=self.failure,
            attempt=dispatch.attempt,
            node_id=self.node_id,
            instance_id=held.instance_id,
            start_kind=held.start_kind,
            cold_reason=held.cold_reason,
            start_us=held.start_us,
            run_us=self.run_us(held),
            placed_at_ms=dispatch.dispatched_at_ms,
            started_at_ms=held.started_at_ms,
            streamed=answered is not None and answered.streamed,
        )

    def outcome_of(self, held: Held) -> Outcome:
        """For the collector; the payload only where it is to be recorded."""
        dispatch, answered = held.dispatch, self.answered
        if not dispatch.journalled:
            return Outcome(
                request_id=dispatch.request_id,
                attempt=dispatch.attempt,
                node_id=self.node_id,
                outcome=self.outcome,
                failure=self.failure,
                run_us=self.run_us(held),
            )
        return Outcome(
            request_id=dispatch.request_id,
            attempt=dispatch.attempt,
            node_id=self.node_id,
            outcome=self.outcome,
            namespace=dispatch.namespace,
            payload=answered.payload if answered is not None else b"",
            content_type=answered.content_type if answered is not None else "application/json",
            failure=self.failure,
            instance_id=held.instance_id,
            start_kind=held.start_kind,
            cold_reason=held.cold_reason,
            start_us=held.start_us,
            run_us=self.run_us(held),
            placed_at_ms=dispatch.dispatched_at_ms,
            received_at_ms=held.received_at_ms,
            started_at_ms=held.started_at_ms,
            finished_at_ms=self.now_ms,
        )
