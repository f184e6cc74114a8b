"""The one table of operations. The server, the OpenAPI document and the reference page read it."""

from __future__ import annotations

from pratai.gateway.api import keys, nodes, system, web
from pratai.gateway.api import parameters as p
from pratai.gateway.api.operations import Operation, Reply
from pratai.gateway.api.routes_functions import (
    aliases_rows,
    calls_rows,
    functions_rows,
    logs_rows,
    versions_rows,
)
from pratai.gateway.api.routes_records import (
    dead_letter_rows,
    dead_letters_rows,
    invocations_rows,
    stories_rows,
)
from pratai.gateway.api.routes_triggers import events_rows, triggers_rows
from pratai.gateway.api.rows import BODY, OF_FUNCTION, gone, ok
from pratai.model import api

_WEB_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def operations() -> list[Operation]:
    """All operations. Handlers with state (bounds) are made anew with each table."""
    return [
        *functions_rows(),
        *logs_rows(),
        *versions_rows(),
        *aliases_rows(),
        *calls_rows(),
        *invocations_rows(),
        *stories_rows(),
        *dead_letters_rows(),
        *dead_letter_rows(),
        *triggers_rows(),
        *events_rows(),
        *platform_rows(),
        *keys_rows(),
        *probes_rows(),
        *web_rows(),
    ]


def platform_rows() -> list[Operation]:
    """Rows of platform."""
    return [
        Operation(
            id="listNodes",
            method="GET",
            path="/v1/nodes",
            summary="All nodes.",
            tag="platform",
            handler=nodes.list_nodes,
            replies=ok(api.NodeList),
        ),
        Operation(
            id="readNode",
            method="GET",
            path="/v1/nodes/{node_id}",
            summary="One node.",
            tag="platform",
            handler=nodes.read_node,
            parameters=(p.NODE_ID,),
            problems=(404,),
            replies=ok(api.NodeView),
        ),
        Operation(
            id="drainNode",
            method="POST",
            path="/v1/nodes/{node_id}/drain",
            summary="Give a node no further calls; those it has go on.",
            tag="platform",
            handler=nodes.drain_node,
            parameters=(p.NODE_ID,),
            access="admin",
            problems=(404,),
            replies=ok(api.NodeView),
        ),
        Operation(
            id="undrainNode",
            method="POST",
            path="/v1/nodes/{node_id}/undrain",
            summary="Give a drained node calls again.",
            tag="platform",
            handler=nodes.undrain_node,
            parameters=(p.NODE_ID,),
            access="admin",
            problems=(404,),
            replies=ok(api.NodeView),
        ),
        Operation(
            id="listRuntimes",
            method="GET",
            path="/v1/runtimes",
            summary="All runtimes.",
            tag="platform",
            handler=nodes.list_runtimes,
            replies=ok(api.RuntimeList),
        ),
    ]


def keys_rows() -> list[Operation]:
    """Rows of keys."""
    return [
        Operation(
            id="listKeys",
            method="GET",
            path="/v1/keys",
            summary="List keys, without the keys themselves.",
            tag="keys",
            handler=keys.list_keys,
            parameters=(p.NAMESPACE, p.LIMIT, p.KEY_CURSOR),
            access="admin",
            replies=ok(api.KeyList),
        ),
        Operation(
            id="createKey",
            method="POST",
            path="/v1/keys",
            summary="Make a key. It is told in this answer alone.",
            tag="keys",
            handler=keys.create_key,
            parameters=(p.NAMESPACE,),
            body=api.KeyRequest,
            body_required=False,
            access="admin",
            problems=BODY,
            replies={
                201: Reply(
                    description="Created.",
                    model=api.KeyCreatedView,
                    headers=(("Location", "Where the key is deleted."),),
                )
            },
        ),
        Operation(
            id="deleteKey",
            method="DELETE",
            path="/v1/keys/{key_id}",
            summary="Make a key worthless.",
            tag="keys",
            handler=keys.delete_key,
            parameters=(p.NAMESPACE, p.KEY_ID),
            access="admin",
            problems=(404, 409),
            replies=gone("Deleted."),
        ),
        Operation(
            id="readSigningSecret",
            method="GET",
            path="/v1/signing-secret",
            summary="By which outcomes are signed that this namespace sends to URLs.",
            tag="keys",
            handler=keys.read_signing_secret,
            parameters=(p.NAMESPACE,),
            replies=ok(api.SigningSecretView),
        ),
    ]


def probes_rows() -> list[Operation]:
    """Rows of probes."""
    return [
        Operation(
            id="readOpenapi",
            method="GET",
            path="/v1/openapi.json",
            summary="This document.",
            tag="probes",
            handler=system.openapi,
            access="open",
            replies={200: Reply(description="OpenAPI 3.1.", media=("application/json",))},
        ),
        Operation(
            id="readHealth",
            method="GET",
            path="/healthz",
            summary="Whether the process lives.",
            tag="probes",
            handler=system.health,
            access="open",
            replies=ok(api.HealthView),
        ),
        Operation(
            id="readReadiness",
            method="GET",
            path="/readyz",
            summary="Whether calls should be sent here.",
            tag="probes",
            handler=system.readiness,
            access="open",
            replies=ok(api.HealthView),
        ),
        Operation(
            id="readMetrics",
            method="GET",
            path="/metrics",
            summary="Figures for Prometheus. From this machine no key is needed.",
            tag="probes",
            handler=system.metrics,
            access="loopback",
            replies={200: Reply(description="Text format 0.0.4.", media=("text/plain",))},
        ),
    ]


def web_rows() -> list[Operation]:
    """Rows of web."""
    any_reply = {200: Reply(description="Whatever the function answers.", media=("*/*",))}
    return [
        Operation(
            id=f"{method.lower()}Endpoint{suffix}",
            method=method,
            path=path,
            summary="A function as a web endpoint (Lambda payload format 2.0). Open without a key "
            "when the function is `public`. Any method, status and content type.",
            tag="web",
            handler=web.call_endpoint,
            parameters=(*OF_FUNCTION, *below),
            access="endpoint",
            problems=(404, 413, 429, 502, 504),
            query_free=True,
            replies=any_reply,
        )
        for path, suffix, below in (
            ("/fn/{name}", "", ()),
            ("/fn/{name}/{path}", "Below", (p.PATH,)),
        )
        for method in _WEB_METHODS
    ]
