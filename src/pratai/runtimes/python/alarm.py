"""A timer of this process that interrupts it once by a signal; no thread, and not `setitimer`,
which user code may want for itself.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from types import FrameType

#: Far from the signals that programs use, and not the one of a recall.
SIGNAL = signal.SIGRTMIN + 6

_CLOCK_MONOTONIC = 1
_SIGEV_SIGNAL = 0


class _Event(ctypes.Structure):
    """`struct sigevent`."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("unused", ctypes.c_char * 48),
    )


class _Setting(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Alarm:
    """Calls `ring()` in the main thread `after_ms` after `set()`. Belongs to one process only."""

    def __init__(self, ring: Callable[[], None], *, after_ms: int) -> None:
        self._ring = ring
        self._setting = _Setting(value_s=after_ms // 1000, value_ns=after_ms % 1000 * 1_000_000)
        self._timer = ctypes.c_void_p()
        library = _library()
        event = _Event(signal=SIGNAL, notify=_SIGEV_SIGNAL)
        made = library is not None and not library.timer_create(
            _CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)
        )
        #: None where the system has no such timers: then nothing ever rings.
        self._library = library if made else None
        if made:
            signal.signal(SIGNAL, self._on_signal)
            signal.siginterrupt(SIGNAL, False)

    def set(self) -> None:
        """Ring once, `after_ms` from now; a ring that was set before is moved."""
        if self._library is not None:
            self._library.timer_settime(self._timer, 0, ctypes.byref(self._setting), None)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._ring()


def _library() -> ctypes.CDLL | None:
    """Where `timer_create` is: in libc, or in librt of an older glibc."""
    for name in (None, "librt.so.1"):
        try:
            library = ctypes.CDLL(name)
            library.timer_create.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
            library.timer_settime.argtypes = [
                ctypes.c_void_p,
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
            ]
        except (OSError, AttributeError):
            continue
        return library
    return None
