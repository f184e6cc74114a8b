"""What holds for every command: help, exit codes, where errors go, JSON when piped."""

from __future__ import annotations

import socket
import subprocess
import sys

import click
import msgspec
import pytest

from pratai import __version__
from pratai.cli.main import cli


def _commands(command=cli, path=()):
    context = click.Context(command, info_name="pratai")
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), (*path, name))


ALL = list(_commands())
#: Every command that asks the server, with the least it needs.
ASKING = [
    ("invoke", "hello"),
    ("functions",),
    ("function", "list"),
    ("function", "show", "hello"),
    ("function", "delete", "hello"),
    ("function", "versions", "hello"),
    ("function", "publish", "hello"),
    ("function", "rollback", "hello"),
    ("alias", "set", "hello", "live", "1"),
    ("alias", "list", "hello"),
    ("alias", "delete", "hello", "live"),
    ("logs", "hello"),
    ("logs", "--request-id", "r-1"),
    ("invocations",),
    ("invocation", "show", "r-1"),
    ("why", "r-1"),
    ("replay", "r-1"),
    ("dead-letters", "list"),
    ("dead-letters", "show", "r-1"),
    ("dead-letters", "replay", "r-1"),
    ("dead-letters", "purge", "r-1"),
    ("nodes",),
    ("node", "show", "n"),
    ("node", "drain", "n"),
    ("node", "undrain", "n"),
    ("runtimes",),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "delete", "k"),
]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_help_of_every_command_has_an_example(pratai, path):
    ran = pratai(*path, "--help")

    assert ran.code == 0
    assert "Example:" in ran.text
    assert "Global options:" in ran.text
    assert f"pratai {' '.join(path)}".strip() in ran.text.split("Example:")[1]


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_a_server_that_is_not_there_is_the_platforms_fault(pratai, arguments):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"

        ran = pratai(*arguments, "--server", server)

    assert ran.code == 3
    assert ran.err.startswith(f"No server answers at {server}.\nnext: Start one with `pratai up`")
    assert ran.out == b""


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_a_problem_the_caller_made_is_told_with_what_to_do(pratai, arguments):
    ran = pratai(*arguments)

    assert ran.code == 2
    sentence, following = ran.err.strip().splitlines()
    assert sentence.startswith("No /v1/")
    assert following == "next: Do it right."


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_with_json_a_problem_is_json_on_stderr(pratai, arguments):
    ran = pratai("--json", *arguments)

    assert ran.code == 2
    problem = msgspec.json.decode(ran.err)
    assert (problem["code"], problem["status"], problem["fault"]) == ("not_found", 404, "caller")
    assert ran.out == b""


def test_trouble_of_the_platform_has_its_own_exit_code(pratai, api):
    api.on("GET", "/v1/functions", api.problem(503, code="store_unavailable", fault="platform"))

    assert pratai("functions").code == 3


def test_an_answer_that_is_no_problem_document_is_told_as_it_is(pratai, api):
    api.on("GET", "/v1/functions", api.reply(status=502, body=b"<h1>Bad Gateway</h1>"))

    ran = pratai("functions")

    assert (ran.code, ran.err) == (3, "<h1>Bad Gateway</h1>\n")


def test_an_answer_of_another_shape_is_the_platforms_fault(pratai, api):
    api.on("GET", "/v1/nodes", api.json({"items": [{"node": 1}]}))

    ran = pratai("nodes")

    assert ran.code == 3
    assert "next: Use the same version of pratai on both sides" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--server", "SERVER", "--key", "other", "--namespace", "team", "functions"),
        ("functions", "--server", "SERVER", "--key", "other", "--namespace", "team"),
        ("--key", "other", "functions", "--namespace", "team"),
    ],
)
def test_global_options_work_before_and_after_the_command(pratai, api, arguments):
    api.on("GET", "/v1/functions", api.json({"items": [], "next_cursor": ""}))

    ran = pratai(*(api.url if word == "SERVER" else word for word in arguments))

    assert ran.code == 0
    asked = api.only("GET", "/v1/functions")
    assert asked.headers["authorization"] == "Bearer other"
    assert asked.headers["pratai-namespace"] == "team"
    assert asked.headers["user-agent"] == f"pratai-cli/{__version__}"


