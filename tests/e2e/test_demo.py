"""The demo of the README, run as it stands: every example, the crash, and the proof."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROOF = re.compile(r"proof: accepted=(\d+) ran=(\d+) lost=(\d+) duplicates=(\d+)")


@pytest.mark.timeout(180)
def test_the_demo_shows_every_example_and_loses_nothing_to_kill_9() -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "demo"), "--once"],
        cwd=ROOT,
        env={**os.environ, "PRATAI_VENV": sys.prefix},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:]
    proof = PROOF.search(done.stdout)
    assert proof is not None, done.stdout[-4000:]
    accepted, ran, lost, duplicates = map(int, proof.groups())
    assert (ran, lost, duplicates) == (accepted, 0, 0)
    assert accepted == 300
    results = {path.name for path in (ROOT / ".pratai-demo" / "results").iterdir()}
    assert results == {"lake_small.jpg", "dunes_small.jpg", "badge_small.png", "orders.html"}
