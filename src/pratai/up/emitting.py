"""How an agent's emissions become accepted events: the version is found, the event journalled."""

from __future__ import annotations

from pratai import ids
from pratai.agent.messages import Emission, Emit
from pratai.gateway.accept import Acceptor
from pratai.gateway.lookup import Lookup


def emitter(catalog: Lookup, acceptor: Acceptor) -> Emit:
    """What an `AgentService` emits with."""

    async def emit(emission: Emission) -> str:
        version = await catalog.resolve(
            emission.namespace, emission.function, emission.qualifier, ids.chance()
        )
        accepted = await acceptor.accept(
            version,
            emission.event,
            content_type=emission.content_type,
            qualifier=emission.qualifier,
            idempotency_key=emission.idempotency_key,
            trigger=emission.trigger,
        )
        return accepted.request_id

    return emit
