"""An upload as `multipart/form-data`, read as it arrives and bounded in every part.

Only the two parts of a deployment: `config` (a JSON object, may be left out) and `package`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from pratai.errors import CallerError
from pratai.gateway.api.operations import too_large
from pratai.model.refusal import invalid, unknown_field
from pratai.model.validation import parse_object

CONFIG_BYTES_MAX = 1024 * 1024
#: Boundaries, part headers and line ends beside the parts themselves.
FRAMING_BYTES_MAX = 64 * 1024
#: RFC 2046, section 5.1.1.
BOUNDARY_CHARS_MAX = 70
_PARTS = ("config", "package")


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """What was uploaded."""

    config: dict[str, object]
    package: bytes


class UnsupportedMediaType(CallerError):
    """The body has a content type that this path does not take."""

    code = "unsupported_media_type"
    status = 415


async def read_upload(
    content_type: str,
    chunks: AsyncIterator[bytes],
    package_bytes_max: int,
    *,
    announced: str = "",
) -> Upload:
    """Read an upload to its end. `announced`: its Content-Length, if it has one.

    Raises:
        UnsupportedMediaType: not multipart/form-data, or without a boundary.
        PayloadTooLarge: a part is beyond its bound.
        InvalidField: a part is unknown, given twice or missing; the configuration is not JSON.

    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= BOUNDARY_CHARS_MAX:
        raise UnsupportedMediaType(
            f"a deployment is multipart/form-data, not {content_type[:80] or 'without a type'}",
            next_step="Send parts `config` and `package`: curl -F config=@c.json -F package=@f.zip",
            allowed="multipart/form-data",
        )
    parts = _Parts({"config": CONFIG_BYTES_MAX, "package": package_bytes_max})
    parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
    total, total_max = 0, CONFIG_BYTES_MAX + package_bytes_max + FRAMING_BYTES_MAX
    if announced.isdecimal() and int(announced[:19]) > total_max:
        raise too_large("the upload", total_max)
    try:
        async for chunk in chunks:
            total += len(chunk)
            if total > total_max:
                raise too_large("the upload", total_max)
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise _broken(str(error)) from error
    if not parts.ended:
        raise _broken("its closing boundary is missing")
    return parts.upload()


class _Parts:
    """Collects the parts as the parser calls back."""

    def __init__(self, bytes_max: dict[str, int]) -> None:
        self._bytes_max = bytes_max
        self._found: dict[str, bytearray] = {}
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._part = bytearray()
        self._part_name = ""
        self.ended = False

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }

    def upload(self) -> Upload:
        package = self._found.get("package")
        if package is None:
            raise invalid(
                "package",
                None,
                "a zip or one source file",
                detail="the part `package` is missing",
                next_step="Add the part: -F package=@function.zip",
            )
        config = bytes(self._found.get("config", b"{}"))
        given = parse_object(config, field="config")
        return Upload(config=given, package=bytes(package))

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._name = self._value = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in _PARTS:
            raise unknown_field(name[:64], _PARTS)
        if name in self._found:
            raise invalid(name, None, "given once", detail=f"the part `{name}` is there twice")
        self._part_name = name
        self._part = self._found[name] = bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        bytes_max = self._bytes_max[self._part_name]
        if len(self._part) + end - start > bytes_max:
            raise too_large(f"the part `{self._part_name}`", bytes_max)
        self._part += data[start:end]

    def _on_end(self) -> None:
        self.ended = True


def _broken(why: str) -> CallerError:
    return CallerError(
        f"the body is not correct multipart/form-data: {why[:200]}",
        next_step="Let your HTTP client build it, e.g. curl -F config=@c.json -F package=@f.zip",
    )
