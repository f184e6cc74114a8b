"""The pure parts of the command line: times, spans, timelines, names, events, server-sent events."""

from __future__ import annotations

import click
import pytest

from pratai.cli.arguments import moment, pair
from pratai.cli.client import normalized, problem_of, route
from pratai.cli.logs import sse_data
from pratai.cli.output import ms, pretty, size, span
from pratai.cli.project import default_name
from pratai.cli.timeline import Step, draw, steps_of_marks
from pratai.errors import InvalidField
from pratai.model.api import MarkView


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("90s", "90s"),
        ("10m", "10m"),
        ("1.5h", "5400s"),
        ("5ms", "5ms"),
        ("86400000ms", "86400s"),
        ("10000000s", "166667m"),
    ],
)
def test_an_age_is_left_to_the_clock_of_the_server(text, sent):
    assert moment(text) == sent


def test_a_moment_is_also_an_iso_time_or_milliseconds():
    assert moment("2026-01-01T00:00:00+01:00") == "1767222000000"
    assert moment("1767222000000") == "1767222000000"


@pytest.mark.parametrize("text", ["", "soon", "10 minutes", "-5m", "2026-13-01", "9999999999h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(click.BadParameter, match=r"is no time|longer ago"):
        moment(text)


def test_a_pair_is_split_at_its_first_equals_sign():
    assert pair("A=b=c") == ("A", "b=c")
    assert pair("A=") == ("A", "")


@pytest.mark.parametrize("text", ["A", "=b", ""])
def test_what_is_no_pair_is_refused(text):
    with pytest.raises(click.BadParameter, match="NAME=VALUE"):
        pair(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), (0.123, "0.12 ms"), (9.994, "9.99 ms"), (12.3, "12 ms"), (30_000, "30,000 ms")],
)
def test_milliseconds_are_as_precise_as_they_deserve(value, shown):
    assert ms(value) == shown


def test_sizes_and_spans_have_the_unit_that_fits():
    assert [size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
    assert [span(n) for n in (5, 89, 120, 7_200, 200_000)] == ["5 s", "89 s", "2 min", "2 h", "2 d"]


def test_only_json_is_made_pretty():
    assert pretty(b'{"a":1}') == '{\n  "a": 1\n}'
    assert pretty(b"a,b") is None
    assert pretty(b"\xff") is None


def test_marks_last_until_the_next_one():
    marks = [
        MarkView(name="accepted", at_ms=0, offset_ms=0),
        MarkView(name="retried", at_ms=4, offset_ms=4, attempt=2, detail="crashed"),
        MarkView(name="ran", at_ms=10, offset_ms=10),
    ]

    steps = steps_of_marks(marks, 10.0)

    assert [(step.name, step.duration_ms, step.text) for step in steps] == [
        ("accepted", 4, ""),
        ("retried", 6, "attempt 2 crashed"),
        ("ran", None, ""),
    ]


def test_bars_lie_where_their_time_lies():
    steps = [
        Step(name="queue", offset_ms=0, duration_ms=50),
        Step(name="run", offset_ms=50, duration_ms=50),
        Step(name="answered", offset_ms=100, duration_ms=None, text="200"),
    ]

    bars = [line.split("│")[1] for line in draw(steps, 80)]

    assert bars == ["█" * 10 + " " * 10, " " * 10 + "█" * 10, " " * 19 + "·"]
    assert draw(steps, 80)[2].endswith("-  200")


def test_a_long_text_goes_on_below_itself():
    step = Step(name="run", offset_ms=0, duration_ms=1, text="the handler ran for a good while")

    first, second = draw([step], 60)

    assert first.endswith("the handler ran")
    assert second.strip() == "for a good while"
    assert second.index("for") == first.index("the")


@pytest.mark.parametrize("offset_ms", [0.0, 1e-9, 5.0])
def test_no_timeline_is_too_short_or_too_late_to_draw(offset_ms):
    lines = draw([Step(name="x", offset_ms=offset_ms, duration_ms=1e-12)], 10)

    assert len(lines[0].split("│")[1]) == 10
    assert draw([], 80) == []


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("hello.py", "", "hello"),
        ("send_mail.py", "", "send_mail"),
        ("my report (1).py", "", "my-report-1"),
        ("_private.py", "", "private"),
        ("main.py", "", "main"),
        ("x.py", '# /// script\n# [tool.pratai]\n# name = "chosen"\n# ///\n', "chosen"),
        ("x.py", "# /// script\n# dependencies = []\n# ///\n", "x"),
        ("shop.zip", "", "shop"),
        ("a" * 90 + ".py", "", "a" * 64),
    ],
)
def test_a_file_gives_its_function_a_name(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)

    assert default_name(tmp_path / name) == expected


def test_a_folder_gives_its_function_a_name(tmp_path):
    folder = tmp_path / "my shop"
    folder.mkdir()

    assert default_name(folder) == "my-shop"
    (folder / "pyproject.toml").write_text('[tool.pratai]\nname = "checkout"\n')
    assert default_name(folder) == "checkout"


def test_a_name_of_nothing_but_odd_characters_is_refused(tmp_path):
    (tmp_path / "(((.py").write_text("")

    with pytest.raises(InvalidField, match="gives no name"):
        default_name(tmp_path / "(((.py")


def test_metadata_that_is_no_toml_is_told(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool")

    with pytest.raises(InvalidField, match="not valid TOML"):
        default_name(tmp_path)


def test_events_are_cut_at_blank_lines_and_comments_passed_over():
    lines = iter(
        [
            b": hi",
            b"",
            b"id: 1",
            b"data: a",
            b"data:b",
            b"",
            b"event: x\r",
            b"data: c\r",
            b"\r",
            b"data: cut",
        ]
    )

    assert list(sse_data(lines)) == [b"a\nb", b"c"]


def test_a_server_may_be_named_without_its_scheme():
    assert normalized("10.0.0.5:9996") == "http://10.0.0.5:9996"
    assert normalized("https://pratai.test/") == "https://pratai.test"


@pytest.mark.parametrize("server", ["ftp://x", "http://", "http://x:0", "http://x:99999", "://"])
def test_what_is_no_address_is_refused(server):
    with pytest.raises(InvalidField, match="is not the address of a server"):
        normalized(server)


def test_parts_of_a_path_are_quoted():
    assert (
        route("functions", "a/b", "versions", "$LATEST") == "/v1/functions/a%2Fb/versions/$LATEST"
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff"])
def test_an_answer_that_is_no_document_is_still_a_problem(body):
    problem = problem_of(500, body)

    assert (problem.status, problem.fault) == (500, "platform")
    assert problem.detail
