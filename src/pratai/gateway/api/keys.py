"""Handlers for keys, for admins alone; and for what deliveries are signed with."""

from __future__ import annotations

from starlette.responses import Response

from pratai.gateway.api.operations import Call, json_response
from pratai.gateway.views import key_view
from pratai.model.api import KeyCreatedView, KeyList, KeyRequest, SigningSecretView
from pratai.model.refusal import invalid
from pratai.model.validation import check_name, parse_body
from pratai.store.signing import signing_secret

LABEL_CHARS_MAX = 256


async def list_keys(call: Call) -> Response:
    """`GET /v1/keys`."""
    limit = call.whole("limit")
    keys = await call.context.keys.keys(after=call.text("cursor"), limit=limit + 1)
    more = len(keys) > limit
    keys = keys[:limit]
    views = [key_view(key) for key in keys]
    return json_response(KeyList(items=views, next_cursor=keys[-1].digest if more else ""))


async def create_key(call: Call) -> Response:
    """`POST /v1/keys`."""
    raw = await call.body()
    wanted = parse_body(raw, KeyRequest) if raw else KeyRequest()
    namespace = check_name("namespace", wanted.namespace) if wanted.namespace else call.namespace
    if len(wanted.label) > LABEL_CHARS_MAX:
        raise invalid("label", wanted.label, f"at most {LABEL_CHARS_MAX} characters")
    secret, key = await call.context.keys.create(
        namespace=namespace, admin=wanted.admin, label=wanted.label
    )
    view = KeyCreatedView(
        key=secret,
        key_id=key.key_id,
        namespace=key.namespace,
        admin=key.admin,
        label=key.label,
        created_at_ms=key.created_at_ms,
    )
    return json_response(view, 201, {"Location": f"/v1/keys/{key.key_id}"})


async def delete_key(call: Call) -> Response:
    """`DELETE /v1/keys/{key_id}`."""
    await call.context.keys.revoke(call.text("key_id"))
    return Response(status_code=204)


async def read_signing_secret(call: Call) -> Response:
    """`GET /v1/signing-secret`: made at the first question."""
    secret = await signing_secret(call.context.store, call.namespace)
    return json_response(SigningSecretView(namespace=call.namespace, secret=secret))
