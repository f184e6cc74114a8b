"""The docker driver beyond the common contract: walls, pausing, adoption, images, nothing left."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.conftest import World
from tests.docker_engine import DockerEngine

from pratai.config.schema import Driver, Node
from pratai.driver.docker import images, leftovers
from pratai.driver.docker.engine import Engine
from pratai.driver.docker.plan import seccomp_profile
from pratai.driver.registry import create_driver
from pratai.errors import ConfigError, PlatformError
from pratai.wire import frames

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def world(engine: DockerEngine, tmp_path: Path) -> Iterator[World]:
    made = World("docker", "asyncio", tmp_path, settings={"docker_host": engine.host})
    yield made
    made.close()


def other_world(engine: DockerEngine, root: Path, **settings: object) -> World:
    return World("docker", "asyncio", root, settings={"docker_host": engine.host, **settings})


def containers_of(engine: DockerEngine, world: World) -> list[str]:
    label = f"label=pratai.node={world.driver._place.node}"
    return engine.docker("ps", "-a", "-q", "--no-trunc", "--filter", label).stdout.split()


def state_of(engine: DockerEngine, container: str) -> dict[str, object]:
    return json.loads(engine.docker("inspect", container).stdout)[0]["State"]


def inspect(engine: DockerEngine, container: str) -> str:
    return engine.docker("inspect", container).stdout


# which container


def test_instances_of_a_version_share_a_container_and_versions_never_do(world, engine):
    first, second = world.start(name="f"), world.start(name="f")
    assert (first.call(1).value, second.call(2).value) == (1, 2)
    assert len(containers_of(engine, world)) == 1

    world.start(name="g")

    assert len(containers_of(engine, world)) == 2


def test_close_leaves_no_container_no_network_and_no_file(world, engine):
    world.start().call(1)
    network = world.driver._place.network
    assert network in engine.docker("network", "ls", "--format", "{{.Name}}").stdout

    world.run(world.driver.close())

    assert containers_of(engine, world) == []
    assert network not in engine.docker("network", "ls", "--format", "{{.Name}}").stdout
    assert list((world.state_dir / "containers").iterdir()) == []


def test_a_forgotten_version_loses_its_container_with_its_last_instance(world, engine):
    instance = world.start()
    world.run(world.driver.forget(instance.spec.version.version_id))
    assert instance.call(1).value == 1
    assert len(containers_of(engine, world)) == 1

    instance.stop()

    world.until(lambda: containers_of(engine, world) == [])


def test_at_the_bound_the_container_unused_for_longest_makes_room(engine, tmp_path):
    world = other_world(engine, tmp_path, containers_max=2)
    try:
        world.start(name="a").stop()
        busy = world.start(name="b")
        world.start(name="c").stop()
        world.until(lambda: len(containers_of(engine, world)) == 2)
        assert busy.call(1).value == 1

        third = world.start(name="c")
        with pytest.raises(PlatformError, match="in use"):
            world.start(name="d")

        assert third.call(2).value == 2
    finally:
        world.close()


def test_instances_of_a_prepared_version_are_forked_with_its_module_imported(world):
    code = "import os\nloaded_by = os.getpid()\ndef main(p):\n    return loaded_by, os.getpid()\n"
    world.run(world.driver.prepare(world.spec(code)))

    (one, here), (other, there) = world.start(code).call().value, world.start(code).call().value

    assert one == other
    assert len({one, here, there}) == 3


def test_logs_arrive_while_a_call_runs_and_waiting_events_are_handed_back(world):
    instance = world.start(
        """
        import time

        def main(p):
            print("begun")
            time.sleep(0.5)
            return p
        """
    )
    instance.post(1, request_id="r1")
    instance.post(2, request_id="r2")
    kind, meta, payload = instance.next()[1]
    assert (kind, meta["request_id"], payload) == (frames.LOG, "r1", b"begun")

    world.do(lambda: world.driver.recall(instance.id))

    returned = instance.answer()
    assert (returned.kind, returned.meta["request_id"]) == (frames.RETURNED, "r2")
    assert instance.answer().value == 1


# walls


STATUS = """
    def main(payload):
        wanted = ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
        lines = dict(l.split(":", 1) for l in open("/proc/self/status") if ":" in l)
        return {name: lines[name].split()[0] for name in wanted}
    """


def test_a_function_has_no_privilege_and_is_not_root(world):
    status = world.start(STATUS).call().value

    assert int(status["Uid"]) >= 600_000
    assert (status["CapEff"], status["CapBnd"]) == ("0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


WRITES = """
    import os

    def main(paths):
        found = {}
        for path in paths:
            try:
                with open(path, "w") as file:
                    file.write("x")
                found[path] = "written"
            except OSError as error:
                found[path] = os.strerror(error.errno)
        return found
    """


def test_only_tmp_can_be_written(world):
    paths = ["/etc/x", "/var/task/x", "/usr/lib/pratai/x", "/run/pratai/x", "/x", "/tmp/x"]

    found = world.start(WRITES).call(paths).value

    assert found.pop("/tmp/x") == "written"
    assert set(found.values()) <= {"Read-only file system", "Permission denied"}


def test_tmp_has_the_size_that_was_asked_for(world):
    code = """
        import os

        def main(_):
            size = 0
            try:
                for number in range(100):
                    with open(f"/tmp/{number}", "wb") as file:
                        size += file.write(bytes(1 << 20))
            except OSError as error:
                return size >> 20, os.strerror(error.errno)
        """

    size_mb, problem = world.start(code, tmp_mb=8).call().value

    assert (size_mb <= 8, problem) == (True, "No space left on device")


@pytest.mark.parametrize("prepared", [False, True])
def test_memory_beyond_the_limit_ends_the_instance_as_out_of_memory(world, prepared):
    """Shared memory is not counted by the limit of a process, only by that of the container."""
    code = """
        import mmap

        def main(size_mb):
            area = mmap.mmap(-1, size_mb << 20)
            for page in range(0, size_mb << 20, 4096):
                area[page] = 1
            return size_mb
        """
    if prepared:
        world.run(world.driver.prepare(world.spec(code, memory_mb=64, tmp_mb=1)))
    instance = world.start(code, memory_mb=64, tmp_mb=1)
    other = world.start(code, memory_mb=64, tmp_mb=1)
    assert instance.call(20).value == 20

    instance.post(2_000)
    how = instance.wait_exit()

    assert (how.out_of_memory, how.signal) == (True, 9)
    assert "64 MB" in how.detail
    assert other.call(10).value == 10


def test_a_function_that_forks_without_end_meets_the_limit_of_processes(engine, tmp_path):
    world = other_world(engine, tmp_path, processes_max=32)
    try:
        code = """
            import os, time

            def main(_):
                started = 0
                try:
                    while started < 1000:
                        if os.fork() == 0:
                            time.sleep(600)
                        started += 1
                except OSError as error:
                    return started, os.strerror(error.errno)
            """
        instance = world.start(code)

        started, problem = instance.call().value

        assert 16 < started <= 64
        assert problem == "Resource temporarily unavailable"
        instance.stop()
        assert world.start(code).call().value[0] > 16
    finally:
        world.close()


def test_system_calls_that_no_function_needs_are_denied(world):
    code = """
        import ctypes, os

        libc = ctypes.CDLL(None, use_errno=True)
        NUMBERS = {"ptrace": 101, "keyctl": 250, "bpf": 321, "io_uring_setup": 425, "mount": 165,
                   "unshare": 272, "setns": 308, "userfaultfd": 323, "perf_event_open": 298,
                   "process_vm_readv": 310, "init_module": 175, "kexec_load": 246}

        def main(_):
            found = {}
            for name, number in NUMBERS.items():
                argument = 0x10000000 if name == "unshare" else 0
                result = libc.syscall(number, argument, 0, 0, 0, 0)
                found[name] = ctypes.get_errno() if result < 0 else 0
            found["clone_newuser"] = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
            if found["clone_newuser"] == 0:
                os._exit(0)
            for family in (17, 38, 40):
                found[f"socket {family}"] = libc.socket(family, 2, 0)
            return found
        """

    found = world.start(code).call().value

    assert found.pop("io_uring_setup") == 38
    assert {found.pop(name) for name in list(found) if found[name] < 0} == {-1}
    assert set(found.values()) == {1}


def test_the_profile_lists_what_is_allowed_and_denies_the_rest():
    profile = json.loads(seccomp_profile())
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }

    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not allowed & {
        "ptrace",
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "socket",
    }
    assert not allowed & {"clone", "clone3", "io_uring_setup", "add_key", "pivot_root", "chroot"}


NETWORK = """
    import socket

    def main(address):
        interfaces = [name for _, name in socket.if_nameindex()]
        try:
            socket.create_connection(tuple(address), 2).close()
            return interfaces, ""
        except OSError as error:
            return interfaces, type(error).__name__ + ": " + str(error)
    """


def test_a_function_without_network_has_loopback_alone(world):
    interfaces, problem = world.start(NETWORK, network="none").call(["10.255.255.1", 9]).value

    assert interfaces == ["lo"]
    assert "unreachable" in problem


def test_a_function_with_the_network_of_the_host_has_its_interfaces(world):
    instance = world.start(NETWORK, network="host", name="on_the_host_")

    interfaces, _ = instance.call(["127.0.0.1", 9]).value

    assert set(interfaces) >= {name for _, name in socket.if_nameindex() if name != "docker0"}


def test_functions_with_network_do_not_reach_each_other(world):
    server = world.start(
        """
        import socket, threading

        def main(_):
            listening = socket.create_server(("0.0.0.0", 8000))
            def serve():
                while True:
                    listening.accept()[0].close()
            threading.Thread(target=serve, daemon=True).start()
            probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            probe.connect(("10.255.255.1", 9))
            return probe.getsockname()[0]
        """,
        name="server",
    )
    address = server.call().value

    interfaces, problem = world.start(NETWORK, name="client").call([address, 8000]).value

    assert len(interfaces) == 2
    assert "timed out" in problem


def test_what_the_engine_is_asked_for_names_every_wall(world, engine):
    world.start(environment={"PASSWORD": "open sesame"}, memory_mb=100, tmp_mb=10).call(1)
    (container,) = containers_of(engine, world)
    text = inspect(engine, container)
    host = json.loads(text)[0]["HostConfig"]

    assert "open sesame" not in text
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] > 0
    assert all(not mount["RW"] for mount in json.loads(text)[0]["Mounts"])


def test_room_grows_with_the_instances_of_a_version(world, engine):
    def memory() -> int:
        (container,) = containers_of(engine, world)
        return json.loads(inspect(engine, container))[0]["HostConfig"]["Memory"]

    world.start()
    for_one = memory()
    specs = [world.spec() for _ in range(12)]
    instances = [world.adopt(spec) for spec in specs]

    async def begin_all() -> None:
        await asyncio.gather(*(world.driver.start(spec) for spec in specs))

    world.run(begin_all())

    assert [instance.wait_ready().kind for instance in instances] == [frames.READY] * 12
    assert memory() > 5 * for_one
    assert [instance.call(1).value for instance in instances] == [1] * 12


def test_stop_kills_daemons_that_a_function_started(world, engine):
    code = """
        import os, subprocess

        def main(payload):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execv("/bin/sleep", ["sleep", "600"])
                os._exit(0)
            os.wait()
            subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
        """
    instance = world.start(code)
    instance.call()
    (container,) = containers_of(engine, world)
    assert engine.docker("top", container).stdout.count("sleep 600") == 2

    instance.stop()

    assert engine.docker("top", container).stdout.count("sleep 600") == 0


def test_private_directories_of_ended_instances_are_removed(world):
    code = """
        import os, tempfile

        def main(p):
            with open(os.path.join(tempfile.mkdtemp(), "x"), "w") as file:
                file.write("x")
            return sorted(name for name in os.listdir("/tmp") if "f-" in name)
        """
    first, second = world.start(code), world.start(code)
    assert len(first.call().value) == 2

    first.stop()

    for _ in range(500):
        if second.call().value == [second.id]:
            return
    raise AssertionError("it stayed")


# pausing


def test_an_idle_container_is_paused_and_goes_on_when_it_is_needed(engine, tmp_path):
    world = other_world(engine, tmp_path, pause_idle_ms=50)
    try:
        instance = world.start()
        assert instance.call(1).value == 1
        (container,) = containers_of(engine, world)
        for number in range(3):
            world.until(lambda: state_of(engine, container)["Paused"])
            assert instance.call(number).value == number
        world.until(lambda: state_of(engine, container)["Paused"])

        second = world.start()

        assert second.call(2).value == 2
        world.until(lambda: state_of(engine, container)["Paused"])
        assert instance.stop(grace_ms=5_000).code == 0
        world.until(lambda: state_of(engine, container)["Paused"])
    finally:
        world.close()
    assert containers_of(engine, world) == []


def test_a_container_is_not_paused_under_a_call(engine, tmp_path):
    world = other_world(engine, tmp_path, pause_idle_ms=1)
    try:
        instance = world.start("import time\ndef main(p):\n    time.sleep(0.5)\n    return p\n")
        assert [instance.call(number).value for number in range(3)] == [0, 1, 2]
    finally:
        world.close()


# what an earlier process left


NODE = """
import asyncio, sys
from pathlib import Path
from tests.contract.conftest import World

