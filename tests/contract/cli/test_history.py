"""Logs, invocations, explanations and dead letters: what is asked and what is shown."""

from __future__ import annotations

import io
import sys
import threading

import msgspec
import pytest

LOGS = "/v1/functions/hello/logs"
WHY = {
    "request_id": "r-1",
    "function": "hello",
    "version": "3",
    "outcome": "failed",
    "fault": "function",
    "summary": "hello failed after 12 ms.",
    "cause": "ZeroDivisionError: division by zero.",
    "next": "Mend main.py line 2.",
    "steps": [
        {"name": "accepted", "offset_ms": 0.0, "duration_ms": None, "text": "by the gateway"},
        {"name": "start", "offset_ms": 0.1, "duration_ms": 8.0, "text": "cold"},
    ],
    "stack": ['  File "main.py", line 2, in main'],
}


def test_logs_are_json_lines_when_piped(pratai, api):
    records = [api.log(1, "one"), api.log(2, "two", "ERROR")]
    api.on("GET", LOGS, api.logs(*records))

    ran = pratai("logs", "hello", "--since", "1700000000000", "--grep", "o", "--limit", "7")

    assert ran.lines() == records
    assert api.only("GET", LOGS).query == {"since": "1700000000000", "grep": "o", "limit": "7"}


def test_logs_are_lines_in_a_terminal(pratai, api):
    api.on("GET", LOGS, api.logs(api.log(1, "one [bold]not markup[/bold]")))

    text = pratai("logs", "hello", terminal=True).text

    assert "INFO     one [bold]not markup[/bold]" in text


def test_a_level_hides_what_is_below_it(pratai, api):
    records = [api.log(1, "a", "DEBUG"), api.log(2, "b", "STDOUT"), api.log(3, "c", "ERROR")]
    api.on("GET", LOGS, api.logs(*records))

    assert [line["text"] for line in pratai("logs", "hello", "--level", "info").lines()] == [
        "b",
        "c",
    ]
    assert [line["text"] for line in pratai("logs", "hello", "--level", "ERROR").lines()] == ["c"]


def test_no_logs_is_said_in_a_terminal_only(pratai, api):
    api.on("GET", LOGS, api.logs())

    assert pratai("logs", "hello").out == b""
    assert "No log records match." in pratai("logs", "hello", terminal=True).err


def test_logs_of_one_invocation_come_page_by_page(pratai, api):
    path = "/v1/invocations/r-1/logs"
    pages = {
        "": [api.log(number, str(number)) for number in range(1, 1_001)],
        "1000": [api.log(1_001, "last")],
    }
    api.on("GET", path, lambda asked: api.logs(*pages[asked.query.get("after", "")]))

    ran = pratai("logs", "--request-id", "r-1")

    assert len(ran.lines()) == 1_001
    assert ran.lines()[-1]["text"] == "last"


def test_following_an_invocation_ends_with_it(pratai, api):
    api.on(
        "GET",
        "/v1/invocations/r-1",
        api.json(api.invocation(state="leased", outcome="")),
        api.json(api.invocation()),
    )
    api.on(
        "GET",
        "/v1/invocations/r-1/logs",
        api.logs(api.log(1, "x")),
        api.logs(),
        api.logs(api.log(2, "late")),
        api.logs(),
    )

    ran = pratai("logs", "--request-id", "r-1", "-f")

    assert [line["sequence"] for line in ran.lines()] == [1, 2]


def _event(record):
    return b"id: %d\nevent: log\ndata: %b\n\n" % (record["sequence"], msgspec.json.encode(record))


def test_following_resumes_where_the_connection_broke(pratai, api, monkeypatch):
    """Ctrl-C then ends it with exit code 0."""
    stream = {"content-type": "text/event-stream"}
    one, two = _event(api.log(1, "one")), _event(api.log(2, "two"))
    api.on(
        "GET",
        LOGS,
        api.reply(chunks=[b": following\n\n", one[:20], one[20:]], broken=True, headers=stream),
        api.reply(chunks=[one + two], headers=stream),
        api.problem(404, code="not_found"),
    )

    ran = pratai("logs", "hello", "-f", "--since", "1700000000000")

    assert [line["text"] for line in ran.lines()] == ["one", "two"]
    first, second, third = api.asked
    assert first.query == {"since": "1700000000000", "limit": "500", "follow": "true"}
    assert first.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in first.headers
    assert second.headers["last-event-id"] == "1"
    assert third.headers["last-event-id"] == "2"
    assert ran.code == 2


def test_ctrl_c_ends_following_without_an_error(pratai, api, monkeypatch):
    from pratai.cli import logs

    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(logs, "follow_logs", interrupted)

    assert pratai("logs", "hello", "-f").code == 0


def test_a_record_is_shown_as_soon_as_it_comes(pratai, api):
    from pratai.cli.client import Client
    from pratai.cli.logs import follow_logs

    gate, stop = threading.Event(), threading.Event()
    chunks = [_event(api.log(1, "one")), _event(api.log(2, "two"))]
    api.on("GET", LOGS, api.reply(chunks=chunks, gate=gate))

    following = follow_logs(Client(server=api.url, key="k"), "hello", {}, stop=stop)

    assert next(following).text == "one"
    gate.set()
    assert next(following).text == "two"
    following.close()


