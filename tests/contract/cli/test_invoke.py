"""`pratai invoke` and `pratai replay`: what is sent, and what reaches stdout and stderr."""

from __future__ import annotations

import threading

import msgspec
import pytest

PATH = "/v1/functions/hello/invocations"


def result(api, body=b'{"a":1}', **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.reply(body=body, headers={"content-type": "application/json", **named})


def test_the_result_reaches_stdout_unchanged(pratai, api):
    api.on("POST", PATH, result(api, b' {"b": 2,\n"a":1} '))

    ran = pratai("invoke", "hello", '{"name": "Ada"}')

    assert (ran.code, ran.out, ran.err) == (0, b' {"b": 2,\n"a":1} ', "")
    asked = api.only("POST", PATH)
    assert asked.body == b'{"name": "Ada"}'
    assert asked.headers["content-type"] == "application/json"
    assert asked.query == {}


def test_the_event_is_an_empty_object_where_none_is_given(pratai, api):
    api.on("POST", PATH, result(api))

    pratai("invoke", "hello")

    assert api.only("POST", PATH).body == b"{}"


def test_options_of_a_call_travel_as_headers_and_query(pratai, api):
    api.on("POST", PATH, result(api))

    pratai(
        "invoke", "hello", "1", "--qualifier", "live", "--idempotency-key", "k1",
        "--timeout-ms", "1500",
    )  # fmt: skip

    asked = api.only("POST", PATH)
    assert asked.query == {"qualifier": "live"}
    assert asked.headers["idempotency-key"] == "k1"
    assert asked.headers["pratai-timeout-ms"] == "1500"


@pytest.mark.parametrize(
    ("name", "content", "content_type"),
    [
        ("e.json", b"[1, 2]", "application/json"),
        ("e.csv", b"a,b\n1,2\n", "text/csv"),
        ("e.PNG", b"\x89PNG\x00", "image/png"),
        ("e.txt", b"hello", "text/plain"),
        ("e.unheard", b"\x00\x01", "application/octet-stream"),
    ],
)
def test_a_file_is_sent_as_it_is_with_its_content_type(
    pratai, api, tmp_path, name, content, content_type
):
    api.on("POST", PATH, result(api))
    (tmp_path / name).write_bytes(content)

    assert pratai("invoke", "hello", f"@{tmp_path / name}").code == 0

    asked = api.only("POST", PATH)
    assert (asked.body, asked.headers["content-type"]) == (content, content_type)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b'{"a": 1}', "application/json"),
        (b"plain words", "text/plain"),
        (b"\xff\xfe\x00", "application/octet-stream"),
    ],
)
def test_stdin_is_sent_as_what_it_looks_like(pratai, api, content, content_type):
    api.on("POST", PATH, result(api))

    assert pratai("invoke", "hello", "-", stdin=content).code == 0

    asked = api.only("POST", PATH)
    assert (asked.body, asked.headers["content-type"]) == (content, content_type)


def test_a_content_type_makes_any_text_an_event(pratai, api):
    api.on("POST", PATH, result(api))

    assert pratai("invoke", "hello", "not json", "--content-type", "text/plain").code == 0

    asked = api.only("POST", PATH)
    assert (asked.body, asked.headers["content-type"]) == (b"not json", "text/plain")


@pytest.mark.parametrize("event", ["Ada", "{name: 1}", "", "{'a': 1}"])
def test_an_event_that_is_not_json_is_refused_before_it_is_sent(pratai, api, event):
    ran = pratai("invoke", "hello", event)

    assert ran.code == 2
    assert ran.err.startswith("EVENT is not valid JSON: line 1, column ")
    assert "next: Quote it for the shell" in ran.err
    assert api.asked == []


def test_a_json_file_that_is_not_json_is_refused_with_its_place(pratai, api, tmp_path):
    (tmp_path / "e.json").write_text('{"a": 1,\n "b" 2}')

    ran = pratai("invoke", "hello", f"@{tmp_path / 'e.json'}")

    assert ran.code == 2
    assert "line 2, column 6" in ran.err
    assert api.asked == []


