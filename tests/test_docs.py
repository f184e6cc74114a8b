"""The documentation is true: its commands run, its links lead somewhere, its pages are current.

Blocks marked `sh` are run in order, a page in one shell; a block marked `text` after one says what
its output contains, line by line, spaces apart. `pip install .` and `pratai up` are what the test
itself has done before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pratai.cli import reference as cli_reference
from pratai.config import reference as config_reference
from pratai.gateway.api import reference as api_reference

ROOT = Path(__file__).resolve().parents[1]
DONE_BEFORE = {"pip install .", "pratai up"}
USUAL_URL = "http://127.0.0.1:9996"
EXECUTED = [
    "README.md",
    "docs/start.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guides").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
BOLD_TERM = re.compile(r"\*\*([a-z][a-z ]+)\*\*")
START_S_MAX = 20.0
PLACES = [ROOT / "src" / "pratai", ROOT / "tests"]


def absent(what: str) -> None:
    """A tool is missing: a failure where everything is to be tested, else a skip."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def pages() -> list[str]:
    """Every Markdown file of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return sorted(name for name in listed if (ROOT / name).is_file())


class Shell:
    """A running platform, and a shell that finds it as a reader's would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PRATAI_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
        }
        ready = directory / "ready.json"
        with (directory / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["pratai", "up", "--port", "0", "--ready-file", str(ready)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + START_S_MAX
        while not ready.exists():
            said = (directory / "up.log").read_text()[-2000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < limit, said
            time.sleep(0.02)
        self.url = json.loads(ready.read_text())["url"]

    def run(self, script: str, page: str) -> subprocess.CompletedProcess[str]:
        directory = self.directory / page.replace("/", "_")
        directory.mkdir()
        return subprocess.run(
            ["bash", "-c", script.replace(USUAL_URL, self.url)],
            cwd=directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 0


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    running = Shell(tmp_path_factory.mktemp("docs"))
    yield running
    running.close()


def blocks_of(page: str) -> list[tuple[str, list[str]]]:
    """Each `sh` block of a page with the lines that its output must have."""
    found: list[tuple[str, list[str]]] = []
    for language, body in FENCE.findall((ROOT / page).read_text("utf-8")):
        if language == "sh" and body.strip() not in DONE_BEFORE:
            found.append((body, []))
        elif language == "text":
            assert found, f"{page}: output before any command"
            found[-1][1].extend(line for line in body.splitlines() if line.strip())
    return found


@pytest.mark.parametrize("page", EXECUTED)
def test_every_command_of_the_page_runs_and_says_what_the_page_says(
    page: str, shell: Shell
) -> None:
    blocks = blocks_of(page)
    assert blocks
    if any("curl " in body for body, _ in blocks) and shutil.which("curl") is None:
        absent("curl is not installed")
    parts = [f"echo '@@{at}@@'\n{body}" for at, (body, _) in enumerate(blocks)]

    done = shell.run("set -euo pipefail\n" + "\n".join(parts), page)

    assert done.returncode == 0, done.stdout[-3000:]
    outputs = re.split(r"@@\d+@@\n", done.stdout)[1:]
    assert len(outputs) == len(blocks)
    for (body, expected), output in zip(blocks, outputs, strict=True):
        said = "".join(output.split())
        for line in expected:
            assert "".join(line.split()) in said, (
                f"{line!r} is not said by:\n{body}\nbut:\n{output}"
            )


@pytest.mark.parametrize("page", pages())
def test_every_link_to_a_file_leads_to_one(page: str) -> None:
    targets = [one for one in LINK.findall((ROOT / page).read_text("utf-8")) if ":" not in one]

    missing = [
        target
        for target in targets
        if (name := target.partition("#")[0]) and not (ROOT / page).parent.joinpath(name).exists()
    ]

    assert missing == []


CODE_PATH = re.compile(r"`([\w./-]+(?:\.(?:py|toml|md)|/))`")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "STYLE.md"])
def test_every_file_that_the_page_names_exists(page: str) -> None:
    """Relative to the root or to src/pratai; `{...}` and capital letters stand for names."""
    named = CODE_PATH.findall((ROOT / page).read_text("utf-8"))
    found = [name for name in named if not re.search(r"[A-Z]{3}", name)]

    assert found
    assert [
        name
        for name in found
        if not any(list(base.glob(f"**/{name.rstrip('/')}")) for base in PLACES)
        and not (ROOT / name).exists()
    ] == []


def errors_page() -> str:
    """What `scripts/errors_reference.py` writes."""
    path = ROOT / "scripts" / "errors_reference.py"
    spec = importlib.util.spec_from_file_location("errors_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.render())


@pytest.mark.parametrize(
    ("page", "render"),
    [
        ("api.md", api_reference.page),
        ("cli.md", cli_reference.render),
        ("configuration.md", config_reference.render),
        ("errors.md", errors_page),
    ],
)
def test_a_generated_page_is_current(page: str, render: Any) -> None:
    """Write all of them anew: make docs."""
    assert (ROOT / "docs" / "reference" / page).read_text("utf-8") == render()


def glossary() -> dict[str, str]:
    """{term: meaning} of the glossary's tables."""
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \|",
        (ROOT / "docs" / "glossary.md").read_text("utf-8"),
        re.MULTILINE,
    )
    return {
        term.strip(): meaning
        for terms, meaning in rows
        for term in terms.split(",")
        if terms not in ("name", "---")
    }


def test_terms_that_the_concepts_set_in_bold_are_in_the_glossary() -> None:
    known = {form for term in glossary() for form in (term, f"{term}s")}
    used = {
        term
        for path in (ROOT / "docs" / "concepts").glob("*.md")
        for term in BOLD_TERM.findall(path.read_text("utf-8"))
    }

    assert used
    assert used - known == set()


def test_decisions_are_numbered_without_gaps_and_have_the_same_parts() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))

    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        headings = re.findall(r"^## (.+)$", path.read_text("utf-8"), re.MULTILINE)
        assert headings == ["Context", "Choice", "Consequences", "What would change our mind"]


def test_every_target_of_the_makefile_is_told_by_help() -> None:
    if shutil.which("make") is None:
        absent("make is not installed")
    targets = re.findall(r"^([a-z]\w*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)

    told = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert {"help", "setup", "check", "test", "sim", "e2e", "bench", "docs"} <= set(targets)
    assert [target for target in targets if target not in told] == []
