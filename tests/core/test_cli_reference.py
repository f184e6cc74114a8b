"""The reference page of the command line is what the commands say."""

from __future__ import annotations

from pathlib import Path

from pratai.cli.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_page_is_current():
    """Make it anew with `python -m pratai.cli.reference > docs/reference/cli.md`."""
    assert render() == PAGE.read_text(encoding="utf-8")


def test_the_reference_page_has_every_command_of_the_contract():
    text = render()

    for command in (
        "up", "deploy", "invoke", "functions", "function show", "function delete",
        "function versions", "function publish", "function rollback", "alias set", "alias list",
        "alias delete", "logs", "invocations", "invocation show", "why", "replay",
        "dead-letters list", "dead-letters show", "dead-letters replay", "dead-letters purge",
        "nodes", "node show", "node drain", "node undrain", "runtimes", "dev", "config show",
        "config check", "keys create", "doctor",
    ):  # fmt: skip
        assert f"### `pratai {command}`" in text
