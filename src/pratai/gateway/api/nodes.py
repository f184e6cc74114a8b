"""Handlers for what the platform consists of: nodes and runtimes."""

from __future__ import annotations

from starlette.responses import Response

from pratai.gateway.api.operations import Call, json_response
from pratai.model.api import NodeList, RuntimeList


async def list_nodes(call: Call) -> Response:
    """`GET /v1/nodes`."""
    return json_response(NodeList(items=call.context.nodes()))


async def list_runtimes(call: Call) -> Response:
    """`GET /v1/runtimes`."""
    return json_response(RuntimeList(items=call.context.runtimes()))
