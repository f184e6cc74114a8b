"""Processes as /proc shows them: descendants, processor time, memory. Linux alone."""

from __future__ import annotations

import os

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def descendants(root: int) -> list[int]:
    """Every living process below `root`."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    left = [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def cpu_seconds(root: int) -> float:
    """Processor time of a process tree so far, ended and awaited children included."""
    ticks = 0
    for pid in [root, *descendants(root)]:
        fields = _stat(pid)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_A_SECOND


def pss_kb(pid: int) -> int:
    """Proportional set size: own memory and a fair share of what is shared."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    raise ValueError(f"process {pid} has no PSS")


def private_kb(pid: int) -> int:
    """Memory that would be free again if this process ended."""
    total = 0
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total


def named(root: int, name: str) -> list[int]:
    """Processes below `root` that gave themselves this name."""
    found = []
    for pid in descendants(root):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                if file.read().strip() == name:
                    found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
