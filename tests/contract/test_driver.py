"""What every driver does, and what the process driver leaves behind: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from pratai.config.schema import Driver, Node
from pratai.driver import processes
from pratai.driver.registry import create_driver
from pratai.errors import ConfigError, PlatformError
from pratai.wire import frames

every_driver = pytest.mark.parametrize(
    "world",
    [
        "fake/asyncio",
        "process/asyncio",
        "process/uvloop",
        pytest.param("docker/asyncio", marks=pytest.mark.timeout(300)),
        pytest.param("docker/uvloop", marks=pytest.mark.timeout(300)),
    ],
    indirect=True,
)
process_driver = pytest.mark.parametrize(
    "world", ["process/asyncio", "process/uvloop"], indirect=True
)


@every_driver
def test_an_instance_says_ready_and_answers_an_event(world):
    instance = world.start()

    answer = instance.call({"a": 1})

    assert answer.value == {"a": 1}
    assert answer.meta["content_type"] == "application/json"


@every_driver
def test_events_are_answered_in_order_even_when_sent_together(world):
    instance = world.start()

    for number in range(5):
        instance.post(number, request_id=f"r{number}")

    assert [instance.answer().value for _ in range(5)] == [0, 1, 2, 3, 4]


@every_driver
def test_two_instances_live_beside_each_other(world):
    one, two = world.start(), world.start()

    one.post("first")
    two.post("second")

    assert (two.answer().value, one.answer().value) == ("second", "first")


@every_driver
def test_stop_ends_an_instance_with_one_exit_as_its_last_word(world):
    instance = world.start()
    other = world.start()

    instance.stop()
    world.run(world.driver.stop(instance.id, 0))

    assert other.call(1).value == 1
    assert len(instance.exits) == 1
    assert instance.after_exit == []


@every_driver
def test_a_stop_with_grace_lets_the_instance_end_by_itself(world):
    instance = world.start()

    how = instance.stop(grace_ms=5_000)

    assert (how.code, how.signal) == (0, None)


@every_driver
def test_frames_to_an_unknown_instance_are_ignored(world):
    instance = world.start()

    world.do(lambda: world.driver.send("nobody", frames.encode(frames.SHUTDOWN)))
    world.do(lambda: world.driver.recall("nobody"))

    assert instance.call(1).value == 1
    assert world.driver.stats("nobody") is None


@every_driver
def test_a_payload_of_six_mebibytes_goes_both_ways(world):
    instance = world.start()
    event = b'"' + b"x" * (6 * 1024 * 1024 - 2) + b'"'

    answer = instance.call(event)

    assert answer.payload == event


@every_driver
def test_close_ends_every_instance(world):
    instances = [world.start(), world.start()]

    world.run(world.driver.close())

    assert [len(instance.exits) for instance in instances] == [1, 1]
    with pytest.raises(PlatformError):
        world.begin(world.spec())


@every_driver
def test_a_frozen_instance_answers_once_it_is_thawed(world):
    instance = world.start()

    world.run(world.driver.freeze(instance.id))
    instance.post(1)
    world.run(world.driver.thaw(instance.id))

    assert instance.answer().value == 1


@every_driver
def test_preparing_and_forgetting_a_version_changes_no_answer(world):
    world.run(world.driver.prepare(world.spec()))
    instance = world.start()
    world.run(world.driver.forget(instance.spec.version.version_id))

    assert instance.call(1).value == 1
    assert world.start().call(2).value == 2


@every_driver
def test_stats_tell_what_an_instance_costs(world):
    instance = world.start()
    instance.call(1)

    stats = world.driver.stats(instance.id)

    assert stats is not None
    assert stats.memory_bytes > 100_000
    assert stats.processes == 1


@every_driver
def test_a_fingerprint_names_a_runtime(world):
    fingerprint = world.run(world.driver.fingerprint())

    assert fingerprint.healthy
    assert fingerprint.runtimes[0].startswith("python3.")


def test_an_unknown_driver_is_refused_with_the_names_there_are(tmp_path):
    config = msgspec.structs.replace(Driver(), name="vapour")
    with pytest.raises(ConfigError) as refused:
        create_driver(config, state_dir=str(tmp_path), node_config=Node())
    assert refused.value.allowed == ["process", "docker", "fake"]


# the process driver


@process_driver
def test_close_leaves_no_process_and_no_file(world):
    world.run(world.driver.prepare(world.spec(name="g")))
    for name in ("f", "g"):
        instance = world.start(
            "import tempfile\ndef main(p):\n    tempfile.mkdtemp()\n    return 1\n", name=name
        )
        assert instance.call().value == 1

    world.run(world.driver.close())

    assert marked(world) == set()
    assert list((world.state_dir / "instances").iterdir()) == []


SPAWNS = """
    import os, subprocess, sys

    def double_fork():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv("/bin/sleep", ["sleep", "600"])
            os._exit(0)
        os.wait()

    def main(payload):
        double_fork()
        child = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
        if payload == "die":
            os._exit(3)
        return child.pid
    """


def marked(world) -> set[int]:
    return processes.marked(world.driver._mark, world.driver._users.given())


def sleepers(world) -> list[int]:
    found = []
    for pid in marked(world):
        command = processes._read(f"/proc/{pid}/cmdline")
        if command.startswith((b"sleep", b"/bin/sleep")) and not processes._is_zombie(pid):
            found.append(pid)
    return found


@pytest.mark.parametrize("prepared", [False, True])
def test_stop_kills_daemons_that_a_function_started(world, prepared):
    spec = world.spec(SPAWNS)
    if prepared:
        world.run(world.driver.prepare(spec))
    instance = world.start(SPAWNS)
    instance.call()
    world.until(lambda: len(sleepers(world)) == 2)

    instance.stop()

    assert sleepers(world) == []


@pytest.mark.parametrize("prepared", [False, True])
def test_an_instance_that_dies_takes_its_daemons_with_it(world, prepared):
    if prepared:
        world.run(world.driver.prepare(world.spec(SPAWNS)))
    instance = world.start(SPAWNS)

    instance.post("die")
    how = instance.wait_exit()

    assert how.code == 3
    assert how.detail == "exited with status 3"
    assert sleepers(world) == []


def test_a_killed_base_zygote_is_replaced_and_its_instances_are_reported(world):
    instance = world.start(SPAWNS)
    instance.call()
    world.until(lambda: len(sleepers(world)) == 2)

    os.kill(world.driver._base.process.pid, signal.SIGKILL)
    how = instance.wait_exit()

    assert "forked it ended" in how.detail
    assert world.start().call(1).value == 1
    world.until(lambda: sleepers(world) == [], "daemons of a lost instance are killed")


def test_a_killed_function_zygote_ends_its_instances_and_is_made_again(world):
    world.run(world.driver.prepare(world.spec()))
    instance = world.start()
    zygote = processes._stat(instance.pid)[1]

    os.kill(int(zygote), signal.SIGKILL)
    instance.wait_exit()

    assert world.start().call(1).value == 1
    world.run(world.driver.prepare(world.spec()))
    assert len(world.driver._prepared) == 1
    assert world.start().call(2).value == 2


def test_dropping_a_function_zygote_spares_its_instances(world):
    world.run(world.driver.prepare(world.spec()))
    instance = world.start()

    world.run(world.driver.forget(instance.spec.version.version_id))

    assert instance.call(1).value == 1
    instance.stop()
    world.until(lambda: world.driver._zygotes == {})


def test_an_instance_dies_with_the_node(world, tmp_path):
    """A node killed by force cannot clean up: its zygotes notice and end everything."""
    script = tmp_path / "node.py"
    script.write_text(NODE)
    node = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "other")], stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    pids = json.loads(node.stdout.readline())
    assert len(pids) == 3
    assert not any(processes._is_zombie(pid) for pid in pids)

    node.kill()
    node.wait()
    node.stdout.close()

    world.until(lambda: all(processes._is_zombie(pid) for pid in pids))


NODE = """
import asyncio, json, os, sys
from pratai.config.schema import Driver, Node
from pratai.driver.base import InstanceSpec
from pratai.driver.registry import create_driver
from pratai.model.function import FunctionConfig, Version
from pratai.wire import frames

