"""What nodes get from a gateway: versions, packages and layers. Not for callers, not in OpenAPI.

    GET /internal/versions/{namespace}/{name}/{number}    `VersionOffer` as JSON
    GET /internal/packages/{digest}                       the package, byte for byte
    GET /internal/layers/{digest}                         the layer as `tarball.py` packs it

With a cluster key every request shows the token that is made from it. Without one only a process of
this machine is answered, and only where it asks itself: what a proxy sends on comes from anywhere.
Files are compared with their checksum while they are sent; of one that is not what it was, the
last piece is kept back, so that it arrives as cut off.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import IO, TYPE_CHECKING

import msgspec
import structlog

from pratai.errors import CallerError, Forbidden, NotFound, PlatformError, PrataiError, Unauthorized
from pratai.gateway.catalog import Catalog
from pratai.gateway.problems import problem_bytes
from pratai.ids import request_id as new_request_id
from pratai.metrics import count
from pratai.model.validation import check_name
from pratai.packages.directory import Packages
from pratai.packages.source import MACHINE_HEADER, SHA256_HEADER, Export, VersionOffer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/internal/"
PIECE_BYTES = 256 * 1024
#: A node that takes no bytes for this long is given up.
SEND_STALL_MAX_S = 30.0

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-real-ip")
_log = structlog.get_logger("pratai.gateway")
_encode = msgspec.json.Encoder().encode


class InternalContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes need of the gateway."""

    catalog: Catalog
    packages: Packages
    #: `config.cluster_key.internal_token`; "" = no cluster key.
    token: str
    #: `[gateway] result_bytes_max`.
    result_bytes_max: int
    #: `[packages] transfers_max`.
    transfers_max: int


def build_internal(context: InternalContext) -> ASGIApp:
    """The ASGI application, for whatever is below `/internal/`."""
    return _Internal(context)


class _Internal:
    def __init__(self, context: InternalContext) -> None:
        self._context = context
        self._sending = 0

    def __repr__(self) -> str:
        return f"<Internal [{self._sending} of {self._context.transfers_max} transfers]>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self._authenticate(scope)
            answer = await self._route(scope)
            if isinstance(answer, Export):
                await self._transfer(answer, receive, send)
                return
            body = _encode(answer)
            status, headers = 200, [(b"content-type", b"application/json")]
        except Exception as error:  # noqa: BLE001 - a boundary; the problem logs what is unforeseen
            status, headers, body = problem_bytes(error, new_request_id())
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _authenticate(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        token = self._context.token
        if not token:
            if not _is_own_machine(scope) or any(name in headers for name in _FORWARDED):
                raise Forbidden(
                    "Without a cluster key this is for processes of this machine alone.",
                    next_step="Make a key with `pratai keys cluster`, give it to every process.",
                )
            return
        given = headers.get(b"authorization", b"")
        if given[:7].lower() != b"bearer ":
            raise Unauthorized(
                "This is for nodes of the cluster.",
                next_step="Let [queue] key_file name the cluster key on every machine.",
            )
        if not hmac.compare_digest(given[7:].strip(), token.encode()):
            count("internal_requests_refused")
            raise Forbidden(
                "This is not the token of this cluster.",
                next_step="Let [queue] key_file name the same cluster key on every machine.",
            )

    async def _route(self, scope: Scope) -> VersionOffer | Export:
        if scope["method"] != "GET":
            raise CallerError("Only GET is allowed here.", code="method_not_allowed", status=405)
        path: str = scope["path"]
        kind, _, rest = path.removeprefix(PREFIX).lstrip("/").partition("/")
        if kind == "versions":
            return await self._version(rest)
        packages = self._context.packages
        if kind in ("packages", "layers") and _DIGEST.fullmatch(rest):
            exports = packages.exports
            return await (exports.package(rest) if kind == "packages" else exports.layer(rest))
        raise _nothing_here(path)

    async def _version(self, rest: str) -> VersionOffer:
        parts = rest.split("/")
        if len(parts) != 3 or not _NUMBER.fullmatch(parts[2]):
            raise _nothing_here(rest)
        check_name("namespace", parts[0])
        check_name("function", parts[1])
        version = await self._context.catalog.version_by_id(rest)
        if version is None:
            raise NotFound(
                f"version {rest} does not exist any more",
                next_step="Call a version that exists: `pratai function versions NAME`.",
            )
        machine = ""
        if version.layer:
            machine = await self._context.packages.exports.machine(version.layer)
        return VersionOffer(
            version=version,
            environment=dict(version.config.environment),
            result_bytes_max=self._context.result_bytes_max,
            layer_machine=machine,
        )

    async def _transfer(self, export: Export, receive: Receive, send: Send) -> None:
        if self._sending >= self._context.transfers_max:
            raise PlatformError(
                "This gateway sends as many packages at one time as it may.",
                code="transfers_full",
                next_step="Ask another gateway, or raise [packages] transfers_max.",
                retry_after_s=1,
            )
        self._sending += 1
        try:
            file = await asyncio.to_thread(open, export.path, "rb")
            gone = asyncio.ensure_future(_gone(receive))
            try:
                await send(_start(export))
                await self._send_file(export, file, gone, send)
            finally:
                gone.cancel()
                await asyncio.to_thread(file.close)
        except FileNotFoundError:
            raise PlatformError(
                f"{export.digest} was removed at this moment.",
                code="package_unavailable",
                next_step="Ask again.",
            ) from None
        finally:
            self._sending -= 1

    async def _send_file(
        self, export: Export, file: IO[bytes], gone: asyncio.Future[None], send: Send
    ) -> None:
        """Send all, or stop before the last piece when something is wrong."""
        sha256, left = hashlib.sha256(), export.bytes
        while left and not gone.done():
            piece = await asyncio.to_thread(_read, file, min(left, PIECE_BYTES), sha256)
            left -= len(piece)
            if not piece or (left == 0 and sha256.hexdigest() != export.sha256):
                count("packages_damaged")
                _log.error("package_damaged", digest=export.digest, path=export.path)
                await self._context.packages.exports.damaged(export)
                return
            message = {"type": "http.response.body", "body": piece, "more_body": left > 0}
            if not await _in_time(send(message)):
                count("transfers_stalled")
                return


def _start(export: Export) -> dict[str, object]:
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(export.bytes),
        "etag": f'"{export.sha256}"',
        SHA256_HEADER.lower(): export.sha256,
        MACHINE_HEADER.lower(): export.machine,
    }
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": 200, "headers": encoded}


def _read(file: IO[bytes], size: int, sha256: hashlib._Hash) -> bytes:
    """The next bytes of a file, counted in; none where the disk does not give them."""
    try:
        piece = file.read(size)
    except OSError as error:
        _log.warning("package_unreadable", error=str(error))
        return b""
    sha256.update(piece)
    return piece


async def _in_time(sending: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(SEND_STALL_MAX_S):
            await sending
    except TimeoutError:
        return False
    return True


async def _gone(receive: Callable[[], Awaitable[object]]) -> None:
    """Return when the other side has hung up."""
    message: object = None
    while not (isinstance(message, dict) and message["type"] == "http.disconnect"):
        message = await receive()


def _is_own_machine(scope: Scope) -> bool:
    client = scope.get("client")
    if client is None:
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _nothing_here(path: str) -> PrataiError:
    return NotFound(f"There is nothing at {path[:200]!a}.", next_step="Only nodes ask here.")
