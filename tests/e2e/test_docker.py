"""The whole platform over the docker driver: images built by its commands, calls, kill and restart."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from platform_process import PlatformProcess
from tests.docker_engine import BASE, DockerEngine

pytestmark = pytest.mark.timeout(300)
ECHO = "def main(payload):\n    return payload\n"


def over(engine: DockerEngine, directory: Path, *settings: str) -> PlatformProcess:
    return PlatformProcess(
        directory, "driver.name=docker", f"driver.docker_host={engine.host}", *settings
    )


@pytest.fixture
def docker_platform(engine: DockerEngine, tmp_path: Path) -> Iterator[PlatformProcess]:
    running = over(engine, tmp_path)
    yield running
    running.close()


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return buffer.getvalue()


def ours(engine: DockerEngine) -> list[str]:
    listed = engine.docker("ps", "-aq", "--filter", "label=pratai.node").stdout
    return listed.split()


def wait(fact, limit_s: float = 20.0) -> None:
    limit = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < limit, "never came true"
        time.sleep(0.05)


def test_a_function_is_deployed_called_and_leaves_nothing_behind(docker_platform, engine):
    docker_platform.start()
    docker_platform.deploy("echo", ECHO)

    first = docker_platform.invoke("echo", {"a": 1})
    second = docker_platform.invoke("echo", {"a": 2})

    assert (first.status, first.json()) == (200, {"a": 1})
    assert second.headers["Pratai-Start-Kind"] == "warm"
    assert len(ours(engine)) == 1
    (node,) = docker_platform.request("GET", "/v1/nodes").json()["items"]
    assert node["driver"] == "docker"
    docker_platform.stop()
    assert ours(engine) == []


def test_failures_of_functions_are_told_as_on_every_driver(docker_platform):
    docker_platform.start()
    docker_platform.deploy("raises", "def main(p):\n    raise ValueError('no')\n")
    docker_platform.deploy("exits", "import os\ndef main(p):\n    os._exit(3)\n")
    docker_platform.deploy(
        "hungry",
        "import mmap\ndef main(p):\n    area = mmap.mmap(-1, 1 << 31)\n"
        "    for at in range(0, 1 << 31, 4096):\n        area[at] = 1\n",
        memory_mb=64,
        tmp_mb=1,
    )
    docker_platform.deploy(
        "slow", "import time\ndef main(p):\n    time.sleep(60)\n", timeout_ms=300
    )

    raised, exited = docker_platform.invoke("raises"), docker_platform.invoke("exits")
    hungry, slow = docker_platform.invoke("hungry"), docker_platform.invoke("slow")

    assert (raised.status, raised.json()["error_message"]) == (502, "no")
    assert (exited.status, exited.json()["code"]) == (502, "exited")
    assert (hungry.status, hungry.json()["code"]) == (502, "out_of_memory"), hungry
    assert slow.status == 504


def test_a_platform_killed_by_force_finds_its_containers_warm_and_loses_no_event(
    docker_platform, engine
):
    docker_platform.start()
    docker_platform.deploy("slow", "import time\ndef main(p):\n    time.sleep(0.5)\n    return p\n")
    docker_platform.invoke("slow", 0)
    before = ours(engine)
    accepted = [docker_platform.invoke_async("slow", number) for number in range(4)]

    docker_platform.stop(signal.SIGKILL)
    docker_platform.start()

    outcomes = [docker_platform.wait_done(request_id) for request_id in accepted]
    assert [outcome["outcome"] for outcome in outcomes] == ["succeeded"] * 4
    assert ours(engine) == before


def test_packages_of_the_system_come_with_a_function_that_lists_them(docker_platform):
    docker_platform.start()
    code = (
        "import subprocess\n"
        "def main(payload):\n"
        "    done = subprocess.run(['jq', '-n', '1 + 1'], capture_output=True, text=True)\n"
        "    return done.stdout.strip()\n"
    )
    deployed = docker_platform.deploy("counting", code, apt=["jq"], timeout_ms=120_000)
    assert deployed["apt"] == ["jq"]

    assert docker_platform.invoke("counting").json() == "2"

    listed = docker_platform.deploy("wrong", ECHO, apt=["no-such-package-anywhere"])
    assert listed["apt"] == ["no-such-package-anywhere"]
    refused = docker_platform.invoke("wrong")
    assert refused.status >= 500
    assert "no-such-package-anywhere" in refused.body.decode()


def test_the_process_driver_refuses_a_function_that_needs_packages_of_the_system(own_platform):
    own_platform.start()
    own_platform.deploy("counting", ECHO, apt=["jq"])

    refused = own_platform.invoke("counting")

    assert refused.status >= 500
    assert "driver" in refused.json()["next"]


def test_images_of_runtimes_are_built_by_a_command(docker_platform, engine):
    setting = f"driver.docker_host={engine.host}"

    built = docker_platform.cli("runtimes", "build", "--base", BASE, "--set", setting)

    assert built.returncode == 0, built.stderr
    items = json.loads(built.stdout)["items"]
    assert [item["image"].split(":")[0] for item in items] == ["pratai/seed", "pratai/python3.11"]
    assert all(item["size_bytes"] > 1 << 20 for item in items)
    wrong = docker_platform.cli("runtimes", "build", "cobol", "--set", setting)
    assert wrong.returncode == 2
    nowhere = "driver.docker_host=unix:///nowhere"
    assert docker_platform.cli("runtimes", "build", "--set", nowhere).returncode == 3


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry on this machine; the address that images have in front."""
    if shutil.which("docker-registry") is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("needs the program docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": storage,
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    running = subprocess.Popen(
        ["docker-registry", "serve", str(tmp_path / "registry.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    host, port = address.split(":")

    def answers() -> bool:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            return False
        return True

    wait(answers)
    yield address
    running.kill()
    running.wait()


def test_a_node_pulls_the_image_that_it_lacks_from_the_registry(engine, tmp_path, registry):
    setting = f"driver.registry={registry}"
    platform = over(engine, tmp_path, setting)
    host = f"driver.docker_host={engine.host}"
    options = ("--base", BASE, "--push", "--set", setting, "--set", host)
    pushed = platform.cli("runtimes", "build", *options)
    assert pushed.returncode == 0, pushed.stderr
    for item in json.loads(pushed.stdout)["items"]:
        assert item["image"].startswith(registry)
        engine.docker("rmi", item["image"])
    assert registry not in engine.docker("images").stdout

    try:
        platform.start()
        platform.deploy("echo", ECHO)
        assert platform.invoke("echo", 1).json() == 1
    finally:
        platform.close()

    assert f"{registry}/pratai/python3.11" in engine.docker("images").stdout


def test_an_image_of_a_function_has_its_code_and_dependencies(docker_platform, engine):
    docker_platform.start()
    docker_platform.deploy("shop", zipped(main__py=ECHO, data__txt="shipped"))

    built = docker_platform.cli(
        "function",
        "image",
        "shop",
        "--tag",
        "shop/shop:7",
        "--set",
        f"driver.docker_host={engine.host}",
    )

    assert built.returncode == 0, built.stderr
    said = json.loads(built.stdout)
    assert (said["image"], said["function"], said["version"]) == ("shop/shop:7", "shop", "1")
    read = engine.docker("run", "--rm", "shop/shop:7", "cat", "/var/task/data.txt")
    assert read.stdout == "shipped"
    (image,) = json.loads(engine.docker("inspect", "shop/shop:7").stdout)
    assert image["Config"]["Cmd"][3].endswith("bootstrap.py")
    assert image["Config"]["Labels"]["pratai.function"] == "shop"
    assert docker_platform.cli("function", "image", "shop", "--tag", "Bad Tag").returncode == 2
