"""Runs the `pratai` command under a profiler: cProfile, or a sampler driven by processor time.

    python -m bench.profiled cprofile|sample OUTPUT pratai's arguments...

SIGUSR1 begins profiling, SIGUSR2 ends it and writes OUTPUT, so that start-up is not in the
figures. `profile.py` starts it; nobody else needs it.
"""

from __future__ import annotations

import collections
import cProfile
import json
import os
import signal
import sys
import time
from types import FrameType

#: Time between samples, in seconds of processor time; the kernel may make it longer.
INTERVAL_S = 0.001


class Sampler:
    """Counts, at each tick of this process's own processor time, where the main thread is."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._own: collections.Counter[str] = collections.Counter()
        self._total: collections.Counter[str] = collections.Counter()
        self._lines: collections.Counter[str] = collections.Counter()
        self._samples = 0
        self._started_s = 0.0

    def start(self, *_: object) -> None:
        """Sample from now on."""
        self._started_s = time.thread_time()
        signal.signal(signal.SIGPROF, self._on_tick)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self, *_: object) -> None:
        """Stop and write what was counted, as JSON."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        counted = {
            "samples": self._samples,
            "main_thread_s": time.thread_time() - self._started_s,
            "own": self._own.most_common(200),
            "total": self._total.most_common(200),
            "lines": self._lines.most_common(200),
        }
        with open(f"{self._output}.part", "w", encoding="utf-8") as file:
            json.dump(counted, file)
        os.rename(f"{self._output}.part", self._output)

    def _on_tick(self, _: int, frame: FrameType | None) -> None:
        self._samples += 1
        seen: set[str] = set()
        innermost = True
        while frame is not None:
            code = frame.f_code
            name = f"{code.co_filename}:{code.co_firstlineno}({code.co_qualname})"
            if innermost:
                self._own[name] += 1
                self._lines[f"{code.co_filename}:{frame.f_lineno}"] += 1
                innermost = False
            if name not in seen:
                seen.add(name)
                self._total[name] += 1
            frame = frame.f_back


class Counter:
    """cProfile, begun and ended by the same signals; it sees the main thread alone."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._profile = cProfile.Profile()

    def start(self, *_: object) -> None:
        """Profile every call from now on."""
        self._profile.enable()

    def stop(self, *_: object) -> None:
        """Stop and write the profile."""
        self._profile.disable()
        self._profile.dump_stats(f"{self._output}.part")
        os.rename(f"{self._output}.part", self._output)


def main() -> None:
    """Run the command line that follows the output file."""
    from pratai.cli.main import main as pratai

    kind, output = sys.argv[1:3]
    sys.argv = ["pratai", *sys.argv[3:]]
    profiler = Sampler(output) if kind == "sample" else Counter(output)
    signal.signal(signal.SIGUSR1, profiler.start)
    signal.signal(signal.SIGUSR2, profiler.stop)
    pratai()


if __name__ == "__main__":
    main()
