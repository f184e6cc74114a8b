"""What all benches share: rounds in alternating order, controls, medians of ratios, results.

A bench names subjects, each measured once a round. Before and after every round nginx is measured
as the control: a round in which it moved by more than `CONTROL_MOVE_MAX` is kept in the results
but not in the medians, and another one is run for it, up to a bound. No server is started here.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from bench import wrk
from bench.machine import Machine

#: Share by which the control may differ between a round's two ends.
CONTROL_MOVE_MAX = 0.15
#: With fewer good rounds than this, all rounds count and the result is called unsettled.
GOOD_ROUNDS_MIN = 2

Figures = dict[str, float]
Measure = Callable[[], Figures]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to measure: `full` for results, `quick` to see that everything works."""

    quick: bool
    rounds: int
    #: Rounds that may be run for discarded ones.
    extra_rounds: int
    #: Of one timed load.
    seconds: int

    def times(self, full: int, quick: int) -> int:
        """One of two counts, by the kind of plan."""
        return quick if self.quick else full


FULL = Plan(quick=False, rounds=5, extra_rounds=2, seconds=2)
QUICK = Plan(quick=True, rounds=1, extra_rounds=0, seconds=1)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round: every subject once."""

    number: int
    order: list[str]
    #: {subject: {figure: value}}.
    figures: dict[str, Figures]
    control_before: float
    control_after: float
    #: Whether the control stood still, so that the round counts.
    kept: bool


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A median of per-round ratios and the range they lay in."""

    median: float
    low: float
    high: float


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a ratio should reach first, and what it would be known for."""

    better: Literal["lower", "higher"]
    first: float
    best: float

    def reached(self, value: float) -> str:
        """How far a value got: `best`, `first` or `no`."""
        sign = 1 if self.better == "lower" else -1
        if sign * value <= sign * self.best:
            return "best"
        return "first" if sign * value <= sign * self.first else "no"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a ratio, or why there is none."""

    id: str
    metric: str
    against: str
    ratio: Ratio | None = None
    goal: Goal | None = None
    #: Absolute figures behind the ratio, for reading beside it only.
    detail: str = ""
    #: Why it was not measured; "" when it was.
    skipped: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one bench found, as it is written to `bench/results/`."""

    name: str
    date: str
    command: str
    quick: bool
    seconds_taken: float
    machine: Machine
    #: False when too few rounds had a steady control: read the figures with care.
    settled: bool
    rows: list[Row]
    rounds: list[Round]
    #: Further figures, by name: floors, curves, counts.
    extra: dict[str, msgspec.Raw] = {}


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a bench hands back; the command adds date, machine and name."""

    rows: list[Row]
    rounds: list[Round] = []
    extra: dict[str, msgspec.Raw] = {}


def moved(before: float, after: float) -> float:
    """Share by which a control changed, whichever way."""
    return abs(after - before) / min(before, after)


def run_rounds(
    subjects: Mapping[str, Measure], control: Callable[[], float], plan: Plan
) -> list[Round]:
    """Measure every subject once a round, in alternating order; look at the control around it."""
    rounds: list[Round] = []
    good = 0
    while good < plan.rounds and len(rounds) < plan.rounds + plan.extra_rounds:
        number = len(rounds) + 1
        order = list(subjects) if number % 2 else list(subjects)[::-1]
        before = control()
        figures = {name: subjects[name]() for name in order}
        after = control()
        kept = moved(before, after) <= CONTROL_MOVE_MAX
        good += kept
        rounds.append(
            Round(
                number=number,
                order=order,
                figures=figures,
                control_before=before,
                control_after=after,
                kept=kept,
            )
        )
        say(f"  round {number}: control {before:,.0f} -> {after:,.0f}, kept: {kept}")
    return rounds


def counting(rounds: list[Round]) -> list[Round]:
    """The rounds that count: the kept ones, or all when too few were kept."""
    good = [each for each in rounds if each.kept]
    return good if settled(rounds) else rounds


def settled(rounds: list[Round]) -> bool:
    """Whether enough rounds had a steady control."""
    good = sum(each.kept for each in rounds)
    return good >= min(GOOD_ROUNDS_MIN, len(rounds))


def values(rounds: list[Round], subject: str, figure: str) -> list[float]:
    """A figure of a subject, over the rounds that count."""
    return [each.figures[subject][figure] for each in counting(rounds)]


def median(rounds: list[Round], subject: str, figure: str) -> float:
    """Median of a figure over the rounds that count."""
    return statistics.median(values(rounds, subject, figure))


def ratio(rounds: list[Round], of: tuple[str, str], to: tuple[str, str]) -> Ratio:
    """Ratio of one (subject, figure) to another, taken inside each round."""
    pairs = zip(values(rounds, *of), values(rounds, *to), strict=True)
    return ratio_of(above / below for above, below in pairs)


def ratio_of(ratios: Iterable[float]) -> Ratio:
    """Median and range of ratios."""
    found = sorted(ratios)
    return Ratio(median=statistics.median(found), low=found[0], high=found[-1])


def percentile(samples: list[float], percent: float) -> float:
    """The smallest sample that at least so many percent of all do not exceed."""
    ordered = sorted(samples)
    place = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(place)]


def nginx_control(target: wrk.Target, connections: int = 8) -> Callable[[], float]:
    """The control of a run: requests a second of nginx `return 200`."""

    def control() -> float:
        return wrk.run(target, connections=connections, seconds=1).rate

    return control


def raw(value: object) -> msgspec.Raw:
    """A value as it will stand in the results."""
    return msgspec.Raw(msgspec.json.encode(value))


def say(text: str) -> None:
    """Tell how far the run is, apart from the table on stdout."""
    print(text, file=sys.stderr, flush=True)
