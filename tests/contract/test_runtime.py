"""The Python runtime in real instances: handlers, failures, logs, streams, isolation, recall."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
from pathlib import Path

import msgspec
import pytest
from tests.contract.conftest import World

from pratai.driver import processes
from pratai.driver.process import sandbox
from pratai.runtimes import catalog
from pratai.wire import frames

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives functions other users")


def load_runtime_module(name: str):
    """A module of the runtime under its private package name, as the bootstrap loads it."""
    folder = Path(catalog.default_runtime().bootstrap).parent
    if "_pratai_runtime_test" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "_pratai_runtime_test", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules["_pratai_runtime_test"] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"_pratai_runtime_test.{name}")


def needs_mounts(world) -> None:
    if not world.driver._walls.mounts:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("this machine permits no mount namespaces")


# the frames


def test_the_runtime_writes_the_same_bytes_as_the_node():
    theirs = load_runtime_module("frames")
    meta = {"request_id": "r1", "at_ms": 5}

    frame = theirs.encode(theirs.LOG, meta, b"text")

    assert list(frames.FrameReader(100).feed(frame)) == [
        (frames.LOG, b'{"request_id":"r1","at_ms":5}', b"text")
    ]
    assert theirs.HEAD.format == frames.HEAD.format
    kinds = [name for name in vars(frames) if name.isupper() and "_" not in name and name != "HEAD"]
    assert "RETURNED" in kinds
    for name in [*kinds, "INIT_ERROR"]:
        assert getattr(theirs, name) == getattr(frames, name)


# what handlers look like


@pytest.mark.parametrize(
    ("code", "handler", "expected"),
    [
        ("def main(payload):\n    return payload", "main:main", {"a": 1}),
        (
            "def handler(event, context):\n    return [event, context.attempt]",
            "main:handler",
            [{"a": 1}, 2],
        ),
        ("def handler(event, context):\n    return 5", "main.handler", 5),
        ("def main():\n    return 'none'", "main:main", "none"),
        ("def main(payload, times=3):\n    return times", "main:main", 3),
        ("def main(payload, context=None):\n    return context.attempt", "main:main", 2),
        ("async def main(payload):\n    return payload", "main:main", {"a": 1}),
        ("class C:\n    def __call__(self, e):\n        return 7\nmain = C()", "main:main", 7),
        ("class C:\n    @staticmethod\n    def go(e):\n        return 8", "main:C.go", 8),
        ("def only(event):\n    return 9", "", 9),
        ("main = lambda e: e['a']", "main:main", 1),
    ],
)
def test_a_handler_may_have_any_usual_shape(world, code, handler, expected):
    instance = world.start(code, handler=handler)

    assert instance.call({"a": 1}, attempt=2).value == expected
    assert instance.call({"a": 1}, attempt=2).value == expected


def test_a_package_with_folders_is_imported_and_its_files_read(world):
    instance = world.start(
        {
            "app/__init__.py": "",
            "app/entry.py": """
                from . import worker
                def main(payload):
                    return [worker.NAME, open("data.txt").read()]
                """,
            "app/worker.py": "NAME = 'mine'",
            "worker.py": "",
            "data.txt": "shipped",
        },
        handler="app.entry:main",
    )

    assert instance.call().value == ["mine", "shipped"]


def test_user_modules_may_be_named_like_those_of_the_runtime(world):
    instance = world.start(
        {
            "main.py": "import worker, records, frames, zygote\ndef main(p):\n    return worker.X",
            **{f"{name}.py": "X = 1" for name in ("worker", "records", "frames", "zygote")},
        }
    )

    assert instance.call().value == 1


def test_a_layer_is_importable_and_the_package_comes_first(world):
    instance = world.start(
        {
            "main.py": "import dep, both\ndef main(p):\n    return [dep.X, both.X]",
            "both.py": "X = 'own'",
        },
        layer={"dep.py": "X = 'layer'", "both.py": "X = 'layer'"},
    )

    assert instance.call().value == ["layer", "own"]


def test_the_context_has_the_names_of_aws_and_ours(world):
    instance = world.start(
        """
        def handler(event, context):
            return {
                "ids": [context.aws_request_id, context.request_id],
                "name": context.function_name,
                "version": context.function_version,
                "memory": context.memory_limit_in_mb,
                "left": context.get_remaining_time_in_millis(),
                "more": [context.idempotency_key, context.trigger, context.trace],
                "arn": context.invoked_function_arn,
                "log": context.log_stream_name,
            }
        """,
        handler="main:handler",
        name="hello",
        memory_mb=300,
    )

    value = instance.call(
        request_id="r9",
        deadline_ms=int(time.time() * 1000) + 5_000,
        idempotency_key="k",
        trigger="timer",
        trace="00-aa-bb-01",
    ).value

    assert value["ids"] == ["r9", "r9"]
    assert (value["name"], value["version"], value["memory"]) == ("hello", "1", 300)
    assert 0 < value["left"] <= 5_000
    assert value["more"] == ["k", "timer", "00-aa-bb-01"]
    assert value["arn"].endswith("function:hello:1")
    assert value["log"] == instance.id


# events and results


@pytest.mark.parametrize(
    ("content_type", "payload", "expected"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/json; charset=utf-8", b"1", 1),
        ("application/cloudevents+json", b'"x"', "x"),
        ("application/json", b"", None),
        ("text/plain", b"hi", "b'hi'"),
        ("application/octet-stream", b"\xff", "b'\\xff'"),
    ],
)
def test_json_events_are_decoded_and_others_arrive_as_bytes(world, content_type, payload, expected):
    instance = world.start("def main(p):\n    return repr(p) if isinstance(p, bytes) else p")

    assert instance.call(payload, content_type=content_type).value == expected


def test_an_event_that_is_not_json_is_an_error_of_its_own(world):
    instance = world.start()

    assert instance.call(b"{").failure["code"] == "event_unreadable"
    assert instance.call(1).value == 1


def test_bytes_are_returned_as_they_are(world):
    answer = world.start("def main(p):\n    return bytes([0, 255])").call()

    assert answer.payload == b"\x00\xff"
    assert answer.meta["content_type"] == "application/octet-stream"


def test_text_beyond_ascii_is_returned_as_utf8(world):
    assert world.start("def main(p):\n    return 'ä€'").call().payload == '"ä€"'.encode()


@pytest.mark.parametrize(
    ("returned", "named"),
    [("{1}", "set"), ("object()", "object"), ("{'a': {2}}", "set"), ("float('nan')", "float")],
)
def test_a_result_that_is_not_json_names_its_type(world, returned, named):
    instance = world.start(f"def main(p):\n    return {returned} if p else 1")

    failure = instance.call(1).failure

    assert failure["code"] == "result_unserialisable"
    assert named in failure["message"]
    assert instance.call(0).value == 1


def test_a_result_beyond_its_limit_names_both_sizes(world):
    instance = world.start(
        "def main(p):\n    return b'x' * p if p < 5000 else 'x' * p", result_bytes_max=1000
    )

    for size in (1001, 100_000_000 // 4):
        failure = instance.call(size).failure
        assert failure["code"] == "result_too_large"
        assert str(size) in failure["message"]
        assert "1000" in failure["message"]
    assert instance.call(10).payload == b"x" * 10


# failures

NOT_JSON = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"


def test_an_exception_comes_with_type_message_and_the_users_own_frames(world):
    instance = world.start(
        """
        import json
        def inner(p):
            try:
                return json.loads("{")
            except ValueError as error:
                raise KeyError("gone") from error
        def main(p):
            return inner(p) if p else 1
        """
    )

    failure = instance.call(1).failure

    assert failure["code"] == "function_error"
    assert (failure["type"], failure["message"]) == ("KeyError", "'gone'")
    assert failure["stack"] == [
        'File "main.py", line 9, in main: return inner(p) if p else 1',
        'File "main.py", line 7, in inner: raise KeyError("gone") from error',
        f"caused by JSONDecodeError: {NOT_JSON}",
        'File "main.py", line 5, in inner: return json.loads("{")',
    ]
    assert instance.call(0).value == 1


def test_sys_exit_in_a_handler_is_an_error_and_the_instance_lives(world):
    instance = world.start("import sys\ndef main(p):\n    sys.exit(p) if p else None\n    return 1")

    failure = instance.call(3).failure

    assert failure["code"] == "exited"
    assert failure["message"] == "the handler called sys.exit(3)"
    assert instance.call(0).value == 1


@pytest.mark.parametrize(
    ("code", "exit_code", "number", "detail"),
    [
        ("import os\ndef main(p):\n    os._exit(7)", 7, None, "exited with status 7"),
        (
            "import ctypes\ndef main(p):\n    ctypes.string_at(0)",
            None,
            11,
            "killed by SIGSEGV (segmentation fault)",
        ),
        ("import os\ndef main(p):\n    os.abort()", None, 6, "killed by SIGABRT (aborted)"),
    ],
)
def test_a_process_that_dies_in_a_call_is_told_by_how_it_died(
    world, code, exit_code, number, detail
):
    instance = world.start(code)

    instance.post()
    how = instance.wait_exit()

    assert (how.code, how.signal, how.detail) == (exit_code, number, detail)


@pytest.mark.parametrize(
    ("code", "kind", "last"),
    [
        (
            "import nothing_like_it",
            "ModuleNotFoundError",
            "line 1, in <module>: import nothing_like_it",
        ),
        ("def main(p)\n    return 1", "SyntaxError", 'File "main.py", line 1: def main(p)'),
        ("1 / 0", "ZeroDivisionError", 'File "main.py", line 1, in <module>: 1 / 0'),
        ("import sys\nsys.exit(2)", "SystemExit", "line 2, in <module>: sys.exit(2)"),
    ],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_a_module_that_cannot_be_imported_says_why(world, code, kind, last, prepared):
    spec = world.spec(code)
    if prepared:
        world.run(world.driver.prepare(spec))
    instance = world.begin(spec)

    answer = instance.wait_ready()

    assert answer.kind == frames.INIT_ERROR
    assert (answer.meta["code"], answer.meta["type"]) == ("import_error", kind)
    assert answer.meta["stack"][-1].endswith(last)
    assert instance.wait_exit().code == 0


def test_a_missing_handler_lists_the_functions_there_are(world):
    instance = world.begin(world.spec("def other(p):\n    pass\nimport json", handler="main:main"))

    answer = instance.wait_ready()

    assert answer.meta["code"] == "handler_missing"
    assert "main:other" in answer.meta["message"]
    assert "json" not in answer.meta["message"]


@pytest.mark.parametrize(
    "misdeed",
    [
        "sys.stdout.close()",
        "os.close(1)",
        "os.closerange(0, 3)",
        "os.closerange(3, 256)",
        "sys.stdout.buffer.close()",
    ],
)
def test_closed_descriptors_break_neither_this_call_nor_later_ones(world, misdeed):
    instance = world.start(
        f"import os, sys\ndef main(p):\n    {misdeed}\n    print('said')\n    return 1"
    )

    for _ in range(2):
        answer = instance.call()
        assert answer.value == 1
        assert answer.logs == [("STDOUT", "said")]


def test_a_forked_child_that_returns_from_the_handler_does_not_answer(world):
    instance = world.start(
        """
        import os
        def main(p):
            pid = os.fork()
            if pid == 0:
                print("from the child")
                if p == "raise":
                    raise ValueError("child")
                return "child"
            os.waitpid(pid, 0)
            return "parent"
        """
    )

    assert instance.call().value == "parent"
    assert instance.call("raise").value == "parent"
    assert instance.call().value == "parent"
    world.until(lambda: len(instance.output) == 3)
    assert instance.output[0] == ("stdout", "from the child\n")


def test_threads_left_behind_live_as_long_as_the_instance(world):
    instance = world.start(
        """
        import threading, time
        ticks = []
        def tick():
            while True:
                ticks.append(1)
                time.sleep(0.001)
        def main(p):
            if p:
                threading.Thread(target=tick).start()
            return len(ticks)
        """
    )
    instance.call(1)

    assert any(instance.call(0).value > 3 for _ in range(2_000))
    pid = instance.pid
    instance.stop()

    assert processes._is_zombie(pid)


def test_a_runaway_allocation_is_a_memory_error_of_the_call(world):
    instance = world.start("def main(p):\n    return len(bytearray(p << 20))", memory_mb=128)

    failure = instance.call(2_000).failure

    assert failure["type"] == "MemoryError"
    assert instance.call(50).value == 50 << 20


# streams


def test_a_generator_streams_its_parts_and_the_first_goes_out_at_once(world):
    instance = world.start(
        """
        import time
        def main(p):
            yield "one"
            while not p or p["hold"]:
                time.sleep(0.01)
            yield b"two"
            yield {"three": 3}
        """
    )

    answer = instance.call({"hold": 0})

    assert [data for _, data in answer.chunks] == [b"one", b"two", b'{"three":3}\n']
    assert answer.chunks[0][0] == "text/plain; charset=utf-8"
    assert answer.meta["streamed"] is True
    assert answer.payload == b""
    instance.post({"hold": 1})
    assert instance.next()[1][0] == frames.CHUNK


def test_an_async_generator_streams_too(world):
    instance = world.start(
        """
        import asyncio
        async def main(p):
            for number in range(3):
                await asyncio.sleep(0)
                yield {"n": number}
        """
    )

    answer = instance.call()

    assert answer.chunks[0] == ("application/x-ndjson", b'{"n":0}\n')
    assert len(answer.chunks) == 3


def test_a_generator_that_fails_midway_ends_with_an_error_after_its_chunks(world):
    instance = world.start("def main(p):\n    yield 'a'\n    1 / 0")

    answer = instance.call()

    assert [data for _, data in answer.chunks] == [b"a"]
    assert answer.failure["type"] == "ZeroDivisionError"


def test_async_handlers_share_one_event_loop(world):
    instance = world.start(
        """
        import asyncio
        async def main(p):
            await asyncio.sleep(0)
            return id(asyncio.get_running_loop())
        """
    )

    assert instance.call().value == instance.call().value


# logs


def test_print_logging_and_tracebacks_are_records_of_the_call(world):
    instance = world.start(
        """
        import logging, sys, traceback
        def main(p):
            print("two\\nlines")
            print("to stderr", file=sys.stderr)
            logging.info("info")
            logging.getLogger("x").warning("warned %s", 1)
            try:
                1 / 0
            except ZeroDivisionError:
                logging.exception("failed")
                traceback.print_exc()
            sys.stdout.write("no end")
        """
    )

    logs = instance.call().logs

    assert logs[:4] == [
        ("STDOUT", "two\nlines"),
        ("STDERR", "to stderr"),
        ("INFO", "info"),
        ("WARNING", "warned 1"),
    ]
    assert [level for level, _ in logs[4:]] == ["ERROR", "STDERR", "STDOUT"]
    assert logs[4][1].startswith("failed\nTraceback")
    assert logs[5][1].startswith("Traceback")
    assert logs[5][1].endswith("ZeroDivisionError: division by zero")
    assert logs[6] == ("STDOUT", "no end")


def test_basic_config_sets_level_and_format(world):
    instance = world.start(
        """
        import logging
        logging.basicConfig(level=logging.DEBUG, format="<%(levelname)s %(message)s>")
        def main(p):
            logging.debug("deep")
        """
    )

    assert instance.call().logs == [("DEBUG", "<DEBUG deep>")]


@pytest.mark.parametrize("prepared", [False, True])
def test_what_is_printed_during_import_comes_before_ready(world, prepared):
    code = "print('importing')\ndef main(p):\n    return 1"
    if prepared:
        world.run(world.driver.prepare(world.spec(code)))

    instance = world.start(code)

    assert instance.init_logs == [("STDOUT", "importing")]


def test_logs_of_a_call_carry_its_request_id_and_time(world):
    instance = world.start("def main(p):\n    print('x')")
    instance.post(request_id="r7")

    kind, meta, _ = instance.next()[1]

    assert (kind, meta["request_id"]) == (frames.LOG, "r7")
    assert abs(meta["at_ms"] - time.time() * 1000) < 60_000


def test_logs_beyond_the_limit_are_cut_and_counted(world):
    instance = world.start(
        "def main(p):\n    for _ in range(p):\n        print('x' * 99)", log_bytes_max=1000
    )

    logs = instance.call(100).logs

    assert sum(len(text) for level, text in logs if level == "STDOUT") == 1000
    assert logs[-1] == (
        "WARNING",
        f"{99 * 100 - 1000} bytes of log were cut: the limit is 1000 bytes",
    )
    assert len(instance.call(1).logs) == 1


def test_logs_of_a_slow_call_arrive_while_it_runs(world):
    instance = world.start(
        """
        import time
        def main(p):
            print("early")
            time.sleep(600)
        """
    )
    instance.post()

    assert instance.next()[1][2] == b"early"


def test_what_programs_write_arrives_as_output(world):
    instance = world.start(
        """
        import subprocess, sys
        def main(p):
            subprocess.run(["/bin/echo", "out"], check=True)
            subprocess.run(["/bin/sh", "-c", "echo err >&2"], check=True)
            return sys.stdout.isatty()
        """
    )

    assert instance.call().value is False
    world.until(lambda: len(instance.output) == 2)
    assert sorted(instance.output) == [("stderr", "err\n"), ("stdout", "out\n")]


def test_a_flood_of_output_neither_blocks_nor_floods_the_node(world):
    instance = world.start(
        """
        import os
        def main(p):
            for _ in range(400):
                os.write(1, b"x" * 10000)
            return 1
        """
    )

    assert instance.call().value == 1
    instance.stop()
    assert sum(len(text) for _, text in instance.output) <= 3 * 1024 * 1024


# the sandbox


PEEK = """
    import os
    def main(p):
        return {
            "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
            "env": dict(os.environ), "fds": os.listdir("/proc/self/fd"),
            "caps": [l for l in open("/proc/self/status") if l.startswith(("Cap", "NoNew"))],
            "cwd": os.getcwd(), "tmp": os.listdir("/tmp"),
        }
    """


@as_root
@pytest.mark.parametrize("prepared", [False, True])
def test_a_function_is_nobody_and_can_gain_nothing(world, prepared):
    if prepared:
        world.run(world.driver.prepare(world.spec(PEEK)))
    seen = world.start(PEEK).call().value

    assert seen["uid"] >= 600_000
    assert seen["gid"] == seen["uid"]
    assert "NoNewPrivs:\t1\n" in seen["caps"]
    assert "CapEff:\t0000000000000000\n" in seen["caps"]
    assert "CapPrm:\t0000000000000000\n" in seen["caps"]


@as_root
def test_versions_run_under_users_of_their_own(world):
    uids = [world.start(PEEK, name=name).call().value["uid"] for name in ("f", "g", "f")]

    assert uids[0] == uids[2] != uids[1]


def test_the_environment_is_the_functions_own(world, monkeypatch):
    monkeypatch.setenv("PRATAI_SECRET_OF_THE_NODE", "x")
    seen = world.start(PEEK, environment={"MINE": "1", "HOME": "/h"}).call().value

    assert seen["env"]["MINE"] == "1"
    assert seen["env"]["HOME"] == "/h"
    assert "PRATAI_SECRET_OF_THE_NODE" not in seen["env"]
    assert not any("pyenv" in value or ".venv" in value for value in seen["env"].values())


def test_an_environment_of_any_size_is_passed(world):
    big = "x" * 500_000
    instance = world.start(
        "import os\ndef main(p):\n    return len(os.environ['BIG'])", environment={"BIG": big}
    )

    assert instance.call().value == len(big)


def test_a_function_without_network_sees_no_interface_but_its_own(world):
    needs_mounts(world)
    code = """
        import socket
        def main(port):
            names = [name for _, name in socket.if_nameindex()]
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return names, "connected"
            except OSError as error:
                return names, type(error).__name__
        """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert world.start(code).call(port).value[1] == "connected"
        names, outcome = world.start(code, network="none").call(port).value
    assert names == ["lo"]
    assert outcome != "connected"


@pytest.mark.parametrize("prepared", [False, True])
def test_tmp_is_private_to_an_instance_and_removed_with_it(world, prepared):
    needs_mounts(world)
    code = """
        import os, tempfile
        def main(p):
            if p:
                open("/tmp/" + p, "w").write(p)
                with tempfile.NamedTemporaryFile(delete=False) as file:
                    file.write(b"x")
            return sorted(os.listdir("/tmp"))
        """
    if prepared:
        world.run(world.driver.prepare(world.spec(code)))
    one, two = world.start(code), world.start(code)

    assert "a" in one.call("a").value
    assert two.call("").value == []
    one.stop()
    folder = world.state_dir / "instances" / one.id
    world.until(lambda: not folder.exists())
    assert not Path("/tmp/a").exists()


@pytest.mark.parametrize("prepared", [False, True])
def test_siblings_cannot_find_each_others_files(world, prepared):
    needs_mounts(world)
    code = """
        import os
        def main(p):
            open("/tmp/secret", "w").write("x")
            found = []
            for top in ("/mnt", "/tmp", "/media", "/srv"):
                for folder, _, files in os.walk(top):
                    found += [os.path.join(folder, f) for f in files if f == "secret"]
            return found
        """
    if prepared:
        world.run(world.driver.prepare(world.spec(code)))
    one, two = world.start(code), world.start(code)
    one.call()

    assert two.call().value == ["/tmp/secret"]


@pytest.mark.parametrize("prepared", [False, True])
def test_code_cannot_be_changed_by_the_function(world, prepared):
    needs_mounts(world)
    code = """
        import os
        def main(p):
            try:
                open("main.py", "a").write("#")
            except OSError as error:
                return type(error).__name__
        """
    spec = world.spec(code)
    if prepared:
        world.run(world.driver.prepare(spec))
    os.chmod(spec.code_dir, 0o777)
    os.chmod(spec.code_dir + "/main.py", 0o666)

    assert world.start(code).call().value in ("OSError", "PermissionError")


def test_a_data_directory_that_only_root_may_enter_is_no_obstacle(world):
    os.chmod(world.root, 0o700)
    code = "import os, colorsys\ndef main(p):\n    return os.listdir('.')"
    assert world.start(code).call().value == ["main.py"]
    world.run(world.driver.prepare(world.spec(code)))
    assert world.start(code).call().value == ["main.py"]


def test_instances_hold_only_their_own_descriptors(world):
    world.start()
    seen = world.start(PEEK).call().value

    assert sorted(map(int, seen["fds"]))[:3] == [0, 1, 2]
    # channel, two spares, and the listing itself
    assert len(seen["fds"]) == 7


def test_programs_do_not_inherit_the_channel(world):
    instance = world.start(
        """
        import subprocess
        def main(p):
            ran = subprocess.run(["/bin/ls", "/proc/self/fd"], close_fds=False, capture_output=True)
            return ran.stdout.decode().split()
        """
    )

    assert instance.call().value == ["0", "1", "2", "3"]


# zygotes


def made_by_zygote(world, instance) -> bool:
    return int(processes._stat(instance.pid)[1]) != world.driver._base.process.pid


def test_a_prepared_version_is_forked_with_its_module_imported(world):
    code = (
        "print('once')\ncount = 0\ndef main(p):\n    global count\n    count += 1\n    return count"
    )
    world.run(world.driver.prepare(world.spec(code)))

    one, two = world.start(code), world.start(code)

    assert made_by_zygote(world, one)
    assert [one.call().value, one.call().value, two.call().value] == [1, 2, 1]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
            "threads",
        ),
        ("import socket\ns = socket.socket()", "open files"),
        ("import subprocess\nsubprocess.Popen(['/bin/sleep', '600'])", "processes"),
        ("import os\nopen(os.environ['TMPDIR'] + '/cache', 'w').close()", "/tmp"),
        ("1 / 0", "import_error"),
    ],
)
def test_a_module_that_may_not_be_forked_is_imported_by_each_instance(world, code, reason):
    code += "\ndef main(p):\n    return 1"
    spec = world.spec(code)

    world.run(world.driver.prepare(spec))

    assert any(reason in why for why in world.driver._prepared.unfit.values())
    world.until(lambda: world.driver._zygotes == {})
    if "1 / 0" not in code:
        instance = world.start(code)
        assert not made_by_zygote(world, instance)
        assert instance.call().value == 1


def test_another_environment_is_not_forked_from_the_prepared_one(world):
    code = "import os\nA = os.environ.get('A')\ndef main(p):\n    return A"
    world.run(world.driver.prepare(world.spec(code, environment={"A": "1"})))

    assert world.start(code, environment={"A": "2"}).call().value == "2"
    assert world.start(code, environment={"A": "1"}).call().value == "1"


def test_siblings_draw_different_random_numbers(world):
    code = "import random\nrandom.seed(1)\ndef main(p):\n    return random.random()"
    world.run(world.driver.prepare(world.spec(code)))

    drawn = {world.start(code).call().value for _ in range(4)}

    assert len(drawn) == 4


def test_exit_functions_run_when_an_instance_is_asked_to_end(world):
    instance = world.start(
        "import atexit\natexit.register(print, 'bye')\ndef main(p):\n    return 1"
    )

    world.run(world.driver.stop(instance.id, 5_000))
    kind, _, payload = instance.next()[1]

    assert (kind, payload) == (frames.LOG, b"bye")
    assert instance.wait_exit().code == 0


# recall


def recall(world, instance) -> None:
    world.do(lambda: world.driver.recall(instance.id))


def test_events_waiting_behind_a_long_call_are_handed_back_and_never_run(world):
    instance = world.start(
        """
        import time
        ran = []
        def main(p):
            ran.append(p)
            if p == "long":
                print("begun")
                time.sleep(0.5)
            return ran
        """
    )
    instance.post("long", request_id="r1")
    instance.post("two", request_id="r2")
    instance.post("three", request_id="r3")
    assert instance.next()[1][2] == b"begun"

    recall(world, instance)

    returned = [instance.answer() for _ in range(2)]
    assert [(a.kind, a.meta["request_id"]) for a in returned] == [
        (frames.RETURNED, "r2"),
        (frames.RETURNED, "r3"),
    ]
    assert instance.answer().value == ["long"]
    assert instance.call("four").value == ["long", "four"]


def test_a_recall_of_an_idle_instance_changes_nothing(world):
    instance = world.start()
    recall(world, instance)

    assert instance.call(1).value == 1


def test_every_event_is_answered_or_returned_exactly_once_under_recalls(world):
    instance = world.start(
        "import time\ndef main(p):\n    print('x' * 200)\n    time.sleep(0.001)\n    return p"
    )
    ids = [f"r{number}" for number in range(200)]
    for request_id in ids:
        instance.post(request_id, request_id=request_id)
        recall(world, instance)

    settled = []
    for _ in ids:
        answer = instance.answer()
        returned = answer.kind == frames.RETURNED
        settled.append(answer.meta["request_id"] if returned else answer.value)

    assert sorted(settled) == sorted(ids)
    assert instance.call("end").value == "end"


def test_a_partly_arrived_event_stays_whole_under_a_recall(world):
    instance = world.start(
        "import time\ndef main(p):\n    print('begun')\n    time.sleep(0.5)\n    return len(p)"
    )
    instance.post("x", request_id="r1")
    big = frames.encode(
        frames.EVENT,
        frames.EventMeta(request_id="r2", deadline_ms=0),
        b'"' + b"y" * 1_000_000 + b'"',
    )
    world.do(lambda: world.driver.send(instance.id, big[:500_000]))
    assert instance.next()[1][2] == b"begun"

    recall(world, instance)
    world.do(lambda: world.driver.send(instance.id, big[500_000:]))

    assert instance.answer().value == 1
    second = instance.answer()  # it ran, or none of it had arrived and it was given back whole
    if second.kind == frames.RETURNED:
        assert second.meta["request_id"] == "r2"
    else:
        assert second.value == 1_000_000
    instance.post("zz", request_id="r3")
    assert instance.answer().value == 2


# the catalog


def test_the_catalog_lists_the_interpreter_of_this_machine():
    runtime = catalog.default_runtime()

    assert runtime.name == f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert catalog.find_runtime(runtime.name) == runtime
    assert catalog.find_runtime("cobol") is None
    assert Path(runtime.bootstrap).is_file()


# where the machine permits less


@as_root
def test_without_user_namespaces_instances_still_have_a_private_tmp(world):
    needs_mounts(world)
    world.driver._walls = msgspec.structs.replace(world.driver._walls, mounts="root")
    code = "import os\ndef main(p):\n    open('/tmp/x', 'w')\n    return os.listdir('/tmp')"
    world.run(world.driver.prepare(world.spec(code)))

    one, two = world.start(code), world.start(code)

    assert [one.call().value, two.call().value] == [["x"], ["x"]]
    assert not made_by_zygote(world, one)


@as_root
def test_without_mount_namespaces_functions_read_what_only_root_could_walk_to(
    tmp_path, monkeypatch
):
    walls = msgspec.structs.replace(sandbox.probe(), mounts="")
    monkeypatch.setattr(sandbox, "probe", lambda: walls)
    os.chmod(tmp_path, 0o700)
    world = World("process", "asyncio", tmp_path)
    code = """
        import colorsys, dep, os, pathlib, tempfile
        def main(p):
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"x")
            here = pathlib.Path(__file__).resolve().parent
            return [os.getuid(), (here / "data.txt").read_text(), dep.X]
        """
    files = {"main.py": code, "data.txt": "shipped"}
    try:
        plain = world.start(files, layer={"dep.py": "X = 1"})
        world.run(world.driver.prepare(world.spec(files, layer={"dep.py": "X = 1"})))
        forked = world.start(files, layer={"dep.py": "X = 1"})

        assert plain.call().value == forked.call().value
        assert plain.call().value[0] >= 600_000
        assert plain.call().value[1:] == ["shipped", 1]
        assert made_by_zygote(world, forked)
    finally:
        world.close()
    assert not os.path.exists(world.driver._reachable.root)
