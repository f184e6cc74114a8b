"""Handlers that fail in every way: each ends with its own named cause, and nothing stays behind."""

from __future__ import annotations

import os
import time

import pytest
from platform_process import PlatformProcess, descendants

#: {name: (source, status, code, words of the cause)}
FAILURES = {
    "exception": ("def main(p):\n    return 1 / 0\n", 502, "function_error", "division by zero"),
    "sys_exit": ("import sys\ndef main(p):\n    sys.exit(3)\n", 502, "exited", "3"),
    "os_exit": ("import os\ndef main(p):\n    os._exit(7)\n", 502, "exited", "7"),
    "segfault": (
        "import ctypes\ndef main(p):\n    ctypes.string_at(0)\n",
        502,
        "crashed",
        "SIGSEGV",
    ),
    "infinite_loop": ("def main(p):\n    while True:\n        pass\n", 504, "timed_out", "500 ms"),
    "oversleep": ("import time\ndef main(p):\n    time.sleep(60)\n", 504, "timed_out", "500 ms"),
    "huge_result": (
        "def main(p):\n    return 'x' * (100 << 20)\n",
        502,
        "result_too_large",
        "limit",
    ),
    "unserialisable": (
        "def main(p):\n    return object()\n",
        502,
        "result_unserialisable",
        "object",
    ),
    "import_error": (
        "import not_there\ndef main(p):\n    return 1\n",
        502,
        "import_error",
        "not_there",
    ),
}
GOOD = "def main(p):\n    return 'fine'\n"


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_has_its_own_cause(platform: PlatformProcess, name: str) -> None:
    source, status, code, words = FAILURES[name]
    platform.deploy(name, source, timeout_ms=500)

    answer = platform.invoke(name, {})

    assert answer.status == status, answer
    problem = answer.json()
    assert problem["code"] == code
    assert problem["next"]
    request_id = answer.headers["pratai-request-id"]
    why = _why(platform, request_id)
    assert why["fault"] == "function"
    assert words in why["cause"] + why["summary"], why
    assert why["next"]
    platform.deploy(name, GOOD)
    assert platform.invoke(name, {}).json() == "fine"


def _why(platform: PlatformProcess, request_id: str) -> dict[str, str]:
    limit = time.monotonic() + 5
    while True:
        answer = platform.request("GET", f"/v1/invocations/{request_id}/why")
        if answer.status == 200:
            return answer.json()
        assert time.monotonic() < limit, answer
        time.sleep(0.05)


def test_the_stack_shows_the_users_files_alone(platform: PlatformProcess) -> None:
    platform.deploy("deep", "def inner():\n    raise KeyError('lost')\ndef main(p):\n    inner()\n")
    problem = platform.invoke("deep", {}).json()
    assert problem["error_type"] == "KeyError"
    assert len(problem["stack"]) == 2
    assert all("main.py" in frame for frame in problem["stack"])


def test_a_missing_handler_is_refused_when_deployed(platform: PlatformProcess) -> None:
    answer = platform.request(
        "PUT",
        "/v1/functions/no_handler",
        fields={
            "config": ("c.json", b"{}", "application/json"),
            "package": ("main.py", b"def helper(a, b, c):\n    pass\n", "text/x-python"),
        },
    )
    assert answer.status == 400, answer
    assert answer.json()["field"] == "handler"


def test_a_flood_of_output_neither_stops_the_call_nor_is_kept_whole(
    platform: PlatformProcess,
) -> None:
    platform.deploy(
        "flood",
        "def main(p):\n"
        "    line = 'x' * 1023\n"
        "    for _ in range(100 * 1024):\n"
        "        print(line)\n"
        "    return 'done'\n",
    )
    answer = platform.invoke("flood", {})
    assert answer.json() == "done"
    request_id = answer.headers["pratai-request-id"]
    limit = time.monotonic() + 10
    while True:
        kept = platform.request("GET", f"/v1/invocations/{request_id}/logs").body
        if kept and b"bytes" in kept.splitlines()[-1]:
            break
        assert time.monotonic() < limit, kept[-500:]
        time.sleep(0.1)
    assert len(kept) < 8 << 20


def test_a_closed_stdout_breaks_nothing(platform: PlatformProcess) -> None:
    platform.deploy(
        "mute",
        "import os, sys\n"
        "def main(p):\n"
        "    sys.stdout.close()\n"
        "    os.close(1)\n"
        "    return 'still here'\n",
    )
    for _ in range(3):
        assert platform.invoke("mute", {}).json() == "still here"


def test_a_child_left_behind_ends_with_its_instance(platform: PlatformProcess) -> None:
    platform.deploy(
        "parent",
        "import os, subprocess, time\n"
        "def main(p):\n"
        "    child = subprocess.Popen(['sleep', '987654'], start_new_session=True)\n"
        "    if p == 'loop':\n"
        "        while True: pass\n"
        "    return child.pid\n",
        timeout_ms=500,
    )
    assert platform.invoke("parent", "loop").status == 504
    assert platform.process is not None
    limit = time.monotonic() + 5
    while _sleepers():
        assert time.monotonic() < limit, "a child outlived its instance"
        time.sleep(0.05)


def _sleepers() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    if b"987654" in file.read():
                        found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_instances_that_failed_are_replaced_and_none_is_left(own_platform: PlatformProcess) -> None:
    own_platform.start()
    own_platform.deploy("crash", "import os\ndef main(p):\n    os.kill(os.getpid(), p)\n")
    for number in (9, 11, 6):
        answer = own_platform.invoke("crash", number)
        assert answer.json()["code"] in ("crashed", "out_of_memory"), answer
    assert own_platform.process is not None
    pid = own_platform.process.pid
    own_platform.stop()
    assert descendants(pid) == []
    assert os.listdir(own_platform.data_dir)
