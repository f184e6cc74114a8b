"""`deploy/`: units, example configuration, the compose file and the image say what is true."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import platform_process
import pytest
import yaml
from platform_process import PRATAI, PlatformProcess

from pratai.cli.main import _COMMANDS, cli
from pratai.config.load import load_config
from pratai.config.settings import settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(path.name for path in (DEPLOY / "systemd").glob("*.service"))
PROCESSES = ("gateway", "scheduler", "agent", "node")
#: Exposure as systemd counts it, from 0 to 10, times ten: what needs root is judged apart.
EXPOSURE_MAX = {"pratai-node.service": 60, "pratai.service": 60}
EXPOSURE_MAX_USUAL = 20


def absent(what: str) -> None:
    """A tool is missing: a failure where everything is to be tested, else a skip."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def directives(unit: str) -> dict[str, list[str]]:
    """{name: values} of a unit file."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """The units, with a program that is there: systemd looks for it."""
    for unit in UNITS:
        text = (DEPLOY / "systemd" / unit).read_text()
        (tmp_path / unit).write_text(text.replace("/opt/pratai/bin/pratai", sys.executable))
        (tmp_path / unit).chmod(0o644)
    return tmp_path


# systemd


def test_there_is_a_unit_for_each_process_and_one_for_all() -> None:
    assert sorted(["pratai.service", *(f"pratai-{one}.service" for one in PROCESSES)]) == UNITS


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_starts_a_command_that_exists(unit: str) -> None:
    command = directives(unit)["ExecStart"][0].split()

    assert command[0] == "/opt/pratai/bin/pratai"
    assert command[1] == {"pratai.service": "up"}.get(unit, unit[len("pratai-") : -len(".service")])
    assert command[1] in _COMMANDS
    shown = subprocess.run(
        [*PRATAI, command[1], "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"--[a-z-]+", " ".join(command))) <= set(re.findall(r"--[a-z-]+", shown))


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_in_a_unit(unit: str, placed: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        absent("systemd is not installed")

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", placed / unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_exposes_the_machine_little(unit: str, placed: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        absent("systemd is not installed")
    limit = EXPOSURE_MAX.get(unit, EXPOSURE_MAX_USUAL)

    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={limit}", placed / unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_gives_a_process_longer_than_it_takes_to_drain(unit: str) -> None:
    stop_s = int(directives(unit)["TimeoutStopSec"][0])

    assert stop_s * 1000 > int(settings()["gateway.drain_ms"].default or 0)


def test_a_process_tells_systemd_when_it_serves_and_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All units are of `Type=notify`; every process lives by the same code as this one."""
    assert {directives(unit)["Type"][0] for unit in UNITS} == {"notify"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        platform = PlatformProcess(tmp_path).start()
        try:
            assert manager.recv(100) == b"READY=1"
            assert platform.request("GET", "/healthz").status == 200
            platform.stop()
            assert manager.recv(100) == b"STOPPING=1"
        finally:
            platform.close()


@pytest.mark.parametrize("unit", ["pratai-node.service", "pratai.service"])
@pytest.mark.skipif(os.getuid() != 0, reason="capabilities are root's to give")
def test_a_node_needs_no_more_than_its_unit_lets_it_have(
    unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With these capabilities alone the sandbox is as good as with all, and a function runs."""
    if shutil.which("setpriv") is None:
        absent("setpriv is not installed")
    allowed = directives(unit)["CapabilityBoundingSet"][0].split()
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in allowed)
    wrapper = tmp_path / "bounded"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-all,{names} --no-new-privs "$@"\n')
    wrapper.chmod(0o755)
    (tmp_path / "free").mkdir()
    (tmp_path / "kept").mkdir()

    degraded, results = [], []
    for directory, prefix in ((tmp_path / "free", []), (tmp_path / "kept", [str(wrapper)])):
        monkeypatch.setattr(platform_process, "PRATAI", [*prefix, *PRATAI])
        platform = PlatformProcess(directory).start()
        try:
            degraded.append(platform.request("GET", "/v1/nodes").json()["items"][0]["degraded"])
            platform.deploy("f", "import os\ndef main(payload):\n    return os.getuid() > 0")
            results.append(platform.invoke("f").json())
        finally:
            platform.close()

    assert degraded[0] == degraded[1]
    assert results == [True, True]


# configuration


@pytest.mark.parametrize("process", PROCESSES)
def test_the_example_configuration_of_a_process_is_valid(process: str) -> None:
    files = [DEPLOY / "etc" / "pratai" / name for name in ("pratai.conf", f"pratai-{process}.conf")]
    command = [*PRATAI, "config", "check", "--process", process]
    for file in files:
        command += ["--config", str(file)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PRATAI_")}

    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((DEPLOY / "etc" / "pratai").iterdir()), ids=str)
def test_every_line_of_the_example_configuration_is_explained(path: Path) -> None:
    lines = path.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if "=" in line and not line.startswith(";"):
            assert before.startswith(";"), line


def test_the_queue_is_configured_where_the_scheduler_reads_it() -> None:
    files = [str(DEPLOY / "etc" / "pratai" / "pratai-scheduler.conf")]
    queue = load_config("scheduler", files).config.queue

    assert (queue.scheduler_port, queue.collector_port) == (5557, 5556)
    assert (queue.node_port, queue.gateway_port) == (5558, 5559)
    assert queue.host == "10.0.0.5"


# compose


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def ours(compose: Any) -> dict[str, Any]:
    return {k: v for k, v in compose["services"].items() if v["image"] == "pratai"}


def test_compose_has_the_whole_picture(compose: Any) -> None:
    assert sorted(compose["services"]) == sorted(
        ["nginx", "scheduler", "agent", "node-1", "node-2"]
        + [f"{name}-{number}" for name in ("gateway", "elasticsearch") for number in (1, 2, 3)]
    )


def test_services_run_commands_with_settings_that_exist(compose: Any) -> None:
    for name, service in ours(compose).items():
        process = service["command"][0]
        assert process == name.partition("-")[0]
        assert process in _COMMANDS
        loaded = load_config(
            process, [], {key: str(value) for key, value in service["environment"].items()}
        )
        given = [name for name, origin in loaded.origins.items() if origin != "default"]
        assert len(given) == len(service["environment"]), "each variable is a setting"
        assert loaded.config.queue.key_file == "/run/secrets/cluster_key"


def test_services_that_use_the_store_know_all_of_elasticsearch(compose: Any) -> None:
    addresses = {
        f"http://{service['networks']['cluster']['ipv4_address']}:9200"
        for name, service in compose["services"].items()
        if name.startswith("elasticsearch")
    }
    for name, service in ours(compose).items():
        urls = service["environment"].get("PRATAI_ELASTICSEARCH_URLS", "")
        assert set(filter(None, urls.split(","))) == (set() if "node" in name else addresses)


def test_what_compose_refers_to_is_there(compose: Any) -> None:
    services, volumes = compose["services"], compose["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            if source.startswith("./"):
                assert source == "./tls" or (DEPLOY / source).is_file(), source
            elif not source.startswith("/"):
                assert source in volumes


def test_addresses_are_those_of_nginx_and_of_the_example_configuration(compose: Any) -> None:
    def address(name: str) -> str:
        return str(compose["services"][name]["networks"]["cluster"]["ipv4_address"])

    text = (DEPLOY / "nginx" / "pratai.conf").read_text()
    gateways = [f"{address(f'gateway-{number}')}:9996" for number in (1, 2, 3)]
    assert re.findall(r"^    server (\S+)", text, re.MULTILINE) == gateways * 2
    etc = DEPLOY / "etc" / "pratai"
    gateway = load_config("gateway", [str(etc / "pratai-gateway.conf")]).config
    assert gateway.gateway.forwarded_from == address("nginx")
    assert load_config("node", [str(etc / "pratai.conf")]).config.queue.host == address("scheduler")


def test_the_node_of_compose_has_the_capabilities_of_the_unit(compose: Any) -> None:
    unit = directives("pratai-node.service")["CapabilityBoundingSet"][0].split()

    assert compose["services"]["node-1"]["cap_add"] == [one.removeprefix("CAP_") for one in unit]


# image


def test_the_image_is_made_from_what_is_there() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', text)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert {project["readme"], *project["license-files"]} <= set(text.split())
    sent = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in sent
    assert 'ENTRYPOINT ["pratai"]' in text


# docs/operating

PAGES = sorted((ROOT / "docs" / "operating").glob("*.md"))
#: Figures that prometheus-client or the families of `metrics.py` add to a name.
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def commands_of(text: str) -> list[list[str]]:
    """The `pratai ...` command lines of a page's blocks and of its code spans."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`(pratai [^`\n]+)`", text)
    lines = [line for block in blocks for line in block.splitlines()] + spans
    found = []
    for line in lines:
        match = re.search(r"(?:^|\bexec |/bin/|&& )pratai ((?:[a-z-]+)(?: .*)?)$", line)
        if match:
            found.append(shlex.split(match[1], comments=True))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_the_page_exist_with_their_options(page: Path) -> None:
    for words in commands_of(page.read_text()):
        context = click.Context(cli, info_name="pratai")
        command: click.Command = cli
        rest = list(words)
        while isinstance(command, click.Group) and rest:
            found = command.get_command(context, rest.pop(0))
            assert found is not None, words
            command, context = found, click.Context(found, parent=context)
        known = {option for one in command.get_params(context) for option in one.opts}
        known |= {"--json", "--namespace", "--server", "--key"}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= known, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_settings_of_the_page_exist(page: Path) -> None:
    text = page.read_text()
    named = [(s, k) for s, k in re.findall(r"`\[([a-z]+)\] ([a-z_]+)", text)]
    assert [f"{s}.{k}" for s, k in named if f"{s}.{k}" not in settings()] == []


def test_the_figures_to_watch_are_figures_of_the_platform() -> None:
    text = (ROOT / "docs" / "operating" / "watch.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "src" / "pratai").rglob("*.py"))
    literals = set(re.findall(r'"(?:pratai_)?([a-z_]+)"', sources))
    named = set(re.findall(r"pratai_([a-z_]+)", text))
    assert len(named) > 10
    for name in named:
        bare = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
        assert {name, bare} & literals, name


def test_the_docs_name_files_of_deploy_that_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"\bdeploy/[\w./-]+", page.read_text()):
            assert (ROOT / name.rstrip(".")).exists() or name.endswith("/"), f"{page.name}: {name}"
