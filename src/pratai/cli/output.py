"""Writing: results to stdout (JSON unless it is a terminal), remarks and errors to stderr.

rich is imported only when something is drawn in a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pratai import clock
from pratai.cli.client import decode

if TYPE_CHECKING:
    from rich.console import Console

Row = Sequence[object]

#: A terminal of fewer columns is narrow.
WIDE_CHARS = 120

#: How bad a log level is, for `--level`; what a function merely prints counts as INFO.
LEVELS = {
    "DEBUG": 10,
    "INFO": 20,
    "STDOUT": 20,
    "STDERR": 20,
    "WARNING": 30,
    "ERROR": 40,
    "CRITICAL": 50,
}
LEVEL_STYLES = {
    "DEBUG": "dim",
    "INFO": "cyan",
    "STDOUT": "",
    "STDERR": "magenta",
    "WARNING": "yellow",
    "ERROR": "red",
    "CRITICAL": "bold red",
}
OUTCOME_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "crashed": "bold red",
    "throttled": "yellow",
    "discarded": "yellow",
}


class Output:
    """Where one run writes. `as_json`: stdout gets plain JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._stdout: Console | None = None
        self._stderr: Console | None = None

    @property
    def stdout(self) -> Console:
        """For people: tables and colours. Not for JSON."""
        if self._stdout is None:
            self._stdout = _console(stderr=False)
        return self._stdout

    @property
    def stderr(self) -> Console:
        """For progress, logs and remarks."""
        if self._stderr is None:
            self._stderr = _console(stderr=True)
        return self._stderr

    def write_json(self, value: object) -> None:
        """A value, or JSON bytes as they came; indented in a terminal."""
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        if sys.stdout.isatty():
            body = msgspec.json.format(body, indent=2)
        write_bytes(body.rstrip(b"\n") + b"\n")

    def write_line(self, value: object) -> None:
        """One JSON document on one line, at once."""
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        write_bytes(body.rstrip(b"\n") + b"\n")

    def write_pages(self, pages: Iterable[bytes]) -> None:
        """Pages of a list as one `{"items": [...], "next_cursor": ...}`, each as it comes."""
        separator = b'{"items":['
        cursor = ""
        for page in pages:
            listing = decode(page, _RawList)
            cursor = listing.next_cursor
            for item in listing.items:
                write_bytes(separator + bytes(item))
                separator = b","
        start = separator if separator != b"," else b""
        write_bytes(start + b'],"next_cursor":' + msgspec.json.encode(cursor) + b"}\n")

    def table(self, columns: Sequence[str], rows: Iterable[Row], *, empty: str) -> None:
        """A table for people; `empty` is said when there are no rows.

        `>name` aligns right; a `?` before it leaves the column out of a narrow terminal.
        """
        from rich.table import Table

        is_wide = self.stdout.width >= WIDE_CHARS
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        kept = [is_wide or not column.startswith("?") for column in columns]
        for index, column in enumerate(columns):
            name = column.removeprefix("?")
            if kept[index]:
                table.add_column(
                    name.removeprefix(">"),
                    justify="right" if name.startswith(">") else "left",
                    overflow="fold",
                    no_wrap=index == 0,
                )
        for row in rows:
            cells = zip(row, kept, strict=True)
            table.add_row(*(self._cell(value, is_wide=is_wide) for value, keep in cells if keep))
        if table.row_count:
            self.stdout.print(table)
        else:
            self.say(empty)

    def fields(self, pairs: Mapping[str, object]) -> None:
        """Names and values below each other; empty values are left out."""
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs.items():
            if value not in (None, "", [], {}):
                table.add_row(name, self._cell(value, is_wide=True))
        self.stdout.print(table)

    def say(self, text: str, style: str = "") -> None:
        """A plain line for people on stdout."""
        self.stdout.print(text, style=style or None, markup=False, highlight=False)

    def remark(self, text: str, style: str = "") -> None:
        """A line on stderr, coloured in a terminal only."""
        if sys.stderr.isatty():
            self.stderr.print(text, style=style or None, markup=False, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _cell(self, value: object, *, is_wide: bool) -> Any:
        from rich.text import Text

        if isinstance(value, Text):
            return value
        if isinstance(value, Moment):
            return Text(when(value.at_ms) if is_wide else age(value.at_ms))
        if isinstance(value, bool):
            return Text("yes" if value else "no")
        if isinstance(value, dict):
            return Text(", ".join(f"{name}={item}" for name, item in value.items()))
        if isinstance(value, list | tuple):
            return Text(", ".join(str(item) for item in value))
        text = "" if value is None else str(value)
        return Text(text, style=OUTCOME_STYLES.get(text, ""))


class Moment(msgspec.Struct, frozen=True):
    """A time in a table: ISO and age, or the age alone where there is little room."""

    at_ms: int


class _RawList(msgspec.Struct):
    items: list[msgspec.Raw]
    next_cursor: str = ""


def write_bytes(body: bytes) -> None:
    """Bytes to stdout, unchanged and at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def abandon_stdout() -> None:
    """The reader of stdout went away: nothing more can be said to it, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def when(at_ms: int) -> str:
    """Local ISO time and age, e.g. `2026-01-02T10:11:12+01:00 (3 min ago)`."""
    return f"{iso(at_ms)} ({age(at_ms)})" if at_ms else ""


def iso(at_ms: int) -> str:
    """Local time in ISO form, to the second."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(timespec="seconds")


def clock_time(at_ms: int) -> str:
    """Local time of day to the millisecond, for log lines."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def age(at_ms: int) -> str:
    """How long ago, in the unit that fits."""
    seconds = (clock.now_ms() - at_ms) / 1000
    if seconds < 0:
        return f"in {span(-seconds)}"
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """A duration in one unit."""
    for limit, divisor, unit in ((90, 1, "s"), (5_400, 60, "min"), (129_600, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def ms(value: float | None) -> str:
    """Milliseconds with their unit, as precise as they deserve."""
    if value is None:
        return ""
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def size(count: int) -> str:
    """Bytes in a readable unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def pretty(body: bytes) -> str | None:
    """JSON indented for people; None when it is none."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return None


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    options: dict[str, Any] = {"stderr": stderr, "highlight": False, "soft_wrap": False}
    return Console(**options)
