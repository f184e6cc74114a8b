"""Fixtures that several tiers share: real programs that are started once for a whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.docker_engine import DockerEngine, docker_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """A Docker engine that all tests of a run share."""
    with docker_engine() as running:
        yield running