class Listener:
    def on_frame(self, instance_id, kind, meta, payload):
        if kind == frames.RESULT:
            print([driver._base.process.pid, *json.loads(payload)], flush=True)
        else:
            event = frames.EventMeta(request_id="r", deadline_ms=0)
            driver.send(instance_id, frames.encode(frames.EVENT, event, b"1"))
    def on_output(self, *_): pass
    def on_exit(self, *_): pass

async def main():
    root = sys.argv[1]
    os.makedirs(root + "/code")
    with open(root + "/code/main.py", "w") as file:
        file.write("import os, subprocess\\ndef main(p):\\n"
                   "    child = subprocess.Popen(['/bin/sleep', '600'], start_new_session=True)\\n"
                   "    return [os.getpid(), child.pid]\\n")
    version = Version(namespace="default", name="f", number=1, digest="", package_bytes=1, layer="",
                      config=FunctionConfig(handler="main:main"), created_at_ms=0)
    spec = InstanceSpec(instance_id="i", version=version, code_dir=root + "/code", layer_dir="",
                        environment={})
    await driver.open(Listener())
    await driver.start(spec)
    await asyncio.sleep(600)

driver = create_driver(Driver(), state_dir=sys.argv[1] + "/state", node_config=Node())
asyncio.run(main())
"""


def test_an_import_without_end_is_cut_off(world):
    instance = world.begin(
        world.spec("while True:\n    pass\n", init_timeout_ms=300, name="endless")
    )

    how = instance.wait_exit()

    assert how.detail == "its import took longer than 300 ms"


def test_preparing_an_import_without_end_gives_up_and_leaves_nothing(world):
    world.run(world.driver.prepare(world.spec("while True:\n    pass\n", init_timeout_ms=300)))

    assert len(world.driver._prepared) == 0
    world.until(lambda: world.driver._zygotes == {})
    world.until(lambda: len(marked(world)) == 1)


def test_a_stuck_zygote_does_not_keep_an_instance_alive(world):
    world.run(world.driver.prepare(world.spec()))
    instance = world.start()
    zygote = int(processes._stat(instance.pid)[1])
    os.kill(zygote, signal.SIGSTOP)

    began = time.monotonic()
    instance.stop()

    assert time.monotonic() - began < 10
    world.until(lambda: not Path(f"/proc/{zygote}").exists())


def test_many_instances_start_at_once(world):
    specs = [world.spec() for _ in range(40)]
    from_zygote = [world.spec(name="g") for _ in range(40)]
    world.run(world.driver.prepare(from_zygote[0]))

    async def begin_all() -> None:
        await asyncio.gather(*(world.driver.start(spec) for spec in specs + from_zygote))

    instances = [world.adopt(spec) for spec in specs + from_zygote]
    world.run(begin_all())

    assert {instance.wait_ready().kind for instance in instances} == {frames.READY}
    assert [instance.call(1).value for instance in instances] == [1] * 80


def test_the_least_recently_used_zygote_makes_room_and_its_instances_live_on(world):
    world.driver._prepared._max = 2
    world.run(world.driver.prepare(world.spec(name="a")))
    instance = world.start(name="a")

    for name in ("b", "c"):
        world.run(world.driver.prepare(world.spec(name=name)))

    assert len(world.driver._prepared) == 2
    assert world.driver._prepared.fitting(world.spec(name="a")) is None
    assert instance.call(1).value == 1


# the fake driver


@pytest.mark.parametrize("world", ["fake/asyncio"], indirect=True)
def test_the_fake_driver_follows_its_script(world):
    world.driver.script.crash_after = 2
    world.driver.script.run_ms = 1
    instance = world.start()
    assert instance.call(1).value == 1

    instance.post(2)
    assert instance.wait_exit().signal == 11

    world.driver.script.fail_ratio = 1.0
    assert world.begin(world.spec()).wait_exit().code == 1
    world.driver.script.refuse = True
    with pytest.raises(PlatformError):
        world.begin(world.spec())


@pytest.mark.parametrize("world", ["fake/asyncio"], indirect=True)
def test_the_fake_driver_hands_back_what_waits_behind_a_call(world):
    world.driver.script.run_ms = 50
    instance = world.start()
    instance.post("runs", request_id="r1")
    instance.post("waits", request_id="r2")

    world.do(lambda: world.driver.recall(instance.id))

    returned = instance.answer()
    assert (returned.kind, returned.meta["request_id"]) == (frames.RETURNED, "r2")
    assert instance.answer().value == "runs"
