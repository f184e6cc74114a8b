"""`pratai deploy` and `pratai dev`: what is packed and sent, what is shown on the way."""

from __future__ import annotations

import io
import threading
import zipfile

import msgspec
import pytest

from pratai.cli.dev import Development
from pratai.cli.session import Session

PUT = ("PUT", "/v1/functions/hello")
SOURCE = "def main(payload):\n    return payload\n"


@pytest.fixture
def hello(tmp_path):
    path = tmp_path / "hello.py"
    path.write_text(SOURCE)
    return path


def test_a_file_is_sent_as_it_is_under_its_own_name(pratai, api, hello):
    api.on(*PUT, api.json(api.function(), 201))

    ran = pratai("deploy", str(hello))

    asked = api.only(*PUT)
    parts = asked.parts()
    assert ran.json() == api.function()
    assert asked.headers["accept"].startswith("application/x-ndjson")
    assert asked.headers["content-length"] == str(len(asked.body))
    assert parts["config"].get_content_type() == "application/json"
    assert msgspec.json.decode(parts["config"].get_payload(decode=True)) == {}
    assert parts["package"].get_payload(decode=True).decode() == SOURCE
    assert parts["package"].get_content_type() == "text/x-python"
    assert parts["package"].get_filename() == "hello.py"


def test_a_folder_is_sent_as_a_zip_without_what_is_no_part_of_it(pratai, api, tmp_path):
    folder = tmp_path / "hello"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "main.pyc").write_bytes(b"x")
    (folder / "main.py").write_text(SOURCE)
    api.on(*PUT, api.json(api.function()))

    assert pratai("deploy", str(folder)).code == 0

    part = api.only(*PUT).parts()["package"]
    with zipfile.ZipFile(io.BytesIO(part.get_payload(decode=True))) as archive:
        assert archive.namelist() == ["main.py"]
    assert part.get_filename() == "hello.zip"


def test_every_flag_becomes_a_field_of_the_configuration(pratai, api, hello):
    api.on("PUT", "/v1/functions/other", api.json(api.function(name="other")))

    ran = pratai(
        "deploy", str(hello), "--name", "other", "--handler", "hello:main", "--runtime", "python3.11",
        "--memory-mb", "512", "--timeout-ms", "1000", "--env", "A=1", "--env", "B=x=y",
        "--concurrency-max", "4", "--description", "d", "--retries", "0", "--network", "none",
        "--tmp-mb", "16", "--public", "--keep-warm", "1", "--label", "team=a", "--secret", "TOKEN",
        "--secret", "OTHER", "--on-success", "function:x", "--on-failure", "function:y",
        "--retry-backoff-ms", "5", "--event-age-max-ms", "6000",
    )  # fmt: skip

    assert ran.code == 0
    part = api.only("PUT", "/v1/functions/other").parts()["config"]
    assert msgspec.json.decode(part.get_payload(decode=True)) == {
        "handler": "hello:main",
        "runtime": "python3.11",
        "memory_mb": 512,
        "timeout_ms": 1000,
        "environment": {"A": "1", "B": "x=y"},
        "concurrency_max": 4,
        "description": "d",
        "retries": 0,
        "network": "none",
        "tmp_mb": 16,
        "public": True,
        "keep_warm": 1,
        "labels": {"team": "a"},
        "secrets": ["TOKEN", "OTHER"],
        "on_success": "function:x",
        "on_failure": "function:y",
        "retry_backoff_ms": 5,
        "event_age_max_ms": 6000,
    }


def test_no_public_is_not_the_same_as_saying_nothing(pratai, api, hello):
    api.on(*PUT, api.json(api.function()))

    pratai("deploy", str(hello), "--no-public")

    part = api.only(*PUT).parts()["config"]
    assert msgspec.json.decode(part.get_payload(decode=True)) == {"public": False}


def _lines(*values):
    return [msgspec.json.encode(value) + b"\n" for value in values]


def test_progress_of_the_server_is_shown_as_it_comes(pratai, api, hello):
    lines = _lines(
        {"phase": "resolving", "line": "Resolved 3 packages"},
        {"phase": "installing", "line": "Installed 3 packages"},
        {"function": api.function()},
    )
    api.on(*PUT, api.reply(chunks=lines, headers={"content-type": "application/x-ndjson"}))

    ran = pratai("deploy", str(hello))

    assert ran.json() == api.function()
    assert ran.err.splitlines() == [
        "resolving: Resolved 3 packages",
        "installing: Installed 3 packages",
    ]


def test_a_problem_at_the_end_of_the_progress_fails_the_deployment(pratai, api, hello):
    problem = msgspec.json.decode(api.problem(400, detail="hello.py:2: SyntaxError.").body)
    lines = _lines({"phase": "checking", "line": "handler"}, {"problem": problem})
    api.on(*PUT, api.reply(chunks=lines, headers={"content-type": "application/x-ndjson"}))

    ran = pratai("deploy", str(hello))

    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.splitlines()[1:] == ["hello.py:2: SyntaxError.", "next: Do it right."]


