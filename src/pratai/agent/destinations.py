"""Works deliveries off: offers each to its destination until it is taken or given up.

A delivery is claimed by compare-and-set before it is offered, so that two agents do not offer it
both; an agent that dies leaves a claim that ends. A destination may still get an outcome twice (it
took it, and the agent died before it wrote that down): `webhook-id` and the idempotency key stay
the same, and by them it can tell.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import structlog
from msgspec.structs import replace

from pratai import ids
from pratai.agent.deliveries import delivery_id, delivery_of, document_of, postponed
from pratai.agent.messages import Emission, Emit
from pratai.agent.posting import Answer, post
from pratai.agent.signing import signed_headers
from pratai.clock import now_ms
from pratai.config import schema
from pratai.errors import Conflict, PrataiError, StoreUnavailable
from pratai.metrics import count
from pratai.model.trigger import DELIVERY, Delivery
from pratai.store.base import Document, Store
from pratai.store.signing import signing_secret

_log = structlog.get_logger("pratai.agent")
#: Deliveries read at one time, and in one look; what is beyond waits for the next one.
PAGE, LOOKED_AT_MAX = 500, 20_000
#: Deliveries that are due and wait here for a thread; further ones wait in the store.
DUE_MAX = 1_000
FUNCTION = "function:"


class Destinations:
    """The deliveries of this agent."""

    def __init__(self, config: schema.Agent, agent_id: str, *, store: Store, emit: Emit) -> None:
        self._config = config
        self._agent_id = agent_id
        self._store = store
        self._emit = emit
        self._threads = ThreadPoolExecutor(config.deliver_max, thread_name_prefix="deliver")
        self._room = asyncio.Semaphore(config.deliver_max)
        #: {(namespace, id): its task}; at most `DUE_MAX`.
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        #: Where the next look begins, when one look does not see all.
        self._after = ""
        #: Seen at the last look.
        self.waiting = 0

    async def look(self) -> None:
        """Find what is due and begin to offer it."""
        seen, after, at_ms = 0, self._after, now_ms()
        while True:
            page = await self._store.documents(DELIVERY, None, after=after, limit=PAGE)
            for document in page:
                self._consider(document, at_ms)
            seen += len(page)
            if len(page) < PAGE:
                self._after = ""
                break
            after = f"{page[-1].namespace}/{page[-1].id}"
            if seen >= LOOKED_AT_MAX:
                self._after = after
                break
        self.waiting = seen

    async def stop(self) -> None:
        """End; claims of what was being offered end by themselves."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _consider(self, document: Document, at_ms: int) -> None:
        key = (document.namespace, document.id)
        if key in self._tasks or len(self._tasks) >= DUE_MAX:
            return
        delivery = delivery_of(document)
        claimed = 0 < delivery.claimed_until_ms - at_ms <= self._claim_ms
        if delivery.next_attempt_at_ms > at_ms or claimed:
            return
        task = asyncio.get_running_loop().create_task(self._work_off(document, delivery))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    @property
    def _claim_ms(self) -> int:
        """A claim outlasts the attempt that it is for."""
        return self._config.lease_ms + self._config.deliver_timeout_ms

    async def _work_off(self, document: Document, delivery: Delivery) -> None:
        """The boundary of one delivery: whatever fails, the others go on and it comes again."""
        try:
            async with self._room:
                await self._attempt(document, delivery)
        except Conflict:
            count("deliveries_claimed_elsewhere")
        except PrataiError as error:
            _log.warning("delivery_postponed", request_id=delivery.request_id, error=error.detail)
        except Exception:  # noqa: BLE001  the boundary, see above
            count("agent_failures")
            _log.exception("delivery_failed", request_id=delivery.request_id)

    async def _attempt(self, document: Document, delivery: Delivery) -> None:
        at_ms = now_ms()
        claimed = replace(
            delivery, claimed_by=self._agent_id, claimed_until_ms=at_ms + self._claim_ms
        )
        revision = await self._store.put(document_of(claimed, document.revision))
        if claimed.destination.startswith(FUNCTION):
            answer = await self._run(claimed)
        else:
            answer = await self._post(claimed)
        if answer.delivered:
            count("deliveries")
            await self._remove(claimed, revision)
            return
        later = None
        if not answer.final:
            later = postponed(
                claimed,
                now_ms(),
                failure=answer.detail,
                attempts_max=self._config.deliver_attempts_max,
                asked_ms=answer.retry_after_ms,
                chance=ids.chance(),
            )
        if later is None:
            count("deliveries_given_up")
            _log.warning(
                "delivery_given_up",
                request_id=claimed.request_id,
                namespace=claimed.namespace,
                function=claimed.function,
                destination=claimed.destination,
                attempts=claimed.attempts + 1,
                failure=answer.detail,
            )
            await self._remove(claimed, revision)
            return
        count("deliveries_postponed")
        await self._store.put(document_of(later, revision))

    async def _remove(self, delivery: Delivery, revision: int) -> None:
        await self._store.delete(document_of(delivery, revision))

    async def _run(self, delivery: Delivery) -> Answer:
        """Give it to a function."""
        try:
            await self._emit(
                Emission(
                    namespace=delivery.namespace,
                    function=delivery.destination.removeprefix(FUNCTION),
                    event=delivery.body,
                    trigger="destination",
                    idempotency_key=f"destination:{delivery.request_id}:{delivery.destination}",
                )
            )
        except StoreUnavailable:
            raise
        except PrataiError as error:
            if error.code == "idempotency_key_reused":
                return Answer(status=200)
            wait_ms = 1_000 * (error.retry_after_s or 0)
            return Answer(detail=error.detail, retry_after_ms=wait_ms)
        return Answer(status=202)

    async def _post(self, delivery: Delivery) -> Answer:
        """Send it to a URL, signed."""
        secret = await signing_secret(self._store, delivery.namespace)
        at_ms = now_ms()
        headers = signed_headers(secret, delivery_id(delivery), now_ms=at_ms, body=delivery.body)
        headers |= {"content-type": "application/json", "user-agent": "pratai"}
        config = self._config
        return await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: post(
                delivery.destination,
                delivery.body,
                headers,
                timeout_s=config.deliver_timeout_ms / 1_000,
                hosts=config.deliver_hosts,
                private=config.deliver_private,
                now_ms=at_ms,
            ),
        )
