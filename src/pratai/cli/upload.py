"""Sending a package: multipart body with progress, dependency resolution shown as it goes.

Used by `pratai deploy` and `pratai dev`. Writes nothing itself; callbacks do.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import msgspec

from pratai.cli.client import Client, ServerProblem, Stream, decode, route
from pratai.errors import PlatformError
from pratai.model.api import FunctionView

OnBytes = Callable[[int, int], None]
OnLine = Callable[[str, str], None]

_CHUNK_BYTES = 64 * 1024
#: Resolving dependencies may be silent for long; the server bounds it.
_ANSWER_TIMEOUT_S = 720.0


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent."""

    data: bytes
    content_type: str
    filename: str


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """The function after its deployment, decoded and as it came."""

    view: FunctionView
    body: bytes


class _Line(msgspec.Struct, frozen=True):
    phase: str = ""
    line: str = ""
    #: Empty where the line is not about it.
    function: msgspec.Raw = msgspec.Raw()
    problem: dict[str, object] | None = None


def send(
    client: Client,
    name: str,
    package: Package,
    config: dict[str, object],
    *,
    on_bytes: OnBytes,
    on_line: OnLine,
) -> Deployed:
    """Create or update function `name`; raises the server's problem."""
    boundary = f"pratai-{secrets.token_hex(16)}"
    head, tail = _around(boundary, package, config)
    total = len(head) + len(package.data) + len(tail)
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(total),
        "Accept": "application/x-ndjson, application/json;q=0.5",
    }
    with client.open(
        "PUT",
        route("functions", name),
        headers=headers,
        body=_parts(head, package.data, tail, on_bytes),
        timeout_s=_ANSWER_TIMEOUT_S,
    ) as stream:
        if "ndjson" not in stream.headers.get("content-type", ""):
            body = b"".join(stream.chunks())
            return Deployed(view=decode(body, FunctionView), body=body)
        return _read_lines(stream, on_line)


def _around(boundary: str, package: Package, config: dict[str, object]) -> tuple[bytes, bytes]:
    """What stands before and after the package in the body."""
    filename = package.filename.encode("ascii", "replace").decode().replace('"', "_")
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="config"\r\n'
        "Content-Type: application/json\r\n\r\n"
        f"{msgspec.json.encode(config).decode()}\r\n"
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="package"; filename="{filename}"\r\n'
        f"Content-Type: {package.content_type}\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _parts(head: bytes, data: bytes, tail: bytes, on_bytes: OnBytes) -> Iterator[bytes]:
    """The body in pieces; a small one in a single piece, so that it leaves in one packet."""
    if len(data) <= _CHUNK_BYTES:
        yield head + data + tail
        on_bytes(len(data), len(data))
        return
    yield head
    view = memoryview(data)
    for start in range(0, len(data), _CHUNK_BYTES):
        piece = view[start : start + _CHUNK_BYTES]
        yield bytes(piece)
        on_bytes(start + len(piece), len(data))
    yield tail


def _read_lines(stream: Stream, on_line: OnLine) -> Deployed:
    """Progress lines until the function or the problem."""
    deployed: Deployed | None = None
    for raw in stream.lines():
        if not raw.strip():
            continue
        line = decode(raw, _Line)
        if line.problem is not None:
            status = line.problem.get("status")
            raise ServerProblem(line.problem, status if isinstance(status, int) else 500)
        if body := bytes(line.function):
            deployed = Deployed(view=decode(body, FunctionView), body=body)
        else:
            on_line(line.phase, line.line)
    if deployed is None:
        raise PlatformError(
            "The server ended the deployment without telling how it went.",
            next_step="Look at `pratai functions`, then deploy again.",
            code="connection_broken",
        )
    return deployed
