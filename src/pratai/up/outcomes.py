"""What becomes of asynchronous outcomes beside their record: lines, figures, destinations.

Used by whoever runs a collector: the embedded platform and the scheduler process.
"""

from __future__ import annotations

from typing import cast

import msgspec
import structlog

from pratai.agent.deliveries import put_delivery
from pratai.clock import now_ms
from pratai.config.schema import Config
from pratai.core.effects import Deliver, RecordOutcome
from pratai.errors import PrataiError
from pratai.gateway.accept import Acceptor
from pratai.gateway.lookup import Lookup
from pratai.log import CanonicalLine, CanonicalLog
from pratai.metrics import Durations, count
from pratai.model.trigger import Delivery
from pratai.store.base import Store
from pratai.wire.messages import Outcome

_log = structlog.get_logger("pratai.collector")
_FUNCTION = "function:"


class Outcomes:
    """Hooks of a collector."""

    def __init__(
        self,
        config: Config,
        *,
        store: Store,
        catalog: Lookup,
        acceptor: Acceptor,
        durations: Durations,
        canonical: CanonicalLog,
    ) -> None:
        self._config = config
        self._store = store
        self._catalog = catalog
        self._acceptor = acceptor
        self._durations = durations
        self._canonical = canonical

    async def deliver(self, effect: Deliver) -> None:
        """Hand an outcome to the destination that its function names: a function at once, if it
        takes it; anything else is kept as a delivery, which an agent works off.

        Raises:
            StoreUnavailable: nothing could be written; hand it on again.

        """
        outcome = cast("Outcome", effect.outcome)
        version = await self._catalog.version_by_id(effect.version_id)
        if version is None:
            return
        config = version.config
        destination = config.on_success if outcome.outcome == "succeeded" else config.on_failure
        if not destination:
            return
        body = await self._event(effect, outcome)
        if destination.startswith(_FUNCTION) and await self._run(effect, destination, body):
            return
        at_ms = now_ms()
        await put_delivery(
            self._store,
            Delivery(
                request_id=outcome.request_id,
                namespace=effect.namespace,
                function=effect.function,
                destination=destination,
                body=body,
                created_at_ms=at_ms,
                next_attempt_at_ms=at_ms,
                expires_at_ms=at_ms + self._config.agent.deliver_age_max_ms,
            ),
        )

    async def _run(self, effect: Deliver, destination: str, body: bytes) -> bool:
        """Whether the destination's function took it."""
        outcome = cast("Outcome", effect.outcome)
        try:
            target = await self._catalog.resolve(
                effect.namespace, destination.removeprefix(_FUNCTION), "", 0.5
            )
            await self._acceptor.accept(
                target,
                body,
                trigger="destination",
                idempotency_key=f"destination:{outcome.request_id}:{destination}",
            )
        except PrataiError as error:
            count("destinations_failed")
            _log.warning(
                "destination_failed",
                request_id=outcome.request_id,
                destination=destination,
                error=error.detail,
            )
            return False
        return True

    async def _event(self, effect: Deliver, outcome: Outcome) -> bytes:
        event = await self._store.event(effect.namespace, outcome.request_id)
        document = {
            "request_id": outcome.request_id,
            "function": effect.function,
            "outcome": outcome.outcome,
            "attempts": outcome.attempt,
            "failure": outcome.failure,
            "event": _as_json(event or b""),
            "result": _as_json(outcome.payload),
        }
        return msgspec.json.encode(document)

    def observe(self, effect: RecordOutcome) -> None:
        """Count an async invocation that ended and write its canonical line."""
        outcome = cast("Outcome", effect.outcome)
        total_us = effect.queue_us + outcome.start_us + outcome.run_us
        self._durations.observe(
            effect.namespace,
            effect.function,
            outcome=outcome.outcome,
            start_kind=outcome.start_kind,
            duration_us=total_us,
        )
        self._canonical.add(
            CanonicalLine(
                at_ms=now_ms(),
                request_id=outcome.request_id,
                namespace=effect.namespace,
                function=effect.function,
                version="",
                mode="async",
                outcome=outcome.outcome,
                code=outcome.failure.code if outcome.failure is not None else "",
                attempt=outcome.attempt,
                start_kind=outcome.start_kind,
                node_id=outcome.node_id,
                instance_id=outcome.instance_id,
                queue_us=effect.queue_us,
                start_us=outcome.start_us,
                run_us=outcome.run_us,
                total_us=total_us,
                event_bytes=0,
                result_bytes=len(outcome.payload),
            )
        )


def _as_json(payload: bytes) -> msgspec.Raw | str | None:
    if not payload:
        return None
    try:
        msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload.decode("utf-8", "replace")
    return msgspec.Raw(payload)
