"""The benches' own arithmetic: what is parsed, which rounds count, which numbers are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import connection, report, wrk
from bench.harness import (
    Goal,
    Plan,
    Ratio,
    Result,
    Round,
    Row,
    counting,
    median,
    moved,
    percentile,
    ratio,
    run_rounds,
    settled,
)
from bench.machine import Machine

LINE = (
    '{"requests":2000,"duration_us":1000000,"bytes":1,"connect_errors":0,"read_errors":0,'
    '"write_errors":0,"timeouts":1,"non_2xx":2,"compared_bodies":9,"wrong_bodies":0,"p50_us":120,'
    '"p90_us":200,"p99_us":300,"p999_us":400,"max_us":500,"mean_us":130.5}'
)
PLAN = Plan(quick=False, rounds=2, extra_rounds=1, seconds=1)


def a_round(number: int, mine: float, theirs: float, *, kept: bool = True) -> Round:
    return Round(
        number=number,
        order=["mine", "theirs"],
        figures={"mine": {"ms": mine}, "theirs": {"ms": theirs}},
        control_before=100,
        control_after=100,
        kept=kept,
    )


def test_wrks_figures_are_found_among_its_own_report() -> None:
    load = wrk.parse(f"Running 1s test\n  Requests/sec: 2000\n{LINE}\n")

    assert load.rate == 2_000
    assert load.errors == 3
    assert load.p50_us == 120


def test_output_without_figures_is_an_error_that_shows_it() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1")


def test_a_control_moves_by_the_same_share_in_both_directions() -> None:
    assert moved(100, 120) == pytest.approx(0.2)
    assert moved(120, 100) == pytest.approx(0.2)


def test_a_ratio_is_taken_inside_each_round() -> None:
    rounds = [a_round(1, 2, 1), a_round(2, 40, 10), a_round(3, 3, 1)]

    found = ratio(rounds, ("mine", "ms"), ("theirs", "ms"))

    assert found == Ratio(median=3, low=2, high=4)


def test_a_discarded_round_does_not_count() -> None:
    rounds = [a_round(1, 2, 1), a_round(2, 90, 1, kept=False), a_round(3, 4, 1)]

    assert median(rounds, "mine", "ms") == 3
    assert settled(rounds)


def test_with_too_few_good_rounds_all_count_and_the_result_is_unsettled() -> None:
    rounds = [a_round(1, 2, 1), a_round(2, 8, 1, kept=False), a_round(3, 4, 1, kept=False)]

    assert counting(rounds) == rounds
    assert not settled(rounds)


def test_the_order_alternates_and_a_disturbed_round_is_run_again() -> None:
    controls = iter([100.0, 100.0, 100.0, 200.0, 100.0, 101.0])
    subjects = {"a": lambda: {"ms": 1.0}, "b": lambda: {"ms": 2.0}}

    rounds = run_rounds(subjects, lambda: next(controls), PLAN)

    assert [each.order for each in rounds] == [["a", "b"], ["b", "a"], ["a", "b"]]
    assert [each.kept for each in rounds] == [True, False, True]


def test_rounds_end_although_the_control_never_stands_still() -> None:
    controls = iter([1.0, 2.0] * 3)

    rounds = run_rounds({"a": lambda: {"ms": 1.0}}, lambda: next(controls), PLAN)

    assert len(rounds) == PLAN.rounds + PLAN.extra_rounds


def test_a_percentile_is_a_sample_that_was_seen() -> None:
    samples = [float(number) for number in range(1, 101)]

    assert percentile(samples, 50) == 50
    assert percentile(samples, 99) == 99
    assert percentile([7.0], 99) == 7


def test_a_goal_knows_its_direction() -> None:
    lower, higher = Goal(better="lower", first=5, best=3), Goal(better="higher", first=5, best=10)

    assert [lower.reached(value) for value in (3, 4, 6)] == ["best", "first", "no"]
    assert [higher.reached(value) for value in (10, 6, 4)] == ["best", "first", "no"]


def test_an_answer_is_whole_once_its_last_byte_is_there() -> None:
    answer = connection.Answer()

    assert not answer.feed(b"HTTP/1.1 200 OK\r\nContent-Le")
    assert not answer.feed(b"ngth: 4\r\nX-Kind: cold\r\n\r\nab")
    assert answer.feed(b"cd")
    assert (answer.status, answer.body, answer.header("x-kind")) == (200, b"abcd", "cold")


def test_random_arrivals_are_the_same_for_the_same_seed() -> None:
    arrivals = list(connection.poisson(1_000, 1.0, seed=5))

    assert arrivals == list(connection.poisson(1_000, 1.0, seed=5))
    assert arrivals == sorted(arrivals)
    assert 800 < len(arrivals) < 1_200


def test_results_are_read_back_and_written_between_the_marks_of_the_page(tmp_path: Path) -> None:
    result = a_result(quick=False)
    report.write(result, tmp_path)
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")

    report.write_page(report.read(["latency", "never run"], tmp_path), page)

    text = page.read_text()
    assert "| W1 | warm call | nginx | 4.2 | 4 to 4.5 | <= 5 | <= 3 | first |" in text
    assert "not measured: no engine" in text
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")


def test_quick_results_are_called_so() -> None:
    assert "no results to quote: latency" in report.markdown([a_result(quick=True)])


def a_result(*, quick: bool) -> Result:
    return Result(
        name="latency",
        date="2026-01-02T03:04:05+00:00",
        command="scripts/bench",
        quick=quick,
        seconds_taken=1,
        machine=Machine(
            processor="a processor",
            cores=2,
            memory_mb=2_048,
            kernel="6.1",
            python="3.11",
            load_average=0,
            versions={"nginx": "1.22"},
        ),
        settled=True,
        rows=[
            Row(
                id="W1",
                metric="warm call",
                against="nginx",
                ratio=Ratio(median=4.21, low=4.0, high=4.49),
                goal=Goal(better="lower", first=5, best=3),
            ),
            Row(id="C1", metric="first call", against="docker run", skipped="no engine"),
        ],
        rounds=[],
    )