world = World("docker", "asyncio", Path(sys.argv[1]), settings={"docker_host": sys.argv[2]})
instance = world.start(sys.argv[3])
instance.post(600)
print("busy", flush=True)
world.run(asyncio.sleep(600))
"""
SLEEPS = "import time\ndef main(p):\n    time.sleep(p)\n    return p\n"


def killed_node(engine: DockerEngine, root: Path) -> None:
    """A node that was killed by force in the middle of a call."""
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(root), engine.host, SLEEPS],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert node.stdout is not None
    assert node.stdout.readline() == "busy\n"
    node.kill()
    node.wait()
    node.stdout.close()


@pytest.mark.parametrize("paused", [False, True])
def test_a_node_killed_by_force_finds_its_containers_warm_again(engine, tmp_path, paused):
    killed_node(engine, tmp_path)
    (left,) = engine.docker("ps", "-q", "--no-trunc").stdout.split()
    if paused:
        engine.docker("pause", left)

    world = other_world(engine, tmp_path)
    try:
        assert containers_of(engine, world) == [left]
        assert "sleep" not in engine.docker("top", left).stdout
        instance = world.start(SLEEPS)

        assert instance.call(0).value == 0
        assert containers_of(engine, world) == [left]
    finally:
        world.close()
    assert engine.names() == []


def test_a_container_whose_node_stays_away_ends_by_itself(engine, tmp_path):
    world = other_world(engine, tmp_path, adopt_ms=300)
    try:
        world.start()
        (container,) = containers_of(engine, world)
        made = next(iter(world.driver._containers.values()))

        world.do(lambda: lose(made))

        world.until(lambda: not state_of(engine, container)["Running"])
        engine.docker("rm", container)
    finally:
        world.close()


def lose(container) -> None:
    """Break off without a word, as a killed node does."""
    container._gone = True
    container._base.close()


def test_what_does_not_answer_is_removed_and_others_are_left_alone(engine, tmp_path):
    world = other_world(engine, tmp_path)
    node = world.driver._place.node
    world.close()
    image = images.image_name("seed")
    for name, owner in (("pratai-mine", node), ("pratai-other", "another-node")):
        label = f"--label=pratai.node={owner}"
        engine.docker("run", "-d", "--name", name, label, image, "sleep", "600")

    world = other_world(engine, tmp_path)
    try:
        assert engine.names() == ["pratai-other"]
    finally:
        world.close()
        engine.docker("rm", "-f", "pratai-other")


def test_containers_that_ended_are_swept(engine, tmp_path):
    world = other_world(engine, tmp_path, sweep_ms=100)
    try:
        world.start()
        label = f"--label=pratai.node={world.driver._place.node}"
        engine.docker("run", "--name", "ended", label, images.image_name("seed"), "true")

        world.until(lambda: "ended" not in engine.names())

        assert len(engine.names()) == 1
    finally:
        world.close()


CALLS = """
import os, sys
from pathlib import Path
from tests.contract.conftest import World