def test_invocations_are_searched_by_everything_at_once(pratai, api):
    listed = api.invocation(event=None, result=None)
    api.on("GET", "/v1/invocations", api.json({"items": [listed], "next_cursor": ""}))

    ran = pratai(
        "invocations", "--function", "hello", "--outcome", "failed", "--state", "done",
        "--since", "1700000000000", "--until", "2026-01-01T00:00:00+00:00", "--search", "order 4711",
        "--limit", "5",
    )  # fmt: skip

    assert ran.json()["items"] == [listed]
    assert api.only("GET", "/v1/invocations").query == {
        "function": "hello",
        "outcome": "failed",
        "state": "done",
        "since": "1700000000000",
        "until": "1767225600000",
        "search": "order 4711",
        "limit": "5",
    }


def test_invocations_are_a_table_in_a_terminal(pratai, api):
    page = {"items": [api.invocation(event=None, result=None)], "next_cursor": "c"}
    api.on("GET", "/v1/invocations", api.json(page))

    typed = pratai("invocations", terminal=True)

    assert typed.text.splitlines()[1].split()[:7] == [
        "r-1", "hello:3", "succeeded", "1/1", "12", "ms", "cold",
    ]  # fmt: skip
    assert "--cursor c" in typed.err


def test_an_invocation_is_shown_with_event_result_and_timeline(pratai, api):
    api.on("GET", "/v1/invocations/r-1", api.json(api.invocation()))

    typed = pratai("invocation", "show", "r-1", terminal=True).text

    assert pratai("invocation", "show", "r-1").json() == api.invocation()
    assert '"name": "Ada"' in typed
    assert "Hello Ada" in typed
    assert "started" in typed
    assert "█" in typed


def test_a_failed_invocation_is_shown_with_its_stack(pratai, api):
    api.on("GET", "/v1/invocations/r-1", api.json(api.failed()))

    ran = pratai("invocation", "show", "r-1", terminal=True)

    assert ran.code == 0
    assert "return 1 / 0\nZeroDivisionError: division by zero\nnext: Mend main.py." in ran.text


@pytest.mark.parametrize(
    ("value", "encoding", "shown"),
    [("plain\ntext", "text", "plain\ntext"), ("aGVsbG8h", "base64", "6 bytes that are not text")],
)
def test_a_payload_that_is_no_json_is_shown_as_what_it_is(pratai, api, value, encoding, shown):
    view = api.invocation(event=value, event_encoding=encoding, content_type="x/y")
    api.on("GET", "/v1/invocations/r-1", api.json(view))

    assert f"event (x/y)\n{shown}" in pratai("invocation", "show", "r-1", terminal=True).text


def test_why_tells_a_story(pratai, api):
    api.on("GET", "/v1/invocations/r-1/why", api.json(WHY))

    typed = pratai("why", "r-1", terminal=True).text

    assert pratai("why", "r-1").json() == WHY
    assert typed.splitlines()[:4] == [
        "hello failed after 12 ms.",
        "Cause: ZeroDivisionError: division by zero.",
        "Whose fault: the function's code",
        "next: Mend main.py line 2.",
    ]
    assert 'File "main.py", line 2' in typed


def test_dead_letters_are_listed_and_shown(pratai, api):
    page = {"items": [api.failed(event=None, dead=True)], "next_cursor": ""}
    api.on("GET", "/v1/dead-letters", api.json(page))
    api.on("GET", "/v1/dead-letters/r-1", api.json(api.failed(dead=True)))

    assert pratai("dead-letters", "list", "--function", "hello").json() == page
    assert api.asked[0].query == {"function": "hello", "limit": "50"}
    assert "r-1" in pratai("dead-letters", "list", terminal=True).text
    assert pratai("dead-letters", "show", "r-1").json()["dead"] is True


def test_one_dead_letter_or_all_are_replayed(pratai, api):
    accepted = {"request_id": "r-2", "location": "/v1/invocations/r-2"}
    api.on("POST", "/v1/dead-letters/r-1/replay", api.json(accepted, 202))
    api.on("POST", "/v1/dead-letters/replay", api.json({"count": 3}))

    assert pratai("dead-letters", "replay", "r-1").json() == accepted
    assert pratai("dead-letters", "replay", "--all", "--function", "hello").json() == {"count": 3}
    assert api.only("POST", "/v1/dead-letters/replay").query == {"function": "hello"}
    assert (
        pratai("dead-letters", "replay", "--all", terminal=True).text
        == "Replayed 3 dead letters.\n"
    )


def test_one_dead_letter_is_purged_without_a_question(pratai, api):
    api.on("DELETE", "/v1/dead-letters/r-1", api.reply(status=204))

    assert pratai("dead-letters", "purge", "r-1").json() == {"count": 1}


def test_purging_all_needs_a_yes(pratai, api):
    api.on("DELETE", "/v1/dead-letters", api.json({"count": 2}))

    refused = pratai("dead-letters", "purge", "--all")
    done = pratai("dead-letters", "purge", "--all", "--yes", "--function", "hello")

    assert (refused.code, refused.err.count("--yes")) == (2, 1)
    assert done.json() == {"count": 2}
    assert api.only("DELETE", "/v1/dead-letters").query == {"function": "hello"}


@pytest.mark.parametrize(("answer", "code", "asked"), [(b"y\n", 0, 1), (b"n\n", 130, 0)])
def test_in_a_terminal_purging_all_asks(pratai, api, monkeypatch, answer, code, asked):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    api.on("DELETE", "/v1/dead-letters", api.json({"count": 2}))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: answer.decode().strip())
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)

    ran = pratai("dead-letters", "purge", "--all", terminal=True)

    assert (ran.code, len(api.asked)) == (code, asked)
    assert sys.stdout is not None
