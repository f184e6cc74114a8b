"""Fixtures of the end-to-end tests: real platforms in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from platform_process import TARGETS, PlatformProcess, check_target, wanted_targets


@pytest.fixture(scope="module", params=wanted_targets())
def platform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlatformProcess]:
    """A platform that the tests of one file share; of each kind in turn."""
    check_target(request.param)
    running = TARGETS[request.param](tmp_path_factory.mktemp("platform")).start()
    yield running
    running.close()


@pytest.fixture(params=wanted_targets())
def own_platform(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlatformProcess]:
    """A platform of a test's own, not started yet: it may be killed; of each kind in turn."""
    check_target(request.param)
    running = TARGETS[request.param](tmp_path)
    yield running
    running.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[PlatformProcess]:
    """`pratai up` of a test's own, not started yet, for what a cluster has not."""
    running = PlatformProcess(tmp_path)
    yield running
    running.close()
