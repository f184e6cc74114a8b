"""Handlers for what the platform consists of: nodes and runtimes."""

from __future__ import annotations

from starlette.responses import Response

from pratai.errors import NotFound
from pratai.gateway.api.operations import Call, json_response
from pratai.model.api import NodeList, NodeView, RuntimeList
from pratai.model.refusal import nearest


async def list_nodes(call: Call) -> Response:
    """`GET /v1/nodes`."""
    return json_response(NodeList(items=await call.context.nodes()))


async def read_node(call: Call) -> Response:
    """`GET /v1/nodes/{node_id}`."""
    return json_response(await _node(call))


async def drain_node(call: Call) -> Response:
    """`POST /v1/nodes/{node_id}/drain`."""
    return await _move(call, drain=True)


async def undrain_node(call: Call) -> Response:
    """`POST /v1/nodes/{node_id}/undrain`."""
    return await _move(call, drain=False)


async def list_runtimes(call: Call) -> Response:
    """`GET /v1/runtimes`."""
    return json_response(RuntimeList(items=call.context.runtimes()))


async def _move(call: Call, *, drain: bool) -> Response:
    node = await _node(call)
    await call.context.drain_node(node.node_id, drain)
    return json_response(await _node(call))


async def _node(call: Call) -> NodeView:
    node_id = call.text("node_id")
    nodes = {view.node_id: view for view in await call.context.nodes()}
    view = nodes.get(node_id)
    if view is None:
        near = nearest(node_id, nodes)
        raise NotFound(
            f"there is no node {node_id}",
            field="node_id",
            value=node_id,
            next_step=f"Did you mean {near}?" if near else "`pratai nodes` lists the nodes.",
        )
    return view
