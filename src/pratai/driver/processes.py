"""Looking at and ending process trees through /proc. Synchronous and quick; no event loop here."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator

_ROUNDS_MAX = 50
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, itself not included."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in _children(waiting.pop()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def kill_below(pid: int) -> None:
    """Kill every process below `pid`, which must be stopped so that it starts no more."""
    seen: set[int] = set()
    for _ in range(_ROUNDS_MAX):
        fresh = descendants(pid) - seen
        if not fresh:
            return
        for one in fresh:
            send_signal(one, signal.SIGSTOP)
        for one in fresh:
            send_signal(one, signal.SIGKILL)
        seen |= fresh


def marked(mark: str, uids: Collection[int] = ()) -> set[int]:
    """Processes whose first environment carries `PRATAI_MARK=mark`.

    Where it may not be read, for want of CAP_SYS_PTRACE, those of these users.
    """
    wanted = f"PRATAI_MARK={mark}".encode()
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                ours = wanted in file.read().split(b"\0")
        except PermissionError:
            ours = _uid(int(name)) in uids
        except OSError:
            continue
        if ours:
            found.add(int(name))
    return found


def kill_marked(mark: str, uids: Collection[int] = ()) -> int:
    """Kill whatever carries this mark, until nothing does; how many were found."""
    count = 0
    for _ in range(_ROUNDS_MAX):
        found = {pid for pid in marked(mark, uids) if not _is_zombie(pid)}
        if not found:
            break
        count += len(found)
        for pid in found:
            send_signal(pid, signal.SIGKILL)
    return count


def send_signal(pid: int, number: int) -> None:
    """Signal a process that may be gone by now."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def memory_bytes(pid: int) -> int:
    """Proportional share of memory, or resident size where the kernel does not tell it."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def cpu_us(pid: int) -> int:
    """Processor time that a process has used, its ended children included."""
    fields = _stat(pid)
    return sum(int(value) for value in fields[11:15]) * _TICK_US if fields else 0


def _uid(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    fields = _stat(pid)
    return not fields or fields[0] in (b"Z", b"X")


def _stat(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the state on."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        for child in _read(f"/proc/{pid}/task/{thread}/children").split():
            yield int(child)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
