"""What the platform writes about itself: structured lines, and one canonical line an invocation.

Canonical lines go to `logs/invocations.jsonl` of the data dir, through a bounded buffer that is
written a few times a second, so that no call waits for its line. The file is rotated once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import msgspec
import structlog

from pratai.metrics import count

#: Lines kept until the next write; more are dropped and counted.
LINES_MAX = 50_000
#: Lines encoded in one go, since nothing else runs meanwhile.
LINES_AT_ONCE = 64


class CanonicalLine(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one finished invocation, on one line."""

    at_ms: int
    request_id: str
    namespace: str
    function: str
    version: str
    mode: str
    outcome: str
    code: str
    attempt: int
    start_kind: str
    node_id: str
    instance_id: str
    queue_us: int
    start_us: int
    run_us: int
    total_us: int
    event_bytes: int
    result_bytes: int


class CanonicalLog:
    """Writes canonical lines to a file that is rotated at a size."""

    def __init__(self, path: str, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._lines: list[CanonicalLine] = []
        self._encoder = msgspec.json.Encoder()

    def add(self, line: CanonicalLine) -> None:
        """Keep a line for the next write."""
        if len(self._lines) >= LINES_MAX:
            count("canonical_lines_dropped")
            return
        self._lines.append(line)

    @property
    def waiting(self) -> bool:
        """Whether there are lines to write."""
        return bool(self._lines)

    def flush(self) -> None:
        """Write what was kept. Blocks on the file system: call it off the event loop."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            with open(self._path, "ab") as file:
                file.writelines(
                    self._encoder.encode_lines(lines[start : start + LINES_AT_ONCE])
                    for start in range(0, len(lines), LINES_AT_ONCE)
                )
                size = file.tell()
            if size > self._bytes_max:
                os.replace(self._path, f"{self._path}.1")
        except OSError as error:
            count("canonical_lines_dropped", len(lines))
            structlog.get_logger("pratai.log").warning("canonical_log_unwritable", error=str(error))


def configure(level: str, style: str) -> None:
    """Set up structlog for this process: JSON lines, or text where a person looks."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    )
    processors: Sequence[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info if not text else structlog.processors.UnicodeDecoder(),
        renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            getattr(logging, level.upper(), logging.INFO)
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