def test_a_file_that_is_not_there_is_told(pratai, api):
    ran = pratai("invoke", "hello", "@missing.json")

    assert ran.code == 2
    assert "'missing.json' cannot be read: No such file or directory." in ran.err


def test_a_functions_own_failure_exits_with_1_and_shows_type_message_and_stack(pratai, api):
    api.on(
        "POST",
        PATH,
        api.problem(
            502, detail="ZeroDivisionError: division by zero", request_id="r-1", **api.failure
        ),
    )

    ran = pratai("invoke", "hello")

    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines() == [
        '  File "main.py", line 2, in main',
        "    return 1 / 0",
        "ZeroDivisionError: division by zero",
        "next: Mend main.py.",
    ]


@pytest.mark.parametrize(
    ("status", "code", "fault", "exit_code"),
    [
        (504, "timed_out", "function", 1),
        (429, "throttled", "caller", 2),
        (503, "draining", "platform", 3),
        (502, "function_error", "", 1),
        (500, "internal", "", 3),
        (404, "not_found", "", 2),
    ],
)
def test_exit_codes_tell_whose_fault_it_was(pratai, api, status, code, fault, exit_code):
    api.on("POST", PATH, api.problem(status, code=code, fault=fault))

    assert pratai("invoke", "hello").code == exit_code


def test_async_prints_the_request_id(pratai, api):
    accepted = {"request_id": "r-9", "location": "/v1/invocations/r-9"}
    api.on("POST", PATH, api.json(accepted, 202))

    piped = pratai("invoke", "hello", "--async")
    typed = pratai("invoke", "hello", "--async", terminal=True)

    assert piped.json() == accepted
    assert typed.text == "r-9\n"
    assert api.asked[0].headers["prefer"] == "respond-async"


def test_a_stream_is_written_as_it_arrives(pratai, api):
    gate = threading.Event()
    api.on("POST", PATH, api.reply(chunks=[b"one\n", b"two\n"], gate=gate))
    written = []

    from pratai.cli import invoke

    original = invoke.write_bytes

    def note(body):
        written.append((body, gate.is_set()))
        gate.set()
        original(body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invoke, "write_bytes", note)
        ran = pratai("invoke", "hello")

    assert ran.out == b"one\ntwo\n"
    assert written[0] == (b"one\n", False)


def test_a_stream_that_the_function_broke_exits_with_1(pratai, api):
    reply = api.reply(chunks=[b"one\n"], broken=True, headers={"pratai-request-id": "r-1"})
    api.on("POST", PATH, reply)
    api.on("GET", "/v1/invocations/r-1", api.json(api.failed()))

    ran = pratai("invoke", "hello")

    assert (ran.code, ran.out) == (1, b"one\n")
    assert "division by zero" in ran.err


def test_a_stream_that_broke_for_no_known_reason_is_the_platforms_fault(pratai, api):
    api.on("POST", PATH, api.reply(chunks=[b"one\n"], broken=True))

    ran = pratai("invoke", "hello")

    assert (ran.code, ran.out) == (3, b"one\n")
    assert "broke before the answer was whole" in ran.err


def test_in_a_terminal_json_is_made_readable(pratai, api):
    api.on("POST", PATH, result(api, '{"a":["é"]}'.encode()))

    ran = pratai("invoke", "hello", terminal=True)

    assert ran.text == '{\n  "a": [\n    "é"\n  ]\n}\n'


def test_in_a_terminal_text_ends_with_a_line_end(pratai, api):
    api.on("POST", PATH, api.reply(body=b"hi", headers={"content-type": "text/plain"}))

    assert pratai("invoke", "hello", terminal=True).out == b"hi\n"


def test_with_json_a_terminal_too_gets_the_bytes_unchanged(pratai, api):
    api.on("POST", PATH, result(api, b'{"a":1}'))

    assert pratai("invoke", "hello", "--json", terminal=True).out == b'{"a":1}'


