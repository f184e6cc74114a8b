"""How the demo looks, in a terminal and in a pipe: headings, tables, streamed lines.

Decides nothing about the story.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

if TYPE_CHECKING:
    from platform_process import DemoPlatform

ROWS_MAX = 6
TEXT_MAX = 400
WIDTH_PIPED = 100


class Screen:
    """Where everything is written."""

    def __init__(self) -> None:
        self.watched = sys.stdout.isatty()
        width = None if self.watched else WIDTH_PIPED
        self.console = Console(highlight=False, width=width, soft_wrap=True)
        self._step = 0

    def heading(self, text: str) -> None:
        """A new step of the story."""
        self._step += 1
        self.console.print(f"\n[bold cyan]{self._step:2}. {escape(text)}[/bold cyan]")

    def ending(self, text: str) -> None:
        """The last line of the story."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def title(self, text: str) -> None:
        """What one call shows."""
        self.console.print(f"    [bold]{escape(text)}[/bold]")

    def command(self, text: str) -> None:
        """A command as a person would type it."""
        self.console.print(f"    [green]$ {escape(text)}[/green]")

    def text(self, text: str) -> None:
        """A fact, indented."""
        for line in text.splitlines():
            self.console.print(f"      {escape(line)}")

    def remark(self, text: str) -> None:
        """Something by the way."""
        self.console.print(f"      [dim]{escape(text)}[/dim]")

    def problem(self, text: str) -> None:
        """Something that went otherwise than it should."""
        self.console.print(f"[bold red]FAILED[/bold red] {escape(text)}")

    def proof(self, text: str) -> None:
        """The line that people and programs look for."""
        self.console.print(f"    [bold green]{escape(text)}[/bold green]")

    def streamed(self, value: Any, after_ms: float) -> None:
        """A line of a stream, at the moment it came."""
        self.console.print(f"      [dim]+{after_ms:4.0f} ms[/dim]  {escape(_inline(value))}")

    def value(self, value: Any) -> None:
        """A JSON value: plain fields first, then its lists as tables."""
        if not isinstance(value, Mapping):
            self.text(_inline(value))
            return
        tables = {key: rows for key, rows in value.items() if _is_table(rows)}
        fields = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for key, one in value.items():
            if key not in tables:
                fields.add_row(f"      [dim]{escape(str(key))}[/dim]", escape(_inline(one)))
        if fields.row_count:
            self.console.print(fields)
        for key, rows in tables.items():
            self._table(str(key), rows)

    def raw(self, data: bytes) -> None:
        """What a command wrote to its terminal."""
        sys.stdout.flush()
        text = data if self.watched else data.replace(b"\r\n", b"\n").replace(b"\r", b"")
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    def terminal(self) -> dict[str, str]:
        """Variables for a command that is to write as in this terminal."""
        size = {"COLUMNS": str(min(self.console.width, 140)), "LINES": "50"}
        return size if self.watched else {**size, "TERM": "dumb", "NO_COLOR": "1"}

    def farewell(self, platform: DemoPlatform) -> None:
        """Where the platform is, and what to do next."""
        assert platform.process is not None
        env = os.path.relpath(platform.directory / "env")
        self.console.print(f"The platform is still running at [cyan]{platform.url}[/cyan]. Try:")
        for line in (
            f"source {env}",
            "pratai functions",
            'pratai invoke search \'{"query": "how do birds find their way"}\' --tail',
            "pratai invocations --outcome failed",
            "pratai function show thumbnail",
            f"pratai dev {os.path.relpath(platform.root / 'examples/classify')}",
            f"kill {platform.process.pid}    # lets running calls end, then stops it",
        ):
            self.console.print(f"  {escape(line)}")

    def _table(self, name: str, rows: list[dict[str, Any]]) -> None:
        table = Table(
            title=f"{name}, {len(rows)}", title_justify="left", box=None, header_style="bold"
        )
        columns = list(dict.fromkeys(key for row in rows for key in row))
        for column in columns:
            table.add_column(column, overflow="fold", max_width=56)
        for row in rows[:ROWS_MAX]:
            table.add_row(*(escape(_inline(row.get(column, ""))) for column in columns))
        if len(rows) > ROWS_MAX:
            table.caption = f"and {len(rows) - ROWS_MAX} more"
        self.console.print(Padding(table, (0, 0, 0, 5)))


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG or JPEG; (0, 0) when it is neither."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at = 2
    while data.startswith(b"\xff\xd8") and at + 9 < len(data):
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            return int.from_bytes(data[at + 7 : at + 9], "big"), height
        at += 2 + size
    return 0, 0


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _inline(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        text = "  ".join(f"{key} {_inline(one)}" for key, one in value.items())
    elif isinstance(value, list):
        text = ", ".join(_inline(one) for one in value)
    elif value is None or isinstance(value, bool):
        text = json.dumps(value)
    elif isinstance(value, float):
        text = f"{value:,.2f}" if abs(value) >= 1000 else f"{value:g}"
    elif isinstance(value, int):
        text = f"{value:,}" if abs(value) >= 10_000 else str(value)
    else:
        text = str(value)
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + " ..."
