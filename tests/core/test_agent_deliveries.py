"""Deliveries: signed, offered until they are taken, kept from private places, given up in the end."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from msgspec.structs import replace

from pratai.agent import destinations
from pratai.agent.deliveries import delivery_of, document_of, postponed, put_delivery
from pratai.agent.destinations import Destinations
from pratai.agent.messages import Emission
from pratai.agent.posting import asked_wait_ms, is_public, post
from pratai.agent.signing import signature
from pratai.config import schema
from pratai.errors import NotFound
from pratai.model.trigger import DELIVERY, Delivery
from pratai.store.memory import MemoryStore
from pratai.store.signing import signing_secret

DAY_MS = 86_400_000
START_MS = 1_735_689_600_000


class Receiver:
    """A web server that answers as it is told and remembers what it was sent."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append((self.path, headers, body))
                status, extra = receiver.answers.pop(0) if receiver.answers else (200, {})
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("content-length", "3")
                self.end_headers()
                self.wfile.write(b"oh!")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?a=1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


class Bench:
    """A store, agents, a clock set by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_ms = START_MS
        self.store = MemoryStore()
        self.config = schema.Agent(deliver_private=True)
        self.emitted: list[Emission] = []
        self.errors: list[Exception] = []
        patch.setattr(destinations, "now_ms", lambda: self.now_ms)

    async def emit(self, emission: Emission) -> str:
        if self.errors:
            raise self.errors.pop(0)
        self.emitted.append(emission)
        return "r"

    def agent(self, agent_id: str = "a") -> Destinations:
        return Destinations(self.config, agent_id, store=self.store, emit=self.emit)

    async def put(self, destination: str, request_id: str = "r1") -> Delivery:
        delivery = Delivery(
            request_id=request_id,
            namespace="default",
            function="f",
            destination=destination,
            body=b'{"outcome":"succeeded"}',
            created_at_ms=self.now_ms,
            next_attempt_at_ms=self.now_ms,
            expires_at_ms=self.now_ms + DAY_MS,
        )
        await put_delivery(self.store, delivery)
        return delivery

    async def kept(self) -> list[Delivery]:
        return [delivery_of(item) for item in await self.store.documents(DELIVERY, None)]

    async def look(self, *agents: Destinations) -> None:
        """One look of each, and wait until all that was begun has ended."""
        for agent in agents:
            await agent.look()
        tasks = [task for agent in agents for task in agent._tasks.values()]
        await asyncio.wait_for(asyncio.gather(*tasks), 20)


Scene = Callable[[Bench], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    def run(scene: Scene) -> None:
        async def whole() -> None:
            bench = Bench(monkeypatch)
            await bench.store.open()
            await scene(bench)

        asyncio.run(whole())

    return run


def test_an_outcome_is_posted_once_and_signed(play: Play, receiver: Receiver) -> None:
    async def scene(bench: Bench) -> None:
        await bench.put(receiver.url)
        await bench.put(receiver.url)
        agent = bench.agent()
        await bench.look(agent)
        await bench.look(agent)

        ((path, headers, body),) = receiver.received
        assert path == "/hook?a=1"
        assert body == b'{"outcome":"succeeded"}'
        assert headers["content-type"] == "application/json"
        assert headers["host"] == receiver.url.split("/")[2]
        secret = await signing_secret(bench.store, "default")
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{digest}"
        assert headers["webhook-timestamp"] == str(START_MS // 1_000)
        assert await bench.kept() == []

    play(scene)


def test_a_signature_is_the_one_of_the_standards_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    made = signature(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp_s=1614265330, body=b'{"test": 2432232314}'
    )

    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_destination_that_fails_is_tried_again_under_the_same_id(
    play: Play, receiver: Receiver
) -> None:
    async def scene(bench: Bench) -> None:
        receiver.answers = [(500, {}), (302, {"location": receiver.url})]
        await bench.put(receiver.url)
        agent = bench.agent()
        await bench.look(agent)
        await bench.look(agent)
        assert len(receiver.received) == 1, "it waits before it tries again"
        (kept,) = await bench.kept()
        assert (kept.attempts, kept.last_failure) == (1, "it answered 500: oh!")
        for _ in range(2):
            bench.now_ms += 10_000
            await bench.look(agent)

        assert len(receiver.received) == 3
        assert len({headers["webhook-id"] for _, headers, _ in receiver.received}) == 1
        assert await bench.kept() == []

    play(scene)


def test_a_destination_that_asks_for_a_wait_gets_it(play: Play, receiver: Receiver) -> None:
    async def scene(bench: Bench) -> None:
        receiver.answers = [(503, {"retry-after": "120"})]
        await bench.put(receiver.url)
        await bench.look(bench.agent())

        (kept,) = await bench.kept()
        assert kept.next_attempt_at_ms == START_MS + 120_000

    play(scene)


def test_a_destination_that_is_gone_is_given_up(play: Play, receiver: Receiver) -> None:
    async def scene(bench: Bench) -> None:
        receiver.answers = [(410, {})]
        await bench.put(receiver.url)
        await bench.look(bench.agent())

        assert await bench.kept() == []

    play(scene)


def test_a_delivery_is_given_up_after_its_attempts_and_after_its_time() -> None:
    delivery = Delivery(
        request_id="r",
        namespace="default",
        function="f",
        destination="https://example.org",
        body=b"{}",
        created_at_ms=0,
        expires_at_ms=DAY_MS,
    )

    def after(item: Delivery, now_ms: int, chance: float = 1.0) -> Delivery | None:
        return postponed(item, now_ms, failure="no", attempts_max=30, asked_ms=0, chance=chance)

    waits, now_ms, kept = [], 0, after(delivery, 0)
    while kept is not None:
        waits.append(kept.next_attempt_at_ms - now_ms)
        now_ms = kept.next_attempt_at_ms
        kept = after(kept, now_ms)

    assert waits[:4] == [2_000, 4_000, 8_000, 16_000]
    assert max(waits) == 3_600_000
    assert now_ms <= DAY_MS
    assert after(replace(delivery, attempts=29), 0) is None
    assert (after(delivery, 0, 0.0) or delivery).next_attempt_at_ms == 1_000


def test_of_two_agents_one_delivers(play: Play, receiver: Receiver) -> None:
    async def scene(bench: Bench) -> None:
        for number in range(10):
            await bench.put(receiver.url, f"r{number}")
        await bench.look(bench.agent("a"), bench.agent("b"))

        assert len(receiver.received) == 10
        assert await bench.kept() == []

    play(scene)


def test_a_delivery_of_an_agent_that_died_is_taken_over_when_its_claim_ends(
    play: Play, receiver: Receiver
) -> None:
    async def scene(bench: Bench) -> None:
        delivery = await bench.put(receiver.url)
        (document,) = await bench.store.documents(DELIVERY, None)
        claimed = replace(delivery, claimed_by="dead", claimed_until_ms=START_MS + 30_000)
        await bench.store.put(document_of(claimed, document.revision))
        agent = bench.agent()
        await bench.look(agent)
        assert receiver.received == []
        bench.now_ms += 30_001
        await bench.look(agent)

        assert len(receiver.received) == 1

    play(scene)


def test_private_addresses_get_nothing_unless_they_may(play: Play, receiver: Receiver) -> None:
    async def scene(bench: Bench) -> None:
        bench.config = schema.Agent()
        await bench.put(receiver.url.replace("127.0.0.1", "localhost"))
        await bench.look(bench.agent())

        assert receiver.received == []
        (kept,) = await bench.kept()
        assert "[agent] deliver_private is no" in kept.last_failure

    play(scene)


def test_hosts_that_are_not_allowed_get_nothing(play: Play, receiver: Receiver) -> None:
    async def scene(bench: Bench) -> None:
        bench.config = schema.Agent(deliver_private=True, deliver_hosts="*.example.org, 10.*")
        await bench.put(receiver.url)
        await bench.look(bench.agent())

        assert receiver.received == []
        (kept,) = await bench.kept()
        assert (
            kept.last_failure == "127.0.0.1 is none of the hosts that [agent] deliver_hosts allows"
        )

    play(scene)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_an_address_of_a_private_place_is_known_as_such(address: str) -> None:
    assert not is_public(address)


def test_addresses_of_the_open_network_are_public() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")


def test_who_does_not_answer_is_told_in_words() -> None:
    answer = post(
        "http://127.0.0.1:1/",
        b"{}",
        {},
        timeout_s=5,
        hosts="*",
        private=True,
        now_ms=0,
    )

    assert (answer.status, answer.delivered) == (0, False)
    assert answer.detail == "127.0.0.1 did not answer: connection refused"


def test_a_destination_that_answers_byte_by_byte_is_cut_off() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                while not ended.wait(0.02):
                    connection.sendall(b"H")
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    answer = post(
        f"http://127.0.0.1:{listener.getsockname()[1]}/",
        b"{}",
        {},
        timeout_s=0.3,
        hosts="*",
        private=True,
        now_ms=0,
    )
    ended.set()
    thread.join()
    listener.close()

    assert answer.detail == "127.0.0.1 did not answer: it took too long"


def test_a_wait_is_asked_for_in_seconds_or_by_date() -> None:
    assert asked_wait_ms("7", START_MS) == 7_000
    assert asked_wait_ms(formatdate(START_MS / 1_000 + 60, usegmt=True), START_MS) == 60_000
    assert asked_wait_ms(formatdate(START_MS / 1_000 - 60, usegmt=True), START_MS) == 0
    assert asked_wait_ms("soon", START_MS) == 0
    assert asked_wait_ms("", START_MS) == 0


def test_a_function_is_run_with_the_outcome_when_it_can_be(play: Play) -> None:
    async def scene(bench: Bench) -> None:
        bench.errors = [NotFound("there is no function g")]
        await bench.put("function:g")
        agent = bench.agent()
        await bench.look(agent)
        (kept,) = await bench.kept()
        bench.now_ms += 10_000
        await bench.look(agent)

        assert kept.last_failure == "there is no function g"
        (emission,) = bench.emitted
        assert (emission.function, emission.trigger) == ("g", "destination")
        assert emission.idempotency_key == "destination:r1:function:g"
        assert await bench.kept() == []

    play(scene)


def test_a_namespace_keeps_its_secret_and_no_other_has_the_same() -> None:
    async def story() -> None:
        store = MemoryStore()
        await store.open()
        first = await signing_secret(store, "default")

        assert await signing_secret(store, "default") == first
        assert await signing_secret(store, "other") != first

    asyncio.run(story())
