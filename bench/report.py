"""Results as people read them: the table in the terminal, the page `docs/performance.md`.

Reads and writes `bench/results/*.json`; measures nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.harness import Goal, Ratio, Result, Row

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
#: Drawn by `load.py`.
IMAGE = ROOT / "docs" / "images" / "latency-load.svg"
BEGIN = "<!-- results: written by `scripts/bench --docs` -->"
END = "<!-- end of results -->"
REACHED = {"best": "best", "first": "first", "no": "no"}
COLUMNS = ("#", "metric", "against", "ratio", "range", "first", "best", "reached", "figures")


def write(result: Result, directory: Path = RESULTS) -> Path:
    """Write one bench's result, replacing its last one."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.name}.json"
    part = path.with_suffix(".tmp")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    part.replace(path)
    return path


def read(names: list[str], directory: Path = RESULTS) -> list[Result]:
    """The last results of these benches, in this order; those never run are left out."""
    paths = [directory / f"{name}.json" for name in names]
    return [msgspec.json.decode(path.read_bytes(), type=Result) for path in paths if path.exists()]


def show(results: list[Result]) -> None:
    """Print one table of all rows."""
    console = Console()
    width = console.width if console.is_terminal else 200
    table = Table(title="Ratios, Pratai first; medians of rounds", title_justify="left")
    for column in COLUMNS:
        table.add_column(
            column, justify="right" if column in {"ratio", "first", "best"} else "left"
        )
    for cells in _cells(results):
        table.add_row(*cells)
    Console(width=width).print(table)
    for line in _remarks(results):
        console.print(line)


def write_page(results: list[Result], page: Path = PAGE) -> None:
    """Put the table of these results between the marks of the page.

    Raises:
        ValueError: the page has no such marks.

    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks between which results are written")
    page.write_text(f"{before}{begin}\n\n{markdown(results)}\n{end}{after}", encoding="utf-8")


def markdown(results: list[Result]) -> str:
    """The table, what it was measured on, and remarks, as Markdown."""
    if not results:
        return "No results yet.\n"
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(results)]
    machine = results[-1].machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    measured = (
        f"Measured on {max(result.date for result in results)[:10]}: {machine.processor}, "
        f"{machine.cores} cores, {machine.memory_mb // 1024} GB, Linux {machine.kernel}, "
        f"Python {machine.python}; {versions}."
    )
    lines += ["", measured]
    for remark in _remarks(results):
        lines += ["", remark]
    if IMAGE.exists():
        lines += ["", f"![Latency at fixed rates](images/{IMAGE.name})"]
    return "\n".join(lines) + "\n"


def _cells(results: list[Result]) -> list[list[str]]:
    return [_row_cells(row) for result in results for row in result.rows]


def _row_cells(row: Row) -> list[str]:
    cells = [row.id, row.metric, row.against]
    if row.ratio is None:
        return [*cells, "-", "", *_goal_cells(row.goal), "", f"not measured: {row.skipped}"]
    reached = REACHED[row.goal.reached(row.ratio.median)] if row.goal else ""
    return [*cells, *_ratio_cells(row.ratio), *_goal_cells(row.goal), reached, row.detail]


def _ratio_cells(ratio: Ratio) -> list[str]:
    return [number(ratio.median), f"{number(ratio.low)} to {number(ratio.high)}"]


def _goal_cells(goal: Goal | None) -> list[str]:
    if goal is None:
        return ["", ""]
    sign = "<=" if goal.better == "lower" else ">="
    return [f"{sign} {number(goal.first)}", f"{sign} {number(goal.best)}"]


def number(value: float) -> str:
    """A ratio with as many digits as mean something: 0.0123, 0.37, 4.2, 187."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.3g}"
    return f"{value:.2g}"


def _remarks(results: list[Result]) -> list[str]:
    """What must be known before the figures are believed."""
    remarks = []
    quick = [result.name for result in results if result.quick]
    if quick:
        remarks.append(f"Quick runs, no results to quote: {', '.join(quick)}.")
    shaky = [result.name for result in results if not result.settled]
    if shaky:
        remarks.append(f"Unsettled, the control moved in most rounds: {', '.join(shaky)}.")
    return remarks