world = World("docker", "asyncio", Path(sys.argv[1]), settings={"docker_host": sys.argv[2]})
instance = world.start()
assert instance.call(7).value == 7
assert world.driver.stats(instance.id) is None
assert instance.stop().signal == 9
world.close()
print("called", os.getpid(), flush=True)
"""


def test_a_node_may_itself_be_in_a_container_and_without_privileges(engine, tmp_path):
    """It sees no process of its functions, and may change nobody's owner."""
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc"),
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
            *(sys.executable, "-c", CALLS, str(tmp_path), engine.host),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=60,
        check=False,
    )

    assert done.stdout.splitlines()[-1:] == ["called 1"], done.stderr[-2000:]


# failures


def test_a_container_killed_from_outside_is_reported_and_made_again(world, engine):
    instance = world.start()
    (container,) = containers_of(engine, world)

    engine.docker("kill", container)
    how = instance.wait_exit()

    assert how.detail == "its container ended with status 137"
    assert world.start().call(1).value == 1


def test_an_engine_that_restarts_is_survived(world, engine):
    instance = world.start()
    engine.stop()
    assert "container ended" in instance.wait_exit().detail
    with pytest.raises(PlatformError, match="cannot be reached") as refused:
        world.begin(world.spec())
    assert refused.value.code == "engine_unreachable"
    assert not world.run(world.driver.fingerprint()).healthy

    engine.start()

    assert world.start().call(1).value == 1
    assert world.run(world.driver.fingerprint()).healthy
    assert len(containers_of(engine, world)) == 1


