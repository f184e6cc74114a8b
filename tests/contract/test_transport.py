"""What every transport promises: order, bytes as they were, and nothing that stops a process.

The same suite over memory and ZeroMQ, plain and with a cluster key; then what strangers send.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine

import msgspec
import pytest
import uvloop
import zmq

from pratai.config.schema import Queue
from pratai.errors import ConfigError
from pratai.metrics import counted
from pratai.model.node import address_of
from pratai.transport.base import Transport
from pratai.transport.memory import MemoryTransport
from pratai.transport.zeromq.transport import CurveKey, ZeromqTransport
from pratai.wire.messages import Cancel, Dispatch, Heartbeat, Invoke, Message, Result

WAIT_S = 20


def in_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """A test that runs on a loop of its own."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


class Inbox:
    """Messages received, and a way to wait for them."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._came = asyncio.Event()

    def receive(self, message: Message) -> None:
        self.messages.append(message)
        self._came.set()

    async def wait(self, count: int) -> list[Message]:
        async with asyncio.timeout(WAIT_S):
            while len(self.messages) < count:
                self._came.clear()
                await self._came.wait()
        return self.messages


class Pair:
    """A sender, a receiver, and the address that leads from one to the other."""

    def __init__(self, sender: Transport, address: str, inbox: Inbox) -> None:
        self.sender, self.address, self.inbox = sender, address, inbox


def new_key() -> CurveKey:
    return CurveKey(zmq.curve_keypair()[1])


@contextlib.asynccontextmanager
async def pair_of(kind: str, to: str = "node") -> AsyncIterator[Pair]:
    inbox = Inbox()
    if kind == "memory":
        transport = MemoryTransport()
        transport.bind(f"{to}:x", inbox.receive)
        yield Pair(transport, f"{to}:x", inbox)
        return
    key = new_key() if kind == "curve" else None
    receiver, sender = ZeromqTransport(Queue(), key=key), ZeromqTransport(Queue(), key=key)
    endpoint = receiver.listen(to, "127.0.0.1", 0, inbox.receive)
    try:
        yield Pair(sender, address_of(to, "x", endpoint), inbox)
    finally:
        sender.close()
        receiver.close()


KINDS = ["memory", "plain", "curve"]


def dispatch(number: int, payload: bytes | None = b"{}") -> Dispatch:
    return Dispatch(
        request_id=f"r{number}",
        attempt=1,
        namespace="default",
        function="f",
        version_id="default/f/1",
        reply_to="",
        deadline_ms=1,
        timeout_ms=1,
        payload=payload,
    )


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_what_one_sender_says_arrives_in_order(kind: str) -> None:
    async with pair_of(kind) as pair:
        sent = [dispatch(number, b"%d" % number) for number in range(3_000)]
        for message in sent:
            pair.sender.send(pair.address, message)
        assert await pair.inbox.wait(3_000) == sent


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_payloads_arrive_as_they_were(kind: str) -> None:
    payloads = [None, b"", b"+", b"\x00\xff" * 7, b"\x93\x01", os.urandom(6 * 1024 * 1024)]
    async with pair_of(kind) as pair:
        for number, payload in enumerate(payloads):
            pair.sender.send(pair.address, dispatch(number, payload))
        received = await pair.inbox.wait(len(payloads))
        assert [message.payload for message in received] == payloads


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_messages_without_payload_travel_beside_those_with_one(kind: str) -> None:
    async with pair_of(kind, "gateway") as pair:
        sent = [
            Result(request_id="a", outcome="succeeded", payload=b"1"),
            Result(request_id="b", outcome="failed"),
            Result(request_id="c", outcome="succeeded", payload=b"3"),
        ]
        for message in sent:
            pair.sender.send(pair.address, message)
        assert await pair.inbox.wait(3) == sent


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_an_address_nobody_has_is_counted_and_dropped(kind: str) -> None:
    async with pair_of(kind) as pair:
        before = counted("messages_unaddressed")
        pair.sender.send("node:nobody", dispatch(1))
        assert counted("messages_unaddressed") == before + 1


@in_loop
async def test_who_is_in_this_process_is_handed_messages_without_a_socket() -> None:
    transport, inbox = ZeromqTransport(Queue(), key=None), Inbox()
    transport.bind("collector", inbox.receive)
    transport.send("collector", Heartbeat(node_id="n"))
    assert inbox.messages == [Heartbeat(node_id="n")]
    transport.close()


@in_loop
async def test_messages_wait_for_a_peer_that_is_not_there_yet() -> None:
    inbox, port = Inbox(), free_port()
    sender = ZeromqTransport(Queue(), key=None)
    address = address_of("node", "late", f"tcp://127.0.0.1:{port}")
    for number in range(500):
        sender.send(address, dispatch(number))
    receiver = ZeromqTransport(Queue(), key=None)
    receiver.listen("node", "127.0.0.1", port, inbox.receive)
    received = await inbox.wait(500)
    assert [message.request_id for message in received] == [f"r{n}" for n in range(500)]
    sender.close()
    receiver.close()


@in_loop
async def test_what_waits_for_a_dead_peer_is_bounded_and_counted() -> None:
    sender = ZeromqTransport(Queue(waiting_max=100), key=None)
    address = address_of("node", "dead", f"tcp://127.0.0.1:{free_port()}")
    before = counted("messages_dropped")
    for number in range(1_000):
        sender.send(address, dispatch(number))
    assert counted("messages_dropped") == before + 900
    sender.disconnect(address)
    assert sender.waiting() == 0
    sender.close()


@in_loop
async def test_a_peer_that_ended_is_told_and_one_that_comes_back_is_not() -> None:
    told: list[str] = []
    sender = ZeromqTransport(Queue(), key=None)
    sender.watch("node", told.append, after_s=0.3)
    boxes = [Inbox(), Inbox()]
    peers = [ZeromqTransport(Queue(), key=None) for _ in boxes]
    endpoints = [
        peer.listen("node", "127.0.0.1", 0, box.receive)
        for peer, box in zip(peers, boxes, strict=True)
    ]
    addresses = [address_of("node", str(at), endpoint) for at, endpoint in enumerate(endpoints)]
    for address, box in zip(addresses, boxes, strict=True):
        sender.send(address, dispatch(1))
        await box.wait(1)
    for peer in peers:
        peer.close()
    again = ZeromqTransport(Queue(), key=None)
    again.listen("node", "127.0.0.1", int(endpoints[0].rpartition(":")[2]), boxes[0].receive)
    sender.send(addresses[0], dispatch(2))
    await boxes[0].wait(2)
    await until(lambda: bool(told))
    assert told == [addresses[1]]
    sender.close()
    again.close()


@in_loop
async def test_a_socket_others_can_reach_needs_a_key() -> None:
    transport = ZeromqTransport(Queue(), key=None)
    with pytest.raises(ConfigError, match="no cluster key"):
        transport.listen("node", "0.0.0.0", 0, print)
    before = counted("messages_unaddressed")
    transport.send("node:far@tcp://10.255.0.1:5558", dispatch(1))
    assert counted("messages_unaddressed") == before + 1
    transport.close()


@in_loop
async def test_only_holders_of_the_key_are_let_in() -> None:
    inbox, key = Inbox(), new_key()
    receiver = ZeromqTransport(Queue(), key=key)
    endpoint = receiver.listen("node", "127.0.0.1", 0, inbox.receive)
    before = counted("strangers_refused")
    stranger, plain = ZeromqTransport(Queue(), key=new_key()), ZeromqTransport(Queue(), key=None)
    friend = ZeromqTransport(Queue(), key=key)
    for transport in (stranger, plain):
        transport.send(address_of("node", "x", endpoint), dispatch(666))
    await until(lambda: counted("strangers_refused") >= before + 2)
    friend.send(address_of("node", "x", endpoint), dispatch(1))
    assert await inbox.wait(1) == [dispatch(1)]
    for transport in (stranger, plain, friend, receiver):
        transport.close()


RUBBISH = [
    [b"\xff" * 10],
    [b""],
    [msgspec.msgpack.encode([{"type": "Nonsense"}])],
    [msgspec.msgpack.encode([{"type": "Dispatch", "request_id": 5}])],
    [msgspec.msgpack.encode([{"type": "Withdraw", "request_id": "a", "attempt": 1}]), b"x"],
    [b"\x91" * 200_000],
    [b"\xdd\xff\xff\xff\xff"],
    [b"x" * (17 * 1024 * 1024)],
    [b"a"] * 2_000,
]


@pytest.mark.parametrize("frames", RUBBISH, ids=range(len(RUBBISH)))
@in_loop
async def test_malformed_frames_are_counted_and_stop_nothing(frames: list[bytes]) -> None:
    async with pair_of("plain") as pair:
        before = counted("frames_refused")
        context = zmq.Context()
        push = context.socket(zmq.PUSH)
        push.connect(pair.address.partition("@")[2])
        push.send_multipart(frames)
        await until(lambda: counted("frames_refused") == before + 1)
        pair.sender.send(pair.address, dispatch(1))
        assert await pair.inbox.wait(1) == [dispatch(1)]
        context.destroy(0)


@in_loop
async def test_a_message_for_another_kind_of_address_is_refused() -> None:
    async with pair_of("plain", "collector") as pair:
        before = counted("frames_refused")
        pair.sender.send(pair.address, Cancel(request_id="x"))
        await until(lambda: counted("frames_refused") == before + 1)
        assert pair.inbox.messages == []


@in_loop
async def test_bytes_that_are_not_zeromq_are_refused() -> None:
    async with pair_of("curve") as pair:
        endpoint = pair.address.partition("@")[2].removeprefix("tcp://")
        host, port = endpoint.rsplit(":", 1)
        for rubbish in (
            b"GET / HTTP/1.1\r\n\r\n",
            os.urandom(4_096),
            b"\xff" + b"\0" * 8 + b"\x7f",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rubbish)
            writer.close()
            del reader
        pair.sender.send(pair.address, dispatch(1))
        assert await pair.inbox.wait(1) == [dispatch(1)]


@in_loop
async def test_an_invocation_crosses_with_every_field() -> None:
    async with pair_of("curve", "scheduler") as pair:
        invoke = Invoke(
            request_id="r",
            namespace="ns",
            function="f",
            version_id="ns/f/3",
            reply_to="gateway:g@tcp://127.0.0.1:1",
            deadline_ms=5,
            timeout_ms=4,
            accepted_at_ms=3,
            payload=b"\x00",
            content_type="text/plain",
            journalled=True,
            attempts_max=4,
            backoff_ms=9,
            concurrency_max=2,
            memory_mb=1,
            attempt=7,
            recoveries=8,
            available_at_ms=6,
            trace="t",
            idempotency_key="k",
            trigger="timer",
        )
        pair.sender.send(pair.address, invoke)
        assert await pair.inbox.wait(1) == [invoke]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0)
