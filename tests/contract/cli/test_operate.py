"""Configuration, health, start and completion: what concerns this machine."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from pratai.cli.main import cli
from pratai.config.schema import Config


@pytest.fixture
def healthy(api):
    api.on("GET", "/healthz", api.json({"status": "ok"}))
    api.on("GET", "/readyz", api.json({"status": "ready", "components": {}}))
    api.on("GET", "/v1/functions", api.json({"items": [], "next_cursor": ""}))
    return api


def checks(ran):
    return {check["name"]: check for check in ran.json()["checks"]}


def test_config_show_tells_each_value_and_its_origin(pratai, tmp_path, monkeypatch):
    path = tmp_path / "my.conf"
    path.write_text("[node]\nslots = 8\n")
    monkeypatch.setenv("PRATAI_LOG_LEVEL", "debug")

    ran = pratai("config", "show", "--config", str(path), "--set", "gateway.port=8080")

    found = {item["key"]: (item["value"], item["origin"]) for item in ran.json()["items"]}
    assert found["node.slots"] == (8, f"{path}:2")
    assert found["log.level"] == ("debug", "environment PRATAI_LOG_LEVEL")
    assert found["gateway.port"] == (8080, "--set gateway.port")
    assert found["gateway.host"] == ("127.0.0.1", "default")
    sections = msgspec.to_builtins(Config())
    assert len(found) == sum(len(keys) for keys in sections.values())


def test_config_show_is_a_table_in_a_terminal(pratai):
    lines = pratai("config", "show", terminal=True).text.splitlines()

    assert lines[0].split() == ["setting", "value", "from"]
    assert ["gateway.port", "9996", "default"] in [line.split() for line in lines]


def test_config_check_counts_what_is_set(pratai):
    ran = pratai("config", "check", "--set", "gateway.port=8080")

    assert ran.json()["valid"] is True
    assert [item["key"] for item in ran.json()["set"]] == ["gateway.port"]
    assert "are valid" in pratai("config", "check", terminal=True).text


@pytest.mark.parametrize(
    ("setting", "told"),
    [("gateway.prot=1", "Did you mean port?"), ("gateway.port=x", "gateway.port is 'x'")],
)
def test_config_check_tells_a_wrong_setting(pratai, setting, told):
    ran = pratai("config", "check", "--set", setting)

    assert ran.code == 2
    assert told in ran.err
    assert "next: " in ran.err


def test_doctor_finds_a_healthy_server_well(pratai, healthy):
    ran = pratai("doctor")

    assert ran.code == 0, ran.text
    assert ran.json()["healthy"] is True
    found = checks(ran)
    assert set(found) == {
        "server", "ready", "clock", "key", "python", "uv", "disk", "credentials", "config",
    }  # fmt: skip
    assert found["key"]["state"] == "ok"
    assert healthy.only("GET", "/v1/functions").query == {"limit": "1"}


def test_doctor_draws_a_table_with_what_to_do(pratai, api):
    ran = pratai("doctor", "--server", "http://127.0.0.1:1", terminal=True)

    assert ran.code == 3
    assert "next (server): Start one with `pratai up`" in ran.text


def test_doctor_without_a_server_still_checks_the_machine(pratai):
    ran = pratai("doctor", "--server", "http://127.0.0.1:1")

    found = checks(ran)
    assert ran.code == 3
    assert found["server"]["state"] == "failed"
    assert found["key"]["state"] == "skipped"
    assert found["python"]["state"] == "ok"


def test_doctor_tells_a_key_that_is_not_known(pratai, healthy):
    healthy.on("GET", "/v1/functions", healthy.problem(401, detail="this key is not known here"))

    ran = pratai("doctor")

    assert ran.code == 3
    assert checks(ran)["key"]["text"] == "this key is not known here"
    assert checks(ran)["key"]["next"]


def test_doctor_tells_a_server_that_is_not_ready(pratai, healthy):
    healthy.on("GET", "/readyz", healthy.problem(503, fault="platform", detail="not ready: store"))

    ran = pratai("doctor")

    assert ran.code == 3
    assert checks(ran)["ready"]["text"] == "not ready: store"


@pytest.mark.parametrize("by", ["date", "request id"])
def test_doctor_tells_clocks_that_are_apart(pratai, healthy, by):
    """By the Date header where there is one, else by the time in an id the server made."""
    hour_2020 = "015ef3a0-0000-7000-8000-000000000000"
    if by == "date":
        old = {"Date": "Wed, 01 Jan 2020 00:00:00 GMT"}
        healthy.on("GET", "/healthz", healthy.json({"status": "ok"}, 200, **old))
    else:
        healthy.on("GET", "/v1/invocations/0", healthy.problem(404, request_id=hour_2020))

    ran = pratai("doctor")

    assert ran.code == 3
    assert checks(ran)["clock"]["state"] == "failed"
    assert "apart" in checks(ran)["clock"]["text"]


def test_doctor_tells_credentials_that_others_can_read(pratai, healthy, monkeypatch, tmp_path):
    (tmp_path / "pratai").mkdir()
    path = tmp_path / "pratai" / "credentials"
    path.write_text("{}")
    path.chmod(0o644)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    ran = pratai("doctor")

    assert ran.code == 3
    assert checks(ran)["credentials"]["next"] == f"chmod 600 {path}"


def test_doctor_tells_a_full_disk(pratai, healthy, monkeypatch):
    from pratai.cli import doctor

    monkeypatch.setattr(doctor, "DISK_FREE_MIN_BYTES", 1 << 62)

    assert checks(pratai("doctor"))["disk"]["state"] == "failed"


def test_doctor_tells_a_wrong_configuration(pratai, healthy, monkeypatch):
    monkeypatch.setenv("PRATAI_GATEWAY_PROT", "1")

    assert checks(pratai("doctor"))["config"]["state"] == "failed"


def test_a_key_of_the_credentials_file_goes_to_its_own_server_alone(
    pratai, api, monkeypatch, tmp_path
):
    (tmp_path / "pratai").mkdir()
    saved = {"server": api.url, "key": "from-file"}
    (tmp_path / "pratai" / "credentials").write_bytes(msgspec.json.encode(saved))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("PRATAI_SERVER")
    monkeypatch.delenv("PRATAI_KEY")
    api.on("GET", "/v1/nodes", api.json({"items": []}))

    pratai("nodes")
    pratai("nodes", "--server", api.url.replace("127.0.0.1", "localhost"))

    assert api.asked[0].headers["authorization"] == "Bearer from-file"
    assert "authorization" not in api.asked[1].headers


@pytest.fixture
def started(monkeypatch):
    """What `pratai up` hands to the supervisor."""
    options = []
    from pratai.up import supervisor

    monkeypatch.setattr(supervisor, "run_platform", options.append)
    return options


def test_up_hands_options_and_configuration_to_the_supervisor(pratai, started, tmp_path):
    ran = pratai(
        "up", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path / "d"), "--no-auth",
        "--ready-file", "ready.json", "--set", "node.slots=3",
    )  # fmt: skip

    assert (ran.code, ran.err) == (0, "")
    options = started[0]
    assert (options.config.gateway.host, options.config.gateway.port) == ("0.0.0.0", 0)
    assert options.config.node.slots == 3
    assert options.data_dir == str(tmp_path / "d")
    assert (options.ready_file, options.no_auth) == ("ready.json", True)
    assert options.credentials_path.endswith("pratai/credentials")


def test_up_keeps_its_data_in_the_state_directory(pratai, started, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert pratai("up").code == 0
    assert started[0].data_dir == str(tmp_path / "pratai")


@pytest.mark.parametrize(
    ("error", "code"),
    [("CallerError", 2), ("PlatformError", 3), ("OSError", 3)],
)
def test_up_exits_by_whose_fault_it_was(pratai, monkeypatch, error, code):
    from pratai import errors
    from pratai.up import supervisor

    def refuse(_options):
        kind = getattr(errors, error, OSError)
        raise kind("the data dir is in use")

    monkeypatch.setattr(supervisor, "run_platform", refuse)

    ran = pratai("up")

    assert ran.code == code
    assert "the data dir is in use" in ran.err
    assert "Traceback" not in ran.err


def test_up_refuses_a_wrong_setting_before_anything_starts(pratai, started):
    assert pratai("up", "--set", "node.slotz=1").code == 2
    assert pratai("up", "--port", "70000").code == 2
    assert started == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(pratai, shell):
    ran = pratai("completion", shell)

    assert ran.code == 0
    assert "_PRATAI_COMPLETE" in ran.text


def test_the_shell_completes_commands_options_and_names_of_functions(api):
    api.on(
        "GET",
        "/v1/functions",
        api.json({"items": [api.function(), api.function(name="other")], "next_cursor": ""}),
    )

    def completed(words):
        environment = {
            "_PRATAI_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "PRATAI_SERVER": api.url,
            "PRATAI_KEY": "k",
            "HOME": "/nonexistent",
        }
        command = [sys.executable, "-c", "from pratai.cli.main import main; main()"]
        done = subprocess.run(
            command, env=environment, capture_output=True, check=True, timeout=30, text=True
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("pratai invo") == ["invoke", "invocations", "invocation"]
    assert "--tail" in completed("pratai invoke --t")
    assert completed("pratai invoke he") == ["hello"]
    assert completed("pratai function show ") == ["hello", "other"]


def test_completion_is_silent_when_no_server_answers(pratai, monkeypatch):
    import click

    from pratai.cli.arguments import complete_functions

    monkeypatch.setenv("PRATAI_SERVER", "http://127.0.0.1:1")
    context = click.Context(cli)

    assert complete_functions(context, cli.params[0], "") == []