def test_an_engine_that_is_not_there_is_told_with_what_to_do(tmp_path):
    with pytest.raises(PlatformError) as refused:
        World("docker", "asyncio", tmp_path, settings={"docker_host": "unix:///nowhere/sock"})

    assert refused.value.code == "engine_unreachable"
    assert "docker_host" in refused.value.next_step


def test_a_missing_image_is_told_with_the_command_that_builds_it(engine, tmp_path):
    name = images.image_name("python3.11")
    engine.docker("tag", name, "kept:1")
    engine.docker("rmi", name)
    try:
        with pytest.raises(PlatformError) as refused:
            other_world(engine, tmp_path)
        assert "pratai runtimes build" in refused.value.next_step
    finally:
        engine.docker("tag", "kept:1", name)
        engine.docker("rmi", "kept:1")


def test_an_engine_elsewhere_is_refused():
    config = Driver(name="docker", docker_host="tcp://10.0.0.1:2375")
    with pytest.raises(ConfigError) as refused:
        create_driver(config, state_dir="/nowhere", node_config=Node())
    assert refused.value.field == "driver.docker_host"


def test_the_fingerprint_tells_the_engine_and_what_it_lacks(world, engine):
    fingerprint = world.run(world.driver.fingerprint())

    version = engine.docker("version", "--format", "{{.Server.Version}}").stdout.strip()
    assert fingerprint.engine == f"Docker {version}"
    assert any("share their container" in sentence for sentence in fingerprint.degraded)


