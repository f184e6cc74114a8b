"""Ten times more calls than can be served: what is served stays near capacity, the rest is refused
with a time to come back, memory stays bounded, and other functions hardly notice.

`PRATAI_OVERLOAD_S` sets how long the flood lasts (6 s by default).
"""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest
from platform_process import PlatformProcess, descendants

from load import Figures, figures, flow

OVERLOAD_S = float(os.environ.get("PRATAI_OVERLOAD_S", "6"))
CONCURRENCY = 4
SLEEP_S = 0.01
QUEUE_MAX = 256
RSS_MAX_MB = 400
#: What scheduling on a busy machine may add to a wait.
SLACK_MS = 500.0
SLEEPER = f"import time\ndef main(payload):\n    time.sleep({SLEEP_S})\n    return payload\n"
LIGHT = "def main(payload):\n    return payload\n"


class Memory:
    """Samples the resident memory of the platform's own process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.before_mb = rss_mb(pid)
        self.most_mb = self.before_mb

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopping.wait(0.05):
            self.most_mb = max(self.most_mb, rss_mb(self._pid))


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_024
    return 0.0


def plan(platform: PlatformProcess, name: str, **more: Any) -> dict[str, Any]:
    path = f"/v1/functions/{name}/invocations"
    return {"url": platform.url, "key": platform.key, "path": path, "event": {"n": 1}, **more}


@pytest.mark.timeout(300)
def test_a_flood_of_sync_calls_is_served_near_capacity_and_refused_beyond(
    own_platform: PlatformProcess,
) -> None:
    own_platform.settings = [f"scheduler.queue_max={QUEUE_MAX}"]
    own_platform.start()
    own_platform.deploy("sleeper", SLEEPER, concurrency_max=CONCURRENCY)
    own_platform.deploy("light", LIGHT)
    for name in ("sleeper", "light"):
        figures(flow(**plan(own_platform, name, callers=CONCURRENCY, seconds=1)))
    measured = figures(flow(**plan(own_platform, "sleeper", callers=4 * CONCURRENCY, seconds=3)))
    capacity = measured.rate()
    alone = figures(flow(**plan(own_platform, "light", rate=40, seconds=4)))
    assert own_platform.process is not None

    with Memory(own_platform.process.pid) as memory:
        flood = flow(**plan(own_platform, "sleeper", rate=10 * capacity, seconds=OVERLOAD_S))
        beside = flow(**plan(own_platform, "light", rate=40, seconds=OVERLOAD_S))
        sent, light = figures(flood), figures(beside)
    after = figures(flow(**plan(own_platform, "sleeper", callers=4 * CONCURRENCY, seconds=2)))

    capacity = min(capacity, after.rate())  # whatever else this machine does meanwhile
    wait_ms = QUEUE_MAX / capacity * 1_000
    _report(capacity, sent, wait_ms=wait_ms, alone=alone, light=light, memory=memory, after=after)
    assert set(sent.statuses) <= {200, 429}, sent.statuses
    assert sent.broken == 0
    assert _served_in_time(sent) >= own_platform.goodput_min * capacity
    assert sent.count(429) > sent.count(200)
    for _, status, _, retry_after, kind, _ in sent.calls:
        if status == 429:
            assert retry_after >= 1
            assert kind == "application/problem+json"
    assert sent.ms(0.99) <= 1.5 * wait_ms + SLACK_MS
    assert set(light.statuses) == {200}, light.statuses
    assert light.windows_ms(0.99, 1.0) <= 3 * alone.windows_ms(0.99, 1.0) + own_platform.slack_ms
    assert memory.most_mb < RSS_MAX_MB
    assert after.rate() >= 0.6 * measured.rate(), "it did not recover"


def _served_in_time(sent: Figures) -> float:
    """Answers a second while the flood lasted; what was served from the queue after it is extra."""
    return sum(c[1] == 200 and c[0] * 1_000 + c[2] <= sent.seconds * 1_000 for c in sent.calls) / (
        sent.seconds
    )


def _report(
    capacity: float,
    sent: Figures,
    *,
    wait_ms: float,
    alone: Figures,
    light: Figures,
    memory: Memory,
    after: Figures,
) -> None:
    print(
        f"\ncapacity={capacity:.0f}/s offered={len(sent.calls) / sent.seconds:.0f}/s "
        f"goodput={_served_in_time(sent):.0f}/s statuses={sent.statuses} broken={sent.broken}\n"
        f"admitted p50={sent.ms(0.5):.0f} ms p99={sent.ms(0.99):.0f} ms "
        f"(a full queue is {wait_ms:.0f} ms) refused p50={sent.ms(0.5, 429):.1f} ms "
        f"p99={sent.ms(0.99, 429):.0f} ms\n"
        f"light alone p99={alone.windows_ms(0.99, 1.0):.1f} ms p50={alone.ms(0.5):.1f} ms; "
        f"beside p99={light.windows_ms(0.99, 1.0):.1f} ms p50={light.ms(0.5):.1f} ms\n"
        f"rss before={memory.before_mb:.0f} MB most={memory.most_mb:.0f} MB "
        f"after the flood capacity={after.rate():.0f}/s"
    )


@pytest.mark.timeout(240)
def test_a_flood_of_events_is_refused_beyond_the_backlog_and_all_accepted_run(
    own_platform: PlatformProcess, tmp_path: Path
) -> None:
    backlog_max = 200
    own_platform.settings = [f"scheduler.backlog_max={backlog_max}"]
    own_platform.start()
    own_platform.deploy("sleeper", SLEEPER, concurrency_max=CONCURRENCY)
    accepted: list[str] = []
    refused: list[Any] = []

    def send(number: int) -> None:
        answer = own_platform.invoke("sleeper", number, prefer="respond-async")
        if answer.status == 202:
            accepted.append(answer.json()["request_id"])
        else:
            refused.append(answer)

    began = time.monotonic()
    assert own_platform.process is not None
    with Memory(own_platform.process.pid) as memory, ThreadPoolExecutor(16) as pool:
        list(pool.map(send, range(3_000)))
    took_s = time.monotonic() - began

    print(
        f"\naccepted={len(accepted)} refused={len(refused)} in {took_s:.1f} s "
        f"rss most={memory.most_mb:.0f} MB"
    )
    assert len(accepted) >= backlog_max
    assert refused
    for answer in refused:
        assert answer.status == 429, answer
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["code"] == "throttled"
    assert memory.most_mb < RSS_MAX_MB
    assert {own_platform.wait_done(name, 60)["outcome"] for name in accepted} == {"succeeded"}
    again = own_platform.invoke("sleeper", 1, prefer="respond-async")
    assert again.status == 202, "there is room again"
    assert len(descendants(own_platform.process.pid)) < 40
