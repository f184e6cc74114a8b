"""What rows of the table share."""

from __future__ import annotations

import msgspec

from pratai.gateway.api import parameters as p
from pratai.gateway.api.operations import Reply
from pratai.model import api

OF_FUNCTION = (p.NAMESPACE, p.NAME)
OF_INVOCATION = (p.NAMESPACE, p.REQUEST_ID)
#: Problems of operations that read a JSON body.
BODY = (413,)
ACCEPTED = Reply(
    description="Accepted durably; it runs under a new request id.",
    model=api.AcceptedView,
    headers=(("Location", "Where the invocation is read."),),
)


def ok(model: type[msgspec.Struct], description: str = "") -> dict[int, Reply]:
    """200 and a Struct as JSON."""
    return {200: Reply(description=description or (model.__doc__ or "Done."), model=model)}


def gone(description: str) -> dict[int, Reply]:
    """204 and nothing."""
    return {204: Reply(description=description)}
