"""Configuration: where values come from, what is refused, and the page that tells of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st

from pratai.config.client import (
    Credentials,
    client_settings,
    default_data_dir,
    read_credentials,
    write_credentials,
)
from pratai.config.index import resolver_environment
from pratai.config.load import default_files, load_config, read_file
from pratai.config.reference import render
from pratai.config.schema import Config
from pratai.config.settings import settings
from pratai.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
#: Facts, not speed: the machine may be busy.
PATIENT = checked(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def refusal(text: str = "", path: Path | None = None, **kwargs: object) -> ConfigError:
    files = [write(path / "pratai.conf", text)] if path else []
    with pytest.raises(ConfigError) as caught:
        load_config(files=files, **kwargs)  # type: ignore[arg-type]
    return caught.value


def test_nothing_given_is_the_defaults() -> None:
    loaded = load_config(files=[])
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {"default"}
    assert set(loaded.origins) == set(settings())


def test_later_sources_win_and_each_value_knows_its_origin(tmp_path: Path) -> None:
    common = write(
        tmp_path / "a.conf", "[gateway]\nport = 1\nhost = a\nwaiting_max=7\ndrain_ms=1\n"
    )
    own = write(tmp_path / "b.conf", "; mine\n\n[gateway]\nport = 2\nhost = b\nwaiting_max = 8\n")
    loaded = load_config(
        files=[common, own],
        environment={"PRATAI_GATEWAY_PORT": "3", "PRATAI_GATEWAY_HOST": "c"},
        overrides=["gateway.port=4"],
    )
    gateway = loaded.config.gateway
    assert (gateway.port, gateway.host, gateway.waiting_max, gateway.drain_ms) == (4, "c", 8, 1)
    assert loaded.origins["gateway.port"] == "--set gateway.port"
    assert loaded.origins["gateway.host"] == "environment PRATAI_GATEWAY_HOST"
    assert loaded.origins["gateway.waiting_max"] == f"{own}:6"
    assert loaded.origins["gateway.drain_ms"] == f"{common}:5"


def test_the_scheduler_has_a_file_of_its_own_over_the_common_one(tmp_path: Path) -> None:
    write(tmp_path / "pratai.conf", "")
    write(tmp_path / "pratai-scheduler.conf", "")
    names = [os.path.basename(path) for path in default_files("scheduler", str(tmp_path))]
    assert names == ["pratai.conf", "pratai-scheduler.conf"]
    assert len(default_files(None, str(tmp_path))) == 1
    assert default_files("node", str(tmp_path / "none")) == []


def test_the_queue_section_of_the_documentation_is_understood(tmp_path: Path) -> None:
    text = """[queue]
