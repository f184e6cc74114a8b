"""The text of the code itself: sizes, names, words and places that the project does not want."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src" / "pratai").rglob("*.py"))
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500
LINE_CHARS_MAX = 100
DRAWERS = re.compile(r"(utils?|helpers?|manager|misc|common)$")
LEFT_OVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
#: A call that reads a clock belongs in `clock.py`; ids that are random in `ids.py`.
CLOCKS = re.compile(r"\b(datetime\.now|datetime\.utcnow|time\.time|time\.time_ns)\(")
#: Runtimes import nothing of pratai, so they read the clock themselves.
MAY_READ_CLOCKS = {"clock.py", "ids.py"}


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    paths = [ROOT / name for name in listed if name.endswith(suffixes)]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_is_small_and_says_what_lives_in_it(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with what lives here and what must not"
    assert text.count("\n") <= FILE_LINES_MAX
    assert not DRAWERS.search(path.stem), "a file is a noun of the glossary"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"
        if isinstance(node, ast.ClassDef):
            assert not DRAWERS.search(node.name.lower()), node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_clock_reads_the_clock(path: Path) -> None:
    if path.name in MAY_READ_CLOCKS or "runtimes" in path.parts:
        return
    found = CLOCKS.findall(path.read_text())
    assert not found


def test_nothing_is_left_for_later_in_the_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(".py", ".sh", ".toml", ".sql")
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LEFT_OVER.search(line)
    ]
    assert found == []


def test_no_exception_is_swallowed() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
            )
            if broad and all(isinstance(step, ast.Pass | ast.Continue) for step in node.body):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_lines_fit_the_width() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(".py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line.partition("  # noqa")[0]) > LINE_CHARS_MAX and "tests" not in path.parts
    ]
    assert found == []


def test_sql_lives_in_the_sqlite_store_alone() -> None:
    statement = re.compile(
        r"\b(SELECT\s+.+\s+FROM|INSERT\s+INTO|DELETE\s+FROM|CREATE\s+TABLE)\b", re.DOTALL
    )
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and statement.search(node.value)
        and "\n\n" not in node.value
    ]
    assert found == []


def test_core_contract_and_simulation_never_sleep() -> None:
    """`asyncio.sleep(0)` is no sleep: it lets the event loop go on."""
    sleeps = {"time.sleep", "asyncio.sleep"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for tier in ("core", "contract", "sim")
        for path in (ROOT / "tests" / tier).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in sleeps
        and ast.unparse(node.args[0]) != "0"
    ]
    assert found == []
