"""The crash: a batch of events, `kill -9` of everything in the middle, a restart, and the count.

The function is the ledger example made slow, so that at the moment of the crash some events have
run, some are running and many wait.

The clients behave as good senders do: each event has an idempotency key, and what was not answered
202 is sent again. The count is taken from the file that the function writes, not from the platform.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import urllib3
from platform_process import DemoPlatform
from show import Screen

EVENTS = 300
KILL_AFTER = 150
CLIENTS = 8
IDLE_S_MAX = 40.0
NAME = "slow_ledger"
SLOW = """\
import time
import ledger


def main(payload):
    time.sleep(0.02)
    answer = ledger.main(payload)
    time.sleep(0.02)
    return answer
"""


class Batch:
    """Orders to be sent, and which of them were answered 202."""

    def __init__(self, platform: DemoPlatform) -> None:
        self.platform = platform
        self.accepted: dict[str, str] = {}
        self.enough = threading.Event()
        self.killed = threading.Event()
        self._lock = threading.Lock()

    def send_missing(self) -> None:
        """Send every order that has no 202 yet; returns early when the platform is gone."""
        orders = [f"crash-{number:03}" for number in range(EVENTS)]
        missing = [order for order in orders if order not in self.accepted]
        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in clients.map(self._send, missing):
                continue

    def _send(self, order: str) -> None:
        if self.killed.is_set():
            return
        event = {
            "order_id": order,
            "customer": "Crash Test",
            "lines": [{"sku": "assam-250g", "units": 1, "unit_cents": 1150}],
        }
        try:
            answer = self.platform.pool.request(
                "POST",
                f"{self.platform.url}/v1/functions/{NAME}/invocations",
                body=json.dumps(event),
                headers={
                    "Authorization": f"Bearer {self.platform.key}",
                    "Content-Type": "application/json",
                    "Prefer": "respond-async",
                    "Idempotency-Key": order,
                },
            )
        except urllib3.exceptions.HTTPError:
            self.killed.set()
            return
        if answer.status == 202:
            with self._lock:
                self.accepted[order] = json.loads(answer.data)["request_id"]
                if len(self.accepted) >= KILL_AFTER:
                    self.enough.set()


def run(platform: DemoPlatform, screen: Screen) -> list[str]:
    """Tell and prove it; returns what went wrong."""
    ledger = platform.scratch / "slow_ledger.jsonl"
    if not _deploy(platform, ledger, screen):
        return [f"{NAME} could not be deployed"]
    batch = Batch(platform)
    sender = threading.Thread(target=batch.send_missing)
    sender.start()
    if not batch.enough.wait(IDLE_S_MAX):
        sender.join()
        return [f"only {len(batch.accepted)} events were accepted"]
    count = platform.kill()
    sender.join()
    before = len(batch.accepted)
    screen.text(
        f"{before} of {EVENTS} events were answered 202 and {len(_written(ledger))} had run "
        f"when all {count} processes got SIGKILL"
    )
    took_s = platform.start()
    screen.text(f"started again in {took_s:.1f} s over the same data")
    batch.killed.clear()
    batch.send_missing()
    screen.text(f"the other {len(batch.accepted) - before} sent, each with its idempotency key")
    _wait_until_idle(platform)
    return _count(batch, _written(ledger), screen)


def _deploy(platform: DemoPlatform, ledger: Path, screen: Screen) -> bool:
    """The ledger, 40 ms an order and at most eight at one time."""
    folder = platform.directory / NAME
    folder.mkdir()
    (folder / "main.py").write_text(SLOW)
    shutil.copy(platform.root / "examples/ledger/ledger.py", folder)
    arguments = ["deploy", str(folder.relative_to(platform.root)), "--handler", "main:main"]
    arguments += ["--concurrency-max", "8", "--env", f"LEDGER_PATH={ledger}"]
    screen.command(f"pratai {' '.join(arguments)}")
    return platform.cli(*arguments).returncode == 0


def _count(batch: Batch, written: list[str], screen: Screen) -> list[str]:
    ran = set(written)
    lost = sorted(set(batch.accepted) - ran)
    records = [batch.platform.get(f"/v1/invocations/{one}") for one in batch.accepted.values()]
    again = sum(bool((record.get("result") or {}).get("duplicate")) for record in records)
    screen.value(
        {
            "accepted (answered 202)": len(batch.accepted),
            "ran (distinct ids in the ledger)": len(ran),
            "lost": len(lost),
            "ran again after the crash, changed nothing": again,
            "written down twice": len(written) - len(ran),
        }
    )
    screen.proof(
        f"proof: accepted={len(batch.accepted)} ran={len(ran)} lost={len(lost)} "
        f"duplicates={len(written) - len(ran)}"
    )
    problems = [f"lost: {', '.join(lost[:5])}"] if lost else []
    if len(batch.accepted) < EVENTS:
        problems.append(f"only {len(batch.accepted)} of {EVENTS} events were accepted")
    if len(written) > len(ran):
        problems.append("an order was written down twice")
    return problems


def _written(ledger: Path) -> list[str]:
    """Ids of this batch in the ledger, in order, repeated ones included."""
    if not ledger.exists():
        return []
    lines = ledger.read_text("utf-8").splitlines()
    orders = [json.loads(line)["order_id"] for line in lines]
    return [order for order in orders if order.startswith("crash-")]


def _wait_until_idle(platform: DemoPlatform) -> None:
    """Until nothing is queued or running, or the limit has passed; the count then tells."""
    limit = time.monotonic() + IDLE_S_MAX
    while time.monotonic() < limit:
        pages = [
            platform.get(f"/v1/invocations?function={NAME}&state={state}&limit=1")
            for state in ("queued", "leased")
        ]
        if all(page.get("items") == [] for page in pages):
            return
        time.sleep(0.1)
