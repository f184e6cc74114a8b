"""Where the supervisor's processor time goes under load; figures of a profiled run are not results.

    python -m bench.profile [--seconds N] [--connections N] [--async] [--sample] [--top N]

cProfile counts every call and slows small functions most; `--sample` looks at the stack at ticks
of processor time, costs little and tells lines, but knows nothing of call counts.
"""  # noqa: A005 - only ever `bench.profile`

from __future__ import annotations

import argparse
import json
import os
import pstats
import signal
import tempfile
import time
from pathlib import Path

from bench import processes, wrk
from bench.embedded import HELLO, HELLO_ANSWER, Embedded

ROOT = str(Path(__file__).resolve().parent.parent)
WARM_CALLS = 200
WRITE_S_MAX = 20.0


def main() -> None:
    """Start the platform under a profiler, load it, print the top functions."""
    options = _options()
    kind = "sample" if options.sample else "cprofile"
    with tempfile.TemporaryDirectory(prefix="pratai-profile-") as directory:
        output = os.path.join(directory, "profile")
        launcher = ("-m", "bench.profiled", kind, output)
        settings = [*options.set, "scheduler.backlog_max=10000000"]
        with Embedded(*settings, launcher=launcher) as platform:
            load, spent_s = _profile(platform, options, output)
        print(
            f"{load.rate:,.0f} calls/s under the profiler, p50 {load.p50_us} us, "
            f"p99 {load.p99_us} us, {spent_s / load.requests * 1e6:,.0f} us of processor time "
            "a call (whole process tree)\n"
        )
        if options.sample:
            _print_samples(output, options.top, load.requests)
        else:
            for order in ("tottime", "cumtime"):
                pstats.Stats(output).sort_stats(order).print_stats(options.top)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--async", dest="asynchronous", action="store_true")
    parser.add_argument("--sample", action="store_true", help="sample instead of cProfile")
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    return parser.parse_args()


def _profile(
    platform: Embedded, options: argparse.Namespace, output: str
) -> tuple[wrk.Load, float]:
    """Load a warm platform while its profiler runs; what wrk saw and processor seconds spent."""
    platform.deploy("hello", HELLO)
    for _ in range(WARM_CALLS):
        platform.invoke("hello", {})
    target = platform.target(
        "hello",
        asynchronous=options.asynchronous,
        expect="" if options.asynchronous else HELLO_ANSWER,
    )
    wrk.run(target, connections=options.connections, seconds=1)
    os.kill(platform.pid, signal.SIGUSR1)
    before_s = processes.cpu_seconds(platform.pid)
    load = wrk.run(target, connections=options.connections, seconds=options.seconds)
    spent_s = processes.cpu_seconds(platform.pid) - before_s
    os.kill(platform.pid, signal.SIGUSR2)
    limit = time.monotonic() + WRITE_S_MAX
    while not os.path.exists(output):
        if time.monotonic() > limit:
            raise RuntimeError(f"the profile was not written:\n{platform.log()[-4000:]}")
        time.sleep(0.05)
    return load, spent_s


def _print_samples(path: str, top: int, calls: int) -> None:
    """Print shares of samples, and what they mean in processor time of the main thread a call."""
    with open(path, encoding="utf-8") as file:
        counted = json.load(file)
    samples = max(1, counted["samples"])
    call_us = counted["main_thread_s"] / calls * 1e6
    print(f"{samples} samples; the supervisor's main thread spends {call_us:.1f} us a call")
    for title, key in (("own", "own"), ("own, by line", "lines"), ("with callees", "total")):
        print(f"\n  share  us/call  {title}")
        for name, count in counted[key][:top]:
            shown = name.replace(f"{ROOT}/", "").replace("src/pratai", "pratai")
            print(f"{count / samples:7.1%} {count / samples * call_us:8.2f}  {shown}")


if __name__ == "__main__":
    main()
