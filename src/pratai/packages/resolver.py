"""One run of uv: requirements in, a directory of installed packages out, its lines told live.

The run is bounded in size here and in time by the caller; however it ends, no process of it stays.
What uv says is turned into an error that names whose fault it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal

import msgspec
import uv

from pratai.config.schema import Packages as Limits
from pratai.errors import CallerError, PlatformError, PrataiError
from pratai.packages import tree

Phase = Literal[
    "waiting", "resolving", "downloading", "installing", "compiling", "sharing", "ready"
]

#: Lines that are kept to explain a failure.
LINES_MAX = 40
LINE_CHARS_MAX = 1_000
DETAIL_CHARS_MAX = 2_000

_WATCH_S = 1.0
_READ_BYTES = 8_192
_COUNT = re.compile(r"(?P<verb>Resolved|Prepared|Installed|Bytecode compiled) (?P<count>\d+) ")
#: What follows once uv has said that it has done so.
_NEXT: dict[str, Phase] = {
    "Resolved": "downloading",
    "Prepared": "installing",
    "Installed": "compiling",
    "Bytecode compiled": "compiling",
}
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_UNREACHABLE = re.compile(
    r"error sending request|dns error|tcp connect|connection refused|operation timed out"
    r"|tunnel error|network is unreachable|network was disabled|client error \(connect\)"
    r"|failed to fetch.*(401|403|407|50[0-9])",
    re.IGNORECASE,
)
_NEEDS_BUILD = re.compile(
    r"no usable wheels|no wheels with a matching|building (from )?source|source distribution",
    re.IGNORECASE,
)


class LayerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a layer is. `done` of `total` packages; 0 of 0 while unknown."""

    line: str
    phase: Phase
    done: int = 0
    total: int = 0


OnProgress = Callable[[LayerProgress], None]


def nobody(_progress: LayerProgress) -> None:
    """For callers that do not watch."""


class Resolver:
    """Starts uv with the environment and limits it was made with."""

    def __init__(self, limits: Limits, environment: Mapping[str, str]) -> None:
        self._limits = limits
        self._environment = dict(environment)

    async def run(self, wanted: str, target: str, interpreter: str, tell: OnProgress) -> None:
        """Install what the file `wanted` lists into `target`, for `interpreter`.

        Raises:
            CallerError: `dependencies_failed`, with what uv said.
            PlatformError: `dependencies_unreachable`, or uv itself is missing.

        """
        process = await asyncio.create_subprocess_exec(
            *self._command(wanted, target, interpreter),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=os.path.dirname(target),
            env=self._environment,
            start_new_session=True,
        )
        lines: deque[str] = deque(maxlen=LINES_MAX)
        watch = asyncio.create_task(self._watch_size(target, process))
        try:
            assert process.stderr is not None
            told = LayerProgress(line="resolving", phase="resolving")
            tell(told)
            async for line in _lines(process.stderr):
                lines.append(line)
                told = _progress(line, told)
                tell(told)
            code = await process.wait()
        finally:
            watch.cancel()
            _kill(process)
            await process.wait()
        too_large = watch.done() and not watch.cancelled()
        if too_large or await asyncio.to_thread(tree.size, target) > self._limits.layer_bytes_max:
            raise self._too_large()
        if code != 0:
            raise explain(list(lines), code)

    def _command(self, wanted: str, target: str, interpreter: str) -> list[str]:
        command = [_program(), "pip", "install", "--requirements", wanted, "--target", target]
        command += ["--python", interpreter, "--no-python-downloads", "--compile-bytecode"]
        # Copies, not links: a layer must not change when the cache does, nor the cache with it.
        command += ["--link-mode", "copy", "--color", "never", "--no-progress"]
        if self._environment.get("UV_NO_INDEX"):
            command.append("--no-index")
        if not self._limits.source_builds:
            command += ["--only-binary", ":all:"]
        return command

    async def _watch_size(self, target: str, process: asyncio.subprocess.Process) -> None:
        """End the run when the layer grows beyond its limit; returns only then."""
        while await asyncio.to_thread(tree.size, target) <= self._limits.layer_bytes_max:
            await asyncio.sleep(_WATCH_S)
        _kill(process)

    def _too_large(self) -> CallerError:
        limit = self._limits.layer_bytes_max
        return CallerError(
            f"The dependencies have more than {limit} bytes.",
            code="dependencies_failed",
            next_step="Ask for smaller packages, or raise [packages] layer_bytes_max.",
            field="requirements",
            allowed=limit,
        )


def explain(lines: list[str], code: int) -> PrataiError:
    """The error for a run that failed with these last lines."""
    kept = [line for line in lines if not line.startswith(("Using ", "Resolved ", "warning:"))]
    said = " ".join(line.strip() for line in kept)[-DETAIL_CHARS_MAX:]
    said = said or f"uv ended with code {code} and said nothing"
    if _UNREACHABLE.search(said):
        return PlatformError(
            f"The place that packages come from cannot be reached: {said}",
            code="dependencies_unreachable",
            next_step="Check the network, proxy and index of the gateway's machine "
            "(UV_DEFAULT_INDEX or pip.conf), then deploy again.",
            field="requirements",
        )
    step = "Mend the requirements and deploy again."
    if _NEEDS_BUILD.search(said):
        step = (
            "Ask for a version that has a wheel for this Python, or allow building with "
            "[packages] source_builds = yes."
        )
    return CallerError(
        f"The dependencies cannot be resolved: {said}",
        code="dependencies_failed",
        next_step=step,
        field="requirements",
    )


def _program() -> str:
    try:
        return uv.find_uv_bin()
    except FileNotFoundError:
        found = shutil.which("uv")
    if found:
        return found
    raise PlatformError(
        "The program uv, which resolves dependencies, is not installed.",
        next_step="Install it beside Pratai: pip install uv",
    )


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines as they come, without user names and passwords of URLs; overlong ones are cut."""
    pending = b""
    while chunk := await stream.read(_READ_BYTES):
        *whole, pending = (pending + chunk).replace(b"\r", b"\n").split(b"\n")
        pending = pending[:LINE_CHARS_MAX]
        for line in whole:
            text = _clean(line)
            if text:
                yield text
    text = _clean(pending)
    if text:
        yield text


def _clean(line: bytes) -> str:
    return _USER_INFO.sub("***@", line.decode("utf-8", "replace").rstrip()[:LINE_CHARS_MAX])


def _progress(line: str, before: LayerProgress) -> LayerProgress:
    found = _COUNT.match(line)
    if not found:
        return msgspec.structs.replace(before, line=line)
    verb, count = found["verb"], int(found["count"])
    if verb == "Resolved":
        return LayerProgress(line=line, phase=_NEXT[verb], total=count)
    done = count if verb != "Bytecode compiled" else before.total
    return LayerProgress(line=line, phase=_NEXT[verb], done=done, total=before.total)


def _kill(process: asyncio.subprocess.Process) -> None:
    """End uv and what it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
