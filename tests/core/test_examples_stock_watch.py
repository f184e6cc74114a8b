"""The example `stock_watch`: counts in any order, twice, and the list that its timer asks for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "stock_watch"


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("STOCK_PATH", str(tmp_path / "stock.json"))
    spec = importlib.util.spec_from_file_location("stock_watch_example", FOLDER / "stock_watch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def count(sku: str, left: int, minute: int) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((FOLDER / "samples" / "counted.json").read_text("utf-8"))
    return {**event, "time": f"2026-01-31T09:{minute:02}:00Z", "data": {"sku": sku, "left": left}}


def test_the_newest_count_stands_whatever_the_order(watch: ModuleType) -> None:
    assert watch.main(count("tea", 9, 30)) == {"sku": "tea", "left": 9, "news": True}
    assert watch.main(count("tea", 40, 10)) == {"sku": "tea", "left": 9, "news": False}
    assert watch.main(count("tea", 9, 30)) == {"sku": "tea", "left": 9, "news": False}
    assert watch.main(count("tea", 2, 40))["left"] == 2


def test_the_timer_is_told_what_is_low_the_least_first(watch: ModuleType) -> None:
    for sku, left in (("tea", 9), ("jam", 10), ("salt", 0), ("rice", 3)):
        watch.main(count(sku, left, 30))

    told = watch.main({"trigger": "nightly", "due_at": "2026-02-01T02:00:00.000Z"})

    assert told == {
        "as_of": "2026-02-01T02:00:00.000Z",
        "order": [
            {"sku": "salt", "left": 0},
            {"sku": "rice", "left": 3},
            {"sku": "tea", "left": 9},
        ],
    }


@pytest.mark.parametrize("event", [{}, {"type": "other"}, {"trigger": "x"}])
def test_what_is_neither_is_refused(watch: ModuleType, event: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="neither"):
        watch.main(event)