def test_the_key_of_the_environment_is_presented(pratai, api):
    api.on("GET", "/v1/functions", api.json({"items": []}))

    pratai("functions")

    asked = api.only("GET", "/v1/functions")
    assert asked.headers["authorization"] == f"Bearer {api.key}"
    assert "pratai-namespace" not in asked.headers


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("functoins",), "Did you mean 'functions'?"),
        (("dead-letter", "list"), "Did you mean 'dead-letters'?"),
        (("function", "shwo", "hello"), "Did you mean 'show'?"),
        (("invoke", "hello", "--tial"), "Did you mean '--tail'?"),
        (("deploy", ".", "--memory-mbs", "1"), "'--memory-mb'"),
    ],
)
def test_a_slip_of_the_finger_is_told_with_the_nearest_name(pratai, arguments, hint):
    ran = pratai(*arguments)

    assert ran.code == 2
    assert hint in ran.err
    assert "next: See `pratai" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("invoke",),
        ("invoke", "hello", "{}", "more"),
        ("invoke", "hello", "--timeout-ms", "0"),
        ("invocations", "--outcome", "won"),
        ("invocations", "--since", "yesterday-ish"),
        ("functions", "--limit", "0"),
        ("alias", "set", "hello", "live", "1", "--weight", "2=7"),
        ("deploy", "/no/such/path"),
        ("logs",),
        ("function",),
        ("completion", "tcsh"),
        ("functions", "--server", "ftp://example.test"),
        ("functions", "--server", "http://127.0.0.1:99999999"),
        ("dead-letters", "replay"),
        ("dead-letters", "purge", "r-1", "--all"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_on_the_command_line_exits_with_2(pratai, api, arguments):
    ran = pratai(*arguments)

    assert ran.code == 2
    assert ran.err
    assert api.asked == []


def test_a_wrong_command_line_with_json_is_a_json_problem(pratai):
    ran = pratai("invoke", "--json")

    problem = msgspec.json.decode(ran.err)
    assert ran.code == 2
    assert (problem["code"], problem["fault"], problem["field"]) == ("usage", "caller", "name")


def test_pratai_alone_shows_its_help(pratai):
    ran = pratai()

    assert ran.code == 0
    assert ran.text.startswith("Usage: pratai")


def test_the_version_is_told(pratai):
    assert pratai("--version").text == f"{__version__}\n"


def test_the_module_runs_as_the_program_does(api):
    api.on("GET", "/v1/functions", api.json({"items": [], "next_cursor": ""}))

    done = subprocess.run(
        [sys.executable, "-m", "pratai", "functions", "--server", api.url, "--key", "k"],
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stdout) == (0, b'{"items":[],"next_cursor":""}\n')


def test_a_reader_that_goes_away_is_no_error(api):
    records = (api.log(number, "x" * 1_000) for number in range(1, 2_000))
    api.on("GET", "/v1/functions/hello/logs", api.logs(*records))
    command = [sys.executable, "-m", "pratai", "logs", "hello", "--server", api.url, "--key", "k"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.readline()
        child.stdout.close()
        errors = child.stderr.read()

    assert (child.wait(30), errors) == (0, b"")


def test_invoking_imports_neither_rich_nor_what_others_need(api):
    api.on("POST", "/v1/functions/hello/invocations", api.reply(body=b"1"))
    script = (
        "import sys\nfrom pratai.cli.main import run\n"
        f"code = run(['invoke', 'hello', '--server', {api.url!r}, '--key', 'k'])\n"
        "heavy = {'rich', 'asyncio', 'starlette', 'uvicorn', 'structlog', 'pratai.packages'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=30
    )

    assert (done.stdout, done.stderr) == (b"1", b"0 []\n")


def test_no_color_is_respected(pratai, api, monkeypatch):
    view = api.invocation(event=None, result=None)
    api.on("GET", "/v1/invocations", api.json({"items": [view], "next_cursor": ""}))

    coloured = pratai("invocations", terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = pratai("invocations", terminal=True)

    assert b"\x1b[32m" in coloured.out
    assert b"\x1b[32m" not in plain.out
    assert coloured.text == plain.text


def test_a_table_fits_a_narrow_terminal(pratai, api, monkeypatch):
    view = api.invocation(event=None, result=None)
    api.on("GET", "/v1/invocations", api.json({"items": [view], "next_cursor": ""}))
    monkeypatch.setenv("COLUMNS", "60")

    assert max(len(line) for line in pratai("invocations", terminal=True).text.splitlines()) <= 60
