"""More callers than places: each gets the answer to its own event, sync and async."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from platform_process import PlatformProcess

CALLERS = 160
CALLS = 20
ECHO = "def main(payload):\n    return payload\n"


def test_a_crowd_of_callers_gets_each_its_own_answer(own_platform: PlatformProcess) -> None:
    own_platform.settings = ["node.slots=8"]
    own_platform.start()
    own_platform.deploy("echo", ECHO)
    own_platform.invoke("echo", "warm")

    def call(caller: int) -> list[tuple[str, str]]:
        found = []
        for number in range(CALLS):
            event = f"{caller}-{number}"
            answer = own_platform.invoke("echo", event)
            found.append((event, answer.json() if answer.status == 200 else str(answer)))
        return found

    with ThreadPoolExecutor(CALLERS) as pool:
        pairs = [pair for found in pool.map(call, range(CALLERS)) for pair in found]

    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    print(f"calls={len(pairs)} wrong={len(wrong)}")
    assert wrong == []


def test_a_backlog_keeps_each_result_with_its_event(own_platform: PlatformProcess) -> None:
    own_platform.settings = ["node.slots=8"]
    own_platform.start()
    own_platform.deploy("echo", ECHO)

    with ThreadPoolExecutor(32) as pool:
        names = list(pool.map(lambda n: own_platform.invoke_async("echo", n), range(1_500)))

    results = [own_platform.wait_done(name, 60)["result"] for name in names]
    assert results == list(range(1_500))
