"""What the processes without an API serve over HTTP: whether they live, are ready, and figures."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pratai.model.api import HealthView

_JSON = "application/json"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


def health_app(ready: Callable[[], dict[str, str]], metrics: Callable[[], bytes]) -> Starlette:
    """`GET /healthz`, `/readyz`, `/metrics`. `ready`: {component: what is wrong with it, or ""}."""

    async def healthz(request: Request) -> Response:  # noqa: ARG001 - shape of a route
        return _json(200, HealthView(status="ok"))

    async def readyz(request: Request) -> Response:  # noqa: ARG001
        components = ready()
        wrong = any(components.values())
        view = HealthView(status="not ready" if wrong else "ready", components=components)
        return _json(503 if wrong else 200, view)

    async def figures(request: Request) -> Response:  # noqa: ARG001
        return Response(metrics(), headers={"Content-Type": _METRICS})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", figures),
        ]
    )


def _json(status: int, view: HealthView) -> Response:
    return Response(msgspec.json.encode(view), status_code=status, media_type=_JSON)
