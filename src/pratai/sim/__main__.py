"""`python -m pratai.sim --seeds N`: runs seeds; says how many invocations, how many failures."""

from __future__ import annotations

import argparse
import sys

from pratai.clock import monotonic_us
from pratai.sim.world import SimulationFailed, World


def main() -> int:
    """Run the seeds; 1 when any of them failed."""
    parser = argparse.ArgumentParser(prog="python -m pratai.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--calls", type=int, default=70, help="calls in each run")
    parser.add_argument("--no-faults", action="store_true", help="nothing dies, nothing is lost")
    options = parser.parse_args()
    began_us = monotonic_us()
    invocations = steps = 0
    failures: list[SimulationFailed] = []
    for seed in range(options.first, options.first + options.seeds):
        try:
            report = World(seed, calls=options.calls, faults=not options.no_faults).run()
        except SimulationFailed as failure:
            failures.append(failure)
            sys.stdout.write(f"{failure}\n")
            continue
        invocations += report.invocations
        steps += report.steps
    minutes = max(1, monotonic_us() - began_us) / 60e6
    sys.stdout.write(
        f"{options.seeds} seeds: {invocations} invocations in {steps} steps, "
        f"{round(invocations / minutes)} invocations/minute, {len(failures)} failures"
        f"{' (seeds ' + ', '.join(str(item.seed) for item in failures) + ')' if failures else ''}\n"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