def test_progress_that_ends_without_an_end_is_the_platforms_fault(pratai, api, hello):
    lines = _lines({"phase": "resolving", "line": "..."})
    api.on(*PUT, api.reply(chunks=lines, headers={"content-type": "application/x-ndjson"}))

    assert pratai("deploy", str(hello)).code == 3


def test_in_a_terminal_name_version_digest_and_url_are_shown(pratai, api, hello):
    api.on(*PUT, api.json(api.function()))

    typed = pratai("deploy", str(hello), terminal=True)

    assert [line.split() for line in typed.text.splitlines()] == [
        ["name", "hello"],
        ["version", "3"],
        ["digest", "ab" * 32],
        ["url", "http://127.0.0.1:9996/fn/hello"],
    ]


def test_a_large_package_arrives_whole(pratai, api, tmp_path):
    path = tmp_path / "hello.py"
    path.write_text(SOURCE + "# " + "x" * 3_000_000 + "\n")
    api.on(*PUT, api.json(api.function()))

    assert pratai("deploy", str(path)).code == 0

    assert api.only(*PUT).parts()["package"].get_payload(decode=True) == path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02"])
def test_what_is_no_package_is_refused_before_it_is_sent(pratai, api, tmp_path, content):
    path = tmp_path / "hello.py"
    path.write_bytes(content)

    ran = pratai("deploy", str(path))

    assert ran.code == 2
    assert "next: " in ran.err
    assert api.asked == []


def test_a_variable_without_a_value_is_refused(pratai, api, hello):
    ran = pratai("deploy", str(hello), "--env", "A")

    assert (ran.code, api.asked) == (2, [])
    assert "'A' is not of the form NAME=VALUE." in ran.err


@pytest.fixture
def developing(api, hello, pratai, capsysbinary):
    """The loop of `pratai dev` in a thread; its JSON lines are read when it has ended."""
    api.on("GET", "/v1/functions/hello/logs", api.reply(status=503))
    session = Session()
    session.server, session.key, session.json = api.url, "k", True
    development = Development(session, hello, "hello", {"memory_mb": 64})
    thread = threading.Thread(target=development.run)

    def lines():
        development.stop.set()
        thread.join(10)
        assert not thread.is_alive()
        return [msgspec.json.decode(line) for line in capsysbinary.readouterr().out.splitlines()]

    thread.start()
    yield lines
    development.stop.set()
    thread.join(10)
    if development._follower is not None:
        development._follower.join(10)
    capsysbinary.readouterr()


def _deployments(asked):
    return [item for item in asked if item.method == "PUT"]


@pytest.fixture
def two_versions(api):
    """What the server answers; asked for before `developing`, which deploys at once."""
    api.on(*PUT, api.json(api.function(version="1")), api.json(api.function(version="2")))


def test_every_save_is_deployed_over_the_same_connection(api, hello, two_versions, developing):
    api.wait_for(lambda asked: len(_deployments(asked)) == 1)

    hello.write_text(SOURCE.replace("payload", "event"))

    api.wait_for(lambda asked: len(_deployments(asked)) == 2)
    first, second = _deployments(api.asked)
    assert first.connection == second.connection
    assert b"event" in second.parts()["package"].get_payload(decode=True)
    config = second.parts()["config"].get_payload(decode=True)
    assert msgspec.json.decode(config) == {"memory_mb": 64}
    versions = [line["version"] for line in developing() if line["kind"] == "deployed"]
    assert versions[0] == "1"


def test_a_save_that_changes_nothing_is_not_deployed(api, hello, developing):
    api.on(*PUT, api.json(api.function()))
    api.wait_for(lambda asked: len(_deployments(asked)) == 1)

    hello.write_text(SOURCE)
    hello.write_text(SOURCE + "# more\n")

    api.wait_for(lambda asked: len(_deployments(asked)) == 2)
    assert b"# more" in _deployments(api.asked)[1].body


@pytest.fixture
def refused_once(api):
    """The first deployment is refused; asked for before `developing`, which makes it at once."""
    api.on(*PUT, api.problem(400, detail="hello.py:1: SyntaxError."), api.json(api.function()))


def test_a_deployment_that_fails_does_not_end_the_loop(api, hello, refused_once, developing):
    api.wait_for(lambda asked: len(_deployments(asked)) == 1)

    hello.write_text(SOURCE + "\n")

    api.wait_for(lambda asked: any(item.path.endswith("/logs") for item in asked))
    first, second = developing()[:2]
    assert first["kind"] == "problem"
    assert first["problem"]["detail"] == "hello.py:1: SyntaxError."
    assert second["kind"] == "deployed"
    assert second["took_ms"] > 0


def test_dev_without_a_server_says_how_to_start_one(pratai, hello):
    ran = pratai("dev", str(hello), "--server", "http://127.0.0.1:1")

    assert ran.code == 3
    assert "pratai up" in ran.err
