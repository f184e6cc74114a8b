"""What the figures were measured on: processor, memory, kernel, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sqlite3
import subprocess
from pathlib import Path

import msgspec

#: Distributions whose versions belong beside the figures.
DISTRIBUTIONS = ("pratai", "uvicorn", "uvloop", "httptools", "functions-framework", "gunicorn")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine and the programs that ran on it."""

    processor: str
    cores: int
    memory_mb: int
    kernel: str
    python: str
    #: Load average of the last minute when the run began.
    load_average: float
    versions: dict[str, str]


def describe() -> Machine:
    """Describe the machine this runs on."""
    versions = {name: _distribution(name) for name in DISTRIBUTIONS}
    versions["sqlite"] = sqlite3.sqlite_version
    versions["nginx"] = _version("nginx", "-v")
    versions["wrk"] = _version("wrk", "-v")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        kernel=platform.release(),
        python=platform.python_version(),
        load_average=round(os.getloadavg()[0], 2),
        versions={name: version for name, version in versions.items() if version},
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(*command: str) -> str:
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return ""
    found = re.search(r"\d+(\.\d+)+", shown.stdout + shown.stderr)
    return found.group() if found else ""
