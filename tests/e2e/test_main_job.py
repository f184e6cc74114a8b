"""The main job on one machine: deploy, call, wait, read back, understand."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

from platform_process import PlatformProcess

ECHO = "def main(payload):\n    return {'got': payload}\n"


def test_a_deployed_function_answers_and_says_how(platform: PlatformProcess) -> None:
    deployed = platform.deploy("echo", ECHO)
    assert deployed["version"] == "1"
    assert deployed["handler"] == "main:main"

    answer = platform.invoke("echo", {"a": 1})

    assert answer.status == 200
    assert answer.json() == {"got": {"a": 1}}
    assert answer.headers["pratai-outcome"] == "succeeded"
    assert answer.headers["pratai-start-kind"] == "cold"
    assert {"queue", "start", "run"} == {
        part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")
    }
    assert platform.invoke("echo", 2).headers["pratai-start-kind"] == "warm"


def test_an_async_event_is_kept_run_and_read_back(platform: PlatformProcess) -> None:
    platform.deploy("echo", ECHO)
    answer = platform.invoke("echo", {"n": 7}, prefer="respond-async")
    assert answer.status == 202
    location = answer.headers["location"]
    assert location == f"/v1/invocations/{answer.json()['request_id']}"

    done = platform.wait_done(answer.json()["request_id"])

    assert done["outcome"] == "succeeded"
    assert done["event"] == {"n": 7}
    assert done["result"] == {"got": {"n": 7}}
    names = [mark["name"] for mark in done["timeline"]]
    assert [name for name in names if name != "queued"] == [
        "accepted",
        "placed",
        "started",
        "ran",
        "answered",
    ]
    result = platform.request("GET", f"{location}/result")
    assert result.status == 200
    assert result.json() == {"got": {"n": 7}}


def test_an_idempotency_key_runs_an_async_event_once(platform: PlatformProcess) -> None:
    platform.deploy("echo", ECHO)
    first = platform.invoke_async("echo", 1, idempotency_key="order-1")
    assert platform.invoke_async("echo", 1, idempotency_key="order-1") == first
    other = platform.invoke("echo", 2, prefer="respond-async", idempotency_key="order-1")
    assert other.status == 409
    assert other.json()["code"] == "idempotency_key_reused"


def test_an_idempotency_key_runs_a_sync_call_once(platform: PlatformProcess) -> None:
    platform.deploy(
        "unique",
        "import time, uuid\ndef main(payload):\n    time.sleep(0.1)\n    return str(uuid.uuid4())\n",
    )
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: platform.invoke("unique", 0, idempotency_key="k1"), range(4))
        )
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    again = platform.invoke("unique", 0, idempotency_key="k1")
    assert again.body == answers[0].body
    assert platform.invoke("unique", 0).body != answers[0].body


def test_any_content_type_arrives_as_it_was_sent(platform: PlatformProcess) -> None:
    platform.deploy(
        "size",
        "def main(payload):\n    return {'type': type(payload).__name__, 'size': len(payload)}\n",
    )
    blob = bytes(range(256)) * 4096
    answer = platform.invoke("size", blob, content_type="image/png")
    assert answer.json() == {"type": "bytes", "size": len(blob)}


def test_bytes_come_back_as_bytes(platform: PlatformProcess) -> None:
    platform.deploy("raw", "def main(payload):\n    return b'\\x00\\xff' * 10\n")
    answer = platform.invoke("raw", {})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.body == b"\x00\xff" * 10


def test_a_generator_streams_its_first_byte_before_its_end(platform: PlatformProcess) -> None:
    platform.deploy(
        "slow_stream",
        "import time\ndef main(payload):\n    for n in range(3):\n        yield f'{n}\\n'\n        time.sleep(0.4)\n",
    )
    platform.invoke("slow_stream", {})
    began = time.monotonic()
    response = platform.pool.request(
        "POST",
        f"{platform.url}/v1/functions/slow_stream/invocations",
        body=b"{}",
        headers={"authorization": f"Bearer {platform.key}", "content-type": "application/json"},
        preload_content=False,
    )
    first = response.read1(10)
    first_s = time.monotonic() - began
    rest = response.read()
    whole_s = time.monotonic() - began
    assert first + rest == b"0\n1\n2\n"
    assert first_s < whole_s / 2
    assert response.headers["transfer-encoding"] == "chunked"


def test_a_folder_with_dependencies_runs_and_costs_nothing_the_second_time(
    platform: PlatformProcess,
) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("main.py", "import six\ndef main(payload):\n    return six.__version__\n")
        package.writestr("requirements.txt", "six==1.16.0\n")
    first = platform.deploy("with_six", archive.getvalue())
    assert first["layer"]
    assert platform.invoke("with_six", {}).json() == "1.16.0"
    began = time.monotonic()
    second = platform.deploy("with_six_too", archive.getvalue())
    assert second["layer"] == first["layer"]
    assert time.monotonic() - began < 2


def test_logs_are_kept_by_invocation_with_their_levels(platform: PlatformProcess) -> None:
    platform.deploy(
        "talker",
        "import logging\n"
        "def main(payload):\n"
        "    print('one line')\n"
        "    logging.getLogger('shop').warning('two\\nlines')\n"
        "    return 1\n",
    )
    request_id = platform.invoke("talker", {}).headers["pratai-request-id"]
    limit = time.monotonic() + 5
    records: list[dict[str, object]] = []
    while len(records) < 2 and time.monotonic() < limit:
        answer = platform.request("GET", f"/v1/invocations/{request_id}/logs")
        records = [json.loads(line) for line in answer.body.splitlines() if line]
        time.sleep(0.05)
    assert [(record["level"], record["text"]) for record in records] == [
        ("STDOUT", "one line"),
        ("WARNING", "two\nlines"),
    ]
    assert {record["request_id"] for record in records} == {request_id}


def test_a_call_is_read_back_as_soon_as_it_is_answered(platform: PlatformProcess) -> None:
    platform.deploy(
        "said", "def main(payload):\n    print('hello')\n    raise ValueError(payload)\n"
    )
    for number in range(5):
        answer = platform.invoke("said", number)
        request_id = answer.headers["pratai-request-id"]
        assert platform.invocation(request_id)["failure"]["error_message"] == str(number)
        why = platform.request("GET", f"/v1/invocations/{request_id}/why")
        assert why.json()["fault"] == "function"
        logs = platform.request("GET", f"/v1/invocations/{request_id}/logs").body
        assert b"hello" in logs


def test_history_is_found_by_words_in_events_and_results(platform: PlatformProcess) -> None:
    platform.deploy("echo", ECHO)
    request_id = platform.invoke("echo", {"note": "zanzibar orchid"}).headers["pratai-request-id"]
    limit = time.monotonic() + 5
    found: list[str] = []
    while not found and time.monotonic() < limit:
        page = platform.request("GET", "/v1/invocations?search=zanzibar").json()
        found = [item["request_id"] for item in page["items"]]
        time.sleep(0.1)
    assert found == [request_id]


def test_concurrency_max_holds_and_a_caller_that_hangs_up_frees_its_place(
    platform: PlatformProcess,
) -> None:
    platform.deploy(
        "single",
        "import time\ndef main(payload):\n    time.sleep(payload)\n    return 'done'\n",
        concurrency_max=1,
    )
    platform.invoke("single", 0)
    leaver = threading.Thread(target=_call_and_hang_up, args=(platform, "single", b"20", 0.5))
    leaver.start()
    time.sleep(0.2)
    began = time.monotonic()
    answer = platform.invoke("single", 0)
    leaver.join()
    assert answer.status == 200
    assert time.monotonic() - began < 5


def _call_and_hang_up(platform: PlatformProcess, name: str, body: bytes, after_s: float) -> None:
    import socket

    host, port = platform.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /v1/functions/{name}/invocations HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {platform.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        time.sleep(after_s)


def test_async_failures_are_retried_then_kept_as_dead_letters_and_replayed(
    platform: PlatformProcess,
) -> None:
    platform.deploy(
        "flaky",
        "def main(payload, ):\n    raise ValueError(f'no {payload}')\n",
        retries=2,
        retry_backoff_ms=10,
    )
    request_id = platform.invoke_async("flaky", "luck")
    done = platform.wait_done(request_id)
    assert done["outcome"] == "failed"
    assert done["attempt"] == 3
    assert done["dead"] is True
    letters = platform.request("GET", "/v1/dead-letters?function=flaky").json()["items"]
    assert [letter["request_id"] for letter in letters] == [request_id]

    platform.deploy("flaky", "def main(payload):\n    return f'now {payload}'\n")
    replayed = platform.request("POST", f"/v1/dead-letters/{request_id}/replay")
    assert replayed.status == 202, replayed
    again = platform.wait_done(replayed.json()["request_id"])
    assert again["result"] == "now luck"
    assert again["replay_of"] == request_id


def test_a_deadline_is_one_from_end_to_end(platform: PlatformProcess) -> None:
    platform.deploy("sleeper", "import time\ndef main(payload):\n    time.sleep(30)\n")
    began = time.monotonic()
    answer = platform.invoke("sleeper", {}, pratai_timeout_ms="300")
    took_s = time.monotonic() - began
    assert answer.status == 504
    assert answer.json()["code"] == "timed_out"
    assert 0.25 < took_s < 2


def test_versions_aliases_and_rollback(platform: PlatformProcess) -> None:
    for number in (1, 2):
        platform.deploy("evolving", f"def main(payload):\n    return {number}\n")
    assert platform.invoke("evolving").json() == 2
    alias = platform.request(
        "PUT",
        "/v1/functions/evolving/aliases/live",
        body=json.dumps({"version": "1"}).encode(),
        headers={"content-type": "application/json"},
    )
    assert alias.status in (200, 201), alias
    by_alias = platform.request(
        "POST",
        "/v1/functions/evolving/invocations?qualifier=live",
        body=b"{}",
        headers={"content-type": "application/json"},
    )
    assert by_alias.json() == 1
    rolled = platform.request(
        "POST",
        "/v1/functions/evolving/rollback",
        body=b"{}",
        headers={"content-type": "application/json"},
    )
    assert rolled.status == 200, rolled
    assert platform.invoke("evolving").json() == 1


def test_a_web_endpoint_gives_and_takes_http(platform: PlatformProcess) -> None:
    platform.deploy(
        "page",
        "def handler(event, context):\n"
        "    return {'statusCode': 201, 'headers': {'x-path': event['rawPath']}, 'body': '<p>hi</p>'}\n",
        public=True,
    )
    answer = platform.pool.request("GET", f"{platform.url}/fn/page/some/where?x=1")
    assert answer.status == 201
    assert answer.headers["x-path"].endswith("/some/where")
    assert answer.data == b"<p>hi</p>"
    platform.deploy("closed_page", "def main(payload):\n    return 1\n")
    assert platform.pool.request("GET", f"{platform.url}/fn/closed_page/").status == 401


def test_everything_survives_a_restart(own_platform: PlatformProcess) -> None:
    own_platform.start()
    own_platform.deploy("echo", ECHO)
    request_id = own_platform.invoke_async("echo", "kept")
    own_platform.wait_done(request_id)
    assert own_platform.stop() == 0

    own_platform.start()

    assert own_platform.invoke("echo", 5).json() == {"got": 5}
    assert own_platform.invocation(request_id)["result"] == {"got": "kept"}


def test_ctrl_c_lets_running_calls_finish_and_keeps_queued_events(
    own_platform: PlatformProcess,
) -> None:
    import signal

    own_platform.start()
    own_platform.deploy(
        "slow",
        "import time\ndef main(payload):\n    time.sleep(0.5)\n    return payload\n",
        concurrency_max=1,
    )
    own_platform.invoke("slow", 0)
    queued = [own_platform.invoke_async("slow", number) for number in range(6)]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(own_platform.invoke, "slow", "running")
        time.sleep(0.2)
        assert own_platform.stop(signal.SIGINT) == 0
        assert running.result().json() == "running"

    own_platform.start()

    results = [own_platform.wait_done(request_id)["result"] for request_id in queued]
    assert results == list(range(6))


def test_metrics_count_what_happened(platform: PlatformProcess) -> None:
    platform.deploy("counted", ECHO)
    for _ in range(3):
        platform.invoke("counted", 1)
    lines = [
        line
        for line in platform.metrics().splitlines()
        if 'function="counted"' in line and line.startswith("pratai_invocations_total")
    ]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in lines) == 3
