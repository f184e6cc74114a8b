"""The API as an ASGI application: the table of operations over the parts handed in."""

from __future__ import annotations

from collections import defaultdict

from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pratai import ids
from pratai.errors import NotFound
from pratai.gateway.api.context import ApiContext
from pratai.gateway.api.operations import Operation, PathEndpoint, problem_response
from pratai.gateway.api.routes import operations
from pratai.gateway.triggers import TriggerCatalog


def build_api(context: ApiContext) -> Starlette:
    """The ASGI application of the whole native API but `POST .../invocations`."""
    if context.triggers is None:
        context = replace(
            context,
            triggers=TriggerCatalog(
                context.store,
                shared=context.catalog.shared,
                triggers_max=context.config.gateway.triggers_max,
            ),
        )
    by_path: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations():
        by_path[operation.path].append(operation)
    routes = [
        Route(path.replace("{path}", "{path:path}"), PathEndpoint(context, group))
        for path, group in by_path.items()
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    app.router.default = _unknown_path
    return app


async def _unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a path that is not in the table."""
    error = NotFound(
        f"there is nothing at {scope['path'][:200]}",
        next_step="The paths there are: GET /v1/openapi.json",
        field="path",
        value=scope["path"],
    )
    await problem_response(error, ids.request_id())(scope, receive, send)
