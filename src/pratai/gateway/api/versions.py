"""Handlers for versions and aliases: list, publish, roll back, point."""

from __future__ import annotations

from starlette.responses import Response

from pratai.gateway.api.operations import Call, json_response
from pratai.gateway.lookup import no_qualifier
from pratai.gateway.views import alias_view, function_view, version_view
from pratai.model.api import (
    AliasList,
    AliasRequest,
    PublishRequest,
    RollbackRequest,
    VersionList,
)
from pratai.model.refusal import invalid
from pratai.model.validation import DESCRIPTION_CHARS_MAX, check_weights, parse_body

#: Further versions that an alias may send calls to; with one, no sum of shares can be wrong.
WEIGHTS_MAX = 1


async def list_versions(call: Call) -> Response:
    """`GET /v1/functions/{name}/versions`, newest first."""
    cursor = call.text("cursor")
    function = await call.context.catalog.get(call.namespace, call.text("name"))
    versions, below = await call.context.catalog.versions(
        function, below=int(cursor) if cursor else None, limit=call.whole("limit")
    )
    views = [version_view(version, function) for version in versions]
    return json_response(VersionList(items=views, next_cursor=str(below) if below else ""))


async def publish(call: Call) -> Response:
    """`POST /v1/functions/{name}/versions`."""
    raw = await call.body()
    wanted = parse_body(raw, PublishRequest) if raw else PublishRequest()
    if len(wanted.description) > DESCRIPTION_CHARS_MAX:
        allowed = f"at most {DESCRIPTION_CHARS_MAX} characters"
        raise invalid("description", wanted.description, allowed)
    catalog, name = call.context.catalog, call.text("name")
    version = await catalog.publish(call.namespace, name, wanted.description)
    function = await catalog.get(call.namespace, name)
    return json_response(version_view(version, function))


async def rollback(call: Call) -> Response:
    """`POST /v1/functions/{name}/rollback`."""
    raw = await call.body()
    wanted = parse_body(raw, RollbackRequest) if raw else RollbackRequest()
    catalog = call.context.catalog
    function = await catalog.rollback(call.namespace, call.text("name"), wanted.version)
    version = await catalog.version(function, function.latest)
    call.context.version_changed(version, version.version_id)
    return json_response(function_view(function, version, call.context.base_url))


async def list_aliases(call: Call) -> Response:
    """`GET /v1/functions/{name}/aliases`."""
    function = await call.context.catalog.get(call.namespace, call.text("name"))
    views = [alias_view(function.aliases[name]) for name in sorted(function.aliases)]
    return json_response(AliasList(items=views))


async def read_alias(call: Call) -> Response:
    """`GET /v1/functions/{name}/aliases/{alias}`."""
    function = await call.context.catalog.get(call.namespace, call.text("name"))
    alias = function.aliases.get(call.text("alias"))
    if alias is None:
        no_qualifier(function, call.text("alias"))
    return json_response(alias_view(alias))


async def put_alias(call: Call) -> Response:
    """`PUT /v1/functions/{name}/aliases/{alias}`."""
    wanted = parse_body(await call.body(), AliasRequest)
    weights = check_weights(wanted.weights)
    if len(weights) > WEIGHTS_MAX:
        raise invalid("weights", wanted.weights, "one further version with its share")
    alias, created = await call.context.catalog.set_alias(
        call.namespace,
        call.text("name"),
        alias=call.text("alias"),
        version=wanted.version,
        weights=weights,
    )
    return json_response(alias_view(alias), 201 if created else 200)


async def delete_alias(call: Call) -> Response:
    """`DELETE /v1/functions/{name}/aliases/{alias}`."""
    await call.context.catalog.delete_alias(call.namespace, call.text("name"), call.text("alias"))
    return Response(status_code=204)