host = 10.0.0.5            ; where gateways, agents and nodes reach this scheduler
scheduler_port = 5557      ; PULL: invocations from gateways and agents
collector_port = 5556      # PULL: joins, heartbeats, outcomes from nodes
"""
    queue = load_config(files=[write(tmp_path / "q.conf", text)]).config.queue
    assert (queue.host, queue.scheduler_port, queue.collector_port) == ("10.0.0.5", 5557, 5556)


@pytest.mark.parametrize("word", ["yes", "true", "on", "YES", "True", "1"])
def test_words_for_yes(word: str) -> None:
    assert load_config(files=[], overrides=[f"auth.required={word}"]).config.auth.required is True


@pytest.mark.parametrize("word", ["no", "false", "off", "Off", "0"])
def test_words_for_no(word: str) -> None:
    assert load_config(files=[], overrides=[f"auth.required={word}"]).config.auth.required is False


def test_an_unknown_key_names_its_place_and_the_nearest_key(tmp_path: Path) -> None:
    error = refusal("[gateway]\n\nprot = 80\n", tmp_path)
    assert f"{tmp_path}/pratai.conf:3" in error.detail
    assert error.field == "gateway.prot"
    assert error.next_step == "Rename it to port."


def test_an_unknown_section_names_its_place_and_the_nearest_section(tmp_path: Path) -> None:
    error = refusal("[gatway]\nport = 80\n", tmp_path)
    assert "pratai.conf:1" in error.detail
    assert "[gateway]" in error.next_step


def test_a_key_in_the_wrong_section_is_told_where_it_belongs(tmp_path: Path) -> None:
    assert "[node]" in refusal("[gateway]\nheartbeat_ms = 10\n", tmp_path).next_step


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("gateway.port", "http", "0..65535"),
        ("gateway.port", "70000", "0..65535"),
        ("gateway.port", "-1", "0..65535"),
        ("gateway.port", "1.5", "0..65535"),
        ("gateway.port", "", "0..65535"),
        ("gateway.port", "\u0661", "0..65535"),
        ("gateway.port", "9" * 5000, "0..65535"),
        ("store.batch_max", "0", "at least 1"),
        ("auth.required", "maybe", "yes | no"),
        ("log.level", "loud", "warning"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(
    name: str, value: str, allowed: str
) -> None:
    error = refusal(overrides=[f"{name}={value}"])
    assert (error.field, error.value) == (name, value)
    assert allowed in str(error.allowed)
    assert name in error.next_step


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 1\n", "before any [section]"),
        ("[gateway]\nport\n", "neither"),
        ("[gateway]\n= 5\n", "neither"),
        ("[gateway\nport = 1\n", "neither"),
        ("[gateway]\nport = 1\nport = 2\n", "set twice"),
        ("[]\n", "no section"),
    ],
)
def test_a_line_that_means_nothing_is_refused_with_its_number(
    tmp_path: Path, text: str, words: str
) -> None:
    error = refusal(text, tmp_path)
    assert words in error.detail
    assert "pratai.conf:" in error.detail


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    for path in (tmp_path / "none.conf", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_file(str(path))
    (tmp_path / "binary.conf").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_file(str(tmp_path / "binary.conf"))


@pytest.mark.parametrize("text", ["gateway.port", "port=5", "=5", "gateway.=5", ".port=5"])
def test_an_override_has_a_section_a_key_and_a_value(text: str) -> None:
    assert refusal(overrides=[text]).field == "set"


def test_variables_of_the_client_are_no_settings() -> None:
    environment = {
        "PRATAI_SERVER": "http://x",
        "PRATAI_KEY": "k",
        "PRATAI_NAMESPACE": "n",
        "PRATAI_DATA_DIR": "/d",
        "PRATAI_TEST_TIER": "core",
        "GATEWAY_PORT": "1",
    }
    assert load_config(files=[], environment=environment).config == Config()


def test_a_misspelt_variable_is_refused_with_the_nearest() -> None:
    error = refusal(environment={"PRATAI_STORE_BATHC_MAX": "5"})
    assert error.next_step == "Rename it to PRATAI_STORE_BATCH_MAX."
    near = refusal(environment={"PRATAI_GATWAY_PORT": "5"})
    assert near.next_step == "Rename it to PRATAI_GATEWAY_PORT."


def test_variables_that_an_engine_sets_for_a_service_are_no_settings() -> None:
    environment = {
        "PRATAI_GATEWAY_PORT": "tcp://10.0.0.1:9996",
        "PRATAI_GATEWAY_PORT_9996_TCP": "tcp://10.0.0.1:9996",
        "PRATAI_GATEWAY_PORT_9996_TCP_ADDR": "10.0.0.1",
        "PRATAI_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "PRATAI_GATEWAY_SERVICE_PORT_HTTP": "9996",
    }
    assert load_config(files=[], environment=environment).config == Config()


@PATIENT
@given(st.text(max_size=300))
def test_any_file_is_loaded_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_text(text, errors="replace")
    error = None
    try:
        load_config(files=[str(path)])
    except ConfigError as refused:
        error = refused
    assert error is None or error.next_step


@PATIENT
@given(st.sampled_from(sorted(settings())), st.text(max_size=20))
def test_any_value_is_taken_as_the_schema_allows_or_refused(name: str, text: str) -> None:
    setting = settings()[name]
    try:
        config = load_config(files=[], overrides=[f"{name}={text}"]).config
    except ConfigError as refused:
        fields = {refused.field}
    else:
        fields = set()
    if fields:
        assert fields == {name}
        return
    value = getattr(getattr(config, setting.section), setting.key)
    if setting.kind == "whole":
        assert isinstance(value, int)
        assert setting.least is None or value >= setting.least
        assert setting.most is None or value <= setting.most


def test_every_default_is_allowed_by_its_own_setting() -> None:
    for setting in settings().values():
        assert setting.parse(str(setting.default)) == setting.default
        assert setting.description, setting.name


def test_the_reference_page_is_made_from_the_schema() -> None:
    """If this fails: python -m pratai.config.reference > docs/reference/configuration.md"""
    assert (ROOT / "docs/reference/configuration.md").read_text() == render()


def test_credentials_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "config" / "pratai" / "credentials")
    write_credentials(path, Credentials(server="http://a:1", key="secret"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert read_credentials(path) == Credentials(server="http://a:1", key="secret")
    write_credentials(path, Credentials(server="http://b:2", key="other"))
    assert read_credentials(path) == Credentials(server="http://b:2", key="other")
    assert os.listdir(os.path.dirname(path)) == ["credentials"]


def test_the_environment_wins_over_the_credentials_file(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = client_settings(environment).credentials_file
    assert path == str(tmp_path / "pratai" / "credentials")
    assert client_settings(environment).server == "http://127.0.0.1:9996"
    write_credentials(path, Credentials(server="http://a:1", key="secret"))
    saved = client_settings(environment)
    assert (saved.server, saved.key) == ("http://a:1", "secret")
    assert saved.origins["key"] == path
    named = client_settings({**environment, "PRATAI_KEY": "k", "PRATAI_NAMESPACE": "n"})
    assert (named.server, named.key, named.namespace) == ("http://a:1", "k", "n")


def test_a_saved_key_is_not_sent_to_another_server(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "PRATAI_SERVER": "http://evil"}
    path = client_settings(environment).credentials_file
    write_credentials(path, Credentials(server="http://a:1", key="secret"))
    assert client_settings(environment).key == ""
    same = {**environment, "PRATAI_SERVER": "http://a:1/"}
    assert client_settings(same).key == "secret"


def test_a_damaged_credentials_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "credentials", "{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_credentials(path)


def test_the_data_directory_is_the_users_or_the_machines() -> None:
    assert default_data_dir({"XDG_STATE_HOME": "/s"}) == "/s/pratai"
    assert default_data_dir({"HOME": "/h"}) == "/h/.local/state/pratai"
    assert default_data_dir({"HOME": "/h", "XDG_STATE_HOME": "rel"}) == "/h/.local/state/pratai"
    assert default_data_dir({"INVOCATION_ID": "1"}, is_root=True) == "/var/lib/pratai"
    assert default_data_dir({"STATE_DIRECTORY": "/var/lib/x:/y"}) == "/var/lib/x"
    assert default_data_dir({"HOME": "/root"}, is_root=True) == "/root/.local/state/pratai"


def test_pip_settings_become_those_of_the_resolver(tmp_path: Path) -> None:
    pip_conf = write(
        tmp_path / "pip.conf", "[global]\nindex-url = https://file/simple\ntrusted-host = h\n"
    )
    environment = {
        "PIP_CONFIG_FILE": pip_conf,
        "PIP_EXTRA_INDEX_URL": "https://b https://c",
        "PIP_FIND_LINKS": f"{tmp_path} {tmp_path}/none https://links",
        "PRATAI_KEY": "secret",
        "HTTPS_PROXY": "http://proxy",
    }
    result = resolver_environment(environment)
    assert result["UV_DEFAULT_INDEX"] == "https://file/simple"
    assert result["UV_INDEX"] == "https://b https://c"
    assert result["UV_FIND_LINKS"] == f"{tmp_path},https://links"
    assert result["UV_INSECURE_HOST"] == "h"
    assert result["HTTPS_PROXY"] == "http://proxy"
    assert "PRATAI_KEY" not in result


def test_the_resolvers_own_settings_win_over_those_of_pip() -> None:
    environment = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "https://pip",
        "UV_INDEX_URL": "https://uv",
    }
    result = resolver_environment(environment)
    assert "UV_DEFAULT_INDEX" not in result
    assert result["UV_INDEX_URL"] == "https://uv"
