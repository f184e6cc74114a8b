"""Handlers for probes and machines: health, readiness, metrics, the OpenAPI document."""

from __future__ import annotations

from starlette.responses import Response

from pratai.errors import PlatformError
from pratai.gateway.api.operations import JSON, Call, json_response
from pratai.model.api import HealthView

METRICS = "text/plain; version=0.0.4; charset=utf-8"


async def health(call: Call) -> Response:  # noqa: ARG001 - handlers share one signature
    """`GET /healthz`: the process lives."""
    return json_response(HealthView(status="ok"))


async def readiness(call: Call) -> Response:
    """`GET /readyz`: whether calls should be sent here."""
    components = call.context.ready()
    wrong = [f"{name}: {why}" for name, why in components.items() if why]
    if wrong:
        raise PlatformError(
            f"not ready: {'; '.join(wrong)}",
            code="not_ready",
            next_step="Send calls to another gateway until this one is ready.",
            retry_after_s=1,
        )
    return json_response(HealthView(status="ready", components=components))


async def metrics(call: Call) -> Response:
    """`GET /metrics`, for Prometheus."""
    return Response(call.context.metrics(), headers={"Content-Type": METRICS})


async def openapi(call: Call) -> Response:
    """`GET /v1/openapi.json`."""
    from pratai.gateway.api.openapi import document_bytes

    return Response(document_bytes(call.context.base_url), media_type=JSON)