# images of functions


def test_packages_of_the_system_are_installed_once_into_an_image_of_the_version(world, engine):
    code = """
        import subprocess

        def main(p):
            done = subprocess.run(["jq", "-c", ".a"], input=p, capture_output=True, text=True)
            return done.stdout.strip(), done.stderr, open("/var/task/data.txt").read()
        """
    files = {"main.py": code, "data.txt": "shipped", "layer.txt": ""}

    instance = world.start(files, layer={"dep.py": "X = 1"}, apt=["jq"], init_timeout_ms=60_000)

    assert instance.call('{"a": [1]}').value == ["[1]", "", "shipped"]
    tags = engine.docker("images", "-q", "pratai/function").stdout.split()
    world.start(files, layer={"dep.py": "X = 1"}, apt=["jq"])
    assert engine.docker("images", "-q", "pratai/function").stdout.split() == tags
    (container,) = containers_of(engine, world)
    mounts = json.loads(inspect(engine, container))[0]["Mounts"]
    assert [mount["Destination"] for mount in mounts] == ["/run/pratai"]


def test_a_package_that_does_not_exist_is_told_by_name(world):
    with pytest.raises(PlatformError) as refused:
        world.run(world.driver.prepare(world.spec(apt=["no-such-package-anywhere"])))

    assert refused.value.code == "image_build_failed"
    assert "there is no package no-such-package-anywhere" in refused.value.detail