def test_tail_writes_logs_and_timeline_to_stderr_alone(pratai, api):
    api.on("POST", PATH, result(api, b"1", pratai_request_id="r-1"))
    api.on("GET", "/v1/invocations/r-1", api.json(api.invocation()))
    api.on("GET", "/v1/invocations/r-1/logs", api.logs(api.log(1, "starting"), api.log(2, "done")))

    ran = pratai("invoke", "hello", "--tail")

    assert (ran.code, ran.out) == (0, b"1")
    assert "INFO     starting" in ran.err
    assert "r-1: succeeded, cold start" in ran.err
    assert "started" in ran.err


def test_tail_shows_logs_before_a_failure(pratai, api):
    api.on("POST", PATH, api.problem(502, request_id="r-1", detail="boom", **api.failure))
    api.on("GET", "/v1/invocations/r-1", api.json(api.failed()))
    api.on("GET", "/v1/invocations/r-1/logs", api.logs(api.log(1, "about to divide")))

    ran = pratai("invoke", "hello", "--tail")

    assert ran.code == 1
    assert ran.err.index("about to divide") < ran.err.index("boom")


def test_async_with_tail_follows_to_the_end(pratai, api):
    api.on("POST", PATH, api.json({"request_id": "r-1", "location": "/v1/invocations/r-1"}, 202))
    queued = api.invocation(state="queued", outcome="")
    api.on("GET", "/v1/invocations/r-1", api.json(queued), api.json(api.failed()))
    api.on(
        "GET",
        "/v1/invocations/r-1/logs",
        api.logs(api.log(1, "one")),
        api.logs(api.log(1, "one"), api.log(2, "two")),
    )

    ran = pratai("invoke", "hello", "--async", "--tail")

    assert ran.code == 1
    assert ran.err.count("one") == 1
    assert ran.err.index("one") < ran.err.index("two") < ran.err.index("division by zero")


def test_replay_prints_the_new_request_id(pratai, api):
    accepted = {"request_id": "r-2", "location": "/v1/invocations/r-2"}
    api.on("POST", "/v1/invocations/r-1/replay", api.json(accepted, 202))

    assert pratai("replay", "r-1").json() == accepted
    assert pratai("replay", "r-1", terminal=True).text == "r-2\n"


def test_replay_with_wait_shows_the_result(pratai, api):
    api.on(
        "POST", "/v1/invocations/r-1/replay", api.json({"request_id": "r-2", "location": ""}, 202)
    )
    view = api.invocation(request_id="r-2")
    api.on("GET", "/v1/invocations/r-2", api.json({**view, "state": "leased"}), api.json(view))
    api.on("GET", "/v1/invocations/r-2/result", api.reply(body=b'"Hello Ada"'))

    ran = pratai("replay", "r-1", "--wait")

    assert (ran.code, ran.out) == (0, b'"Hello Ada"')


def test_replay_with_wait_exits_as_the_function_did(pratai, api):
    api.on(
        "POST", "/v1/invocations/r-1/replay", api.json({"request_id": "r-2", "location": ""}, 202)
    )
    api.on("GET", "/v1/invocations/r-2", api.json(api.failed(request_id="r-2")))

    ran = pratai("replay", "r-1", "--wait", "--json")

    assert ran.code == 1
    assert msgspec.json.decode(ran.err.splitlines()[-1])["error_type"] == "ZeroDivisionError"


def test_waiting_for_a_replay_has_an_end(pratai, api):
    api.on(
        "POST", "/v1/invocations/r-1/replay", api.json({"request_id": "r-2", "location": ""}, 202)
    )
    api.on("GET", "/v1/invocations/r-2", api.json(api.invocation(state="queued", outcome="")))

    ran = pratai("replay", "r-1", "--wait", "--wait-ms", "50")

    assert ran.code == 3
    assert "was not done within" in ran.err
