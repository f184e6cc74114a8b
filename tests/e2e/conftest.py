"""Fixtures of the end-to-end tests: real platforms in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from platform_process import PlatformProcess, new_platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """A platform that the tests of one file share."""
    running = new_platform(tmp_path_factory.mktemp("platform")).start()
    yield running
    running.close()


@pytest.fixture
def own_platform(tmp_path: Path) -> Iterator[PlatformProcess]:
    """A platform of a test's own, not started yet: it may be killed."""
    running = new_platform(tmp_path)
    yield running
    running.close()