def test_old_images_of_functions_are_removed_and_those_in_use_stay(engine, tmp_path):
    async def build(names: list[str], node: str) -> None:
        client = Engine(engine.host, timeout_ms=30_000, build_timeout_ms=60_000)
        code = tmp_path / "code"
        code.mkdir(exist_ok=True)
        for name in names:
            (code / "main.py").write_text(name)
            made = images.FunctionImage(
                runtime_image=images.image_name("python3.11"),
                code_dir=str(code),
                layer_dir="",
                apt=[],
                labels={images.LABEL_NODE: node} if node else {},
            )
            tag = f"pratai/function:{name}"
            await images.build_function(client, made, tag=tag, progress=lambda _line: None)
        await client.close()

    def tags() -> set[str]:
        return set(
            engine.docker("images", "--format", "{{.Tag}}", "pratai/function").stdout.split()
        )

    world = other_world(engine, tmp_path, images_max=2, sweep_ms=100)
    node = world.driver._place.node
    world.close()
    engine.docker("image", "prune", "-af", "--filter", "label=pratai.key")
    asyncio.run(build(["old-a", "old-b", "old-c"], node))
    asyncio.run(build(["of-somebody"], ""))
    world = other_world(engine, tmp_path, images_max=2, sweep_ms=100)
    try:
        world.until(lambda: len(tags() & {"old-a", "old-b", "old-c"}) == 2)
        assert "of-somebody" in tags()
    finally:
        world.close()


def test_images_that_lost_their_name_are_removed(engine, tmp_path, monkeypatch):
    async def build(text: str) -> str:
        client = Engine(engine.host, timeout_ms=30_000, build_timeout_ms=60_000)
        code = tmp_path / "code"
        code.mkdir(exist_ok=True)
        (code / "main.py").write_text(text)
        made = images.FunctionImage(
            runtime_image=images.image_name("python3.11"), code_dir=str(code), layer_dir="", apt=[]
        )
        built = await images.build_function(client, made, tag="shop:1", progress=lambda _: None)
        await client.close()
        return built.id

    first, second = asyncio.run(build("one")), asyncio.run(build("two"))
    monkeypatch.setattr(leftovers, "NAMELESS_AGE_MIN_S", 0)

    world = other_world(engine, tmp_path, sweep_ms=100)
    try:
        world.until(lambda: engine.docker("inspect", first, check=False).returncode != 0)
        assert engine.docker("inspect", second).returncode == 0
    finally:
        world.close()
        engine.docker("rmi", "shop:1")


def test_an_image_that_was_removed_is_made_again(world, engine):
    apt = ["hostname"]
    world.start(apt=apt, init_timeout_ms=60_000).stop()
    world.run(world.driver.forget("default/f/1"))
    world.until(lambda: containers_of(engine, world) == [])
    for tag in world.driver._provision.in_use():
        engine.docker("rmi", "-f", tag)

    with pytest.raises(PlatformError):
        world.begin(world.spec(apt=apt))

    assert world.start(apt=apt).call(1).value == 1
