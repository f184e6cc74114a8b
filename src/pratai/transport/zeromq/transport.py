"""The transport of a cluster: PUSH to whoever an address says, PULL where this process is reached.

Who is bound in this process is handed messages at once, as `memory.py` does. Everybody else has an
address that says where it is reached (`node:n1@tcp://10.0.0.7:5558`), or is one of the two fixed
ones, `scheduler` and `collector`. With a cluster key every socket is CURVE, and only holders of the
key are let in; without one only loopback addresses are used.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Collection

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from pratai.config.schema import Queue
from pratai.errors import ConfigError, PlatformError
from pratai.metrics import count
from pratai.model.node import endpoint_of
from pratai.transport.base import Receiver
from pratai.transport.complaints import Complaints
from pratai.transport.zeromq.inlet import Inlet
from pratai.transport.zeromq.outbox import Outbox
from pratai.wire.messages import Message

#: Peers that messages are sent to at one time; the one unused for longest is given up beyond it.
PEERS_MAX = 4_096
#: Batches in ZeroMQ's own buffers, of each socket.
BATCHES_BUFFERED_MAX = 64
#: What may still leave when this process ends.
LINGER_MS = 1_000
_RECONNECT_MS, _RECONNECT_MS_MAX = 50, 1_000
_HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS = 2_000, 6_000
_HANDSHAKE_MS = 5_000
_LOOPBACK = ("127.", "localhost", "::1", "[::1]")


class CurveKey:
    """The cluster key: one CURVE pair that every process of a cluster holds."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.public = zmq.curve_public(secret)

    def __repr__(self) -> str:
        """Never the key."""
        return "<CurveKey>"


class ZeromqTransport:
    """Carries messages between the processes of a cluster."""

    def __init__(
        self, config: Queue, *, key: CurveKey | None, routes: dict[str, str] | None = None
    ) -> None:
        """`routes`: where the fixed addresses are reached, `{"scheduler": endpoint, ...}`."""
        self._config = config
        self._key = key
        self._routes = dict(routes or {})
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.setsockopt(zmq.MAX_SOCKETS, 2 * PEERS_MAX)
        self._authenticator: ThreadAuthenticator | None = None
        self._receivers: dict[str, Receiver] = {}
        #: {address: its outbox}, least lately used first. At most `PEERS_MAX`.
        self._outboxes: dict[str, Outbox] = {}
        self._inlets: list[Inlet] = []
        #: {kind of address: (told of those that are gone, after how long)}.
        self._watched: dict[str, tuple[Callable[[str], None], float]] = {}
        self._complaints = Complaints()

    def bind(self, address: str, receiver: Receiver) -> None:
        """Hand every message for this address to `receiver`, also those of this process."""
        self._receivers[address] = receiver

    def listen(self, kind: str, host: str, port: int, receiver: Receiver) -> str:
        """Take messages for `kind` of address from other processes; the endpoint listened on.

        Port 0 is any free one.

        Raises:
            ConfigError: the address is not loopback and there is no cluster key.
            PlatformError: the address cannot be listened on.

        """
        self._check_exposed(host)
        if self._key is not None and self._authenticator is None:
            self._authenticate()
        socket = self._context.socket(zmq.PULL)
        self._set(socket, host)
        socket.setsockopt(zmq.RCVHWM, BATCHES_BUFFERED_MAX)
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * self._config.frame_bytes_max)
        if self._key is not None:
            socket.curve_server = True
            socket.curve_secretkey = self._key.secret
        try:
            socket.bind(f"tcp://{_bracketed(host)}:{port or '*'}")
        except zmq.ZMQError as error:
            socket.close(0)
            raise PlatformError(
                f"cannot listen on tcp://{host}:{port}: {error.strerror}",
                code="address_in_use",
                next_step="Stop what listens there, or choose another port in [queue].",
            ) from None
        endpoint = socket.get_string(zmq.LAST_ENDPOINT)
        self._inlets.append(
            Inlet(
                socket,
                kind,
                receiver,
                loop=self._loop,
                frame_bytes_max=self._config.frame_bytes_max,
                complaints=self._complaints,
            )
        )
        return endpoint

    def watch(self, kind: str, gone: Callable[[str], None], *, after_s: float) -> None:
        """Have `gone` told the address of a peer of this kind whose connection broke and was not
        made again for `after_s`: its process has ended, or the network is cut.
        """
        self._watched[kind] = (gone, after_s)

    def send(self, to: str, message: Message) -> None:
        """Send, never blocking. Unknown addresses are counted and dropped."""
        receiver = self._receivers.get(to)
        if receiver is not None:
            receiver(message)
            return
        outbox = self._outboxes.get(to)
        if outbox is None:
            outbox = self._connect(to)
            if outbox is None:
                count("messages_unaddressed")
                return
        outbox.add(message)

    def disconnect(self, address: str) -> None:
        """Give up what waits for an address that is gone."""
        outbox = self._outboxes.pop(address, None)
        if outbox is not None:
            outbox.close(0)

    def keep(self, kind: str, addresses: Collection[str]) -> None:
        """Give up everybody of a kind who is not among these and for whom nothing waits."""
        for address in list(self._outboxes):
            gone = address.startswith(f"{kind}:") and address not in addresses
            if gone and not self._outboxes[address]:
                self.disconnect(address)

    def waiting(self) -> int:
        """Messages that wait for their peers."""
        return sum(len(outbox) for outbox in self._outboxes.values())

    def close(self) -> None:
        """Send what can be sent within `LINGER_MS`; end all sockets."""
        for inlet in self._inlets:
            inlet.close()
        for outbox in self._outboxes.values():
            outbox.flush()
            outbox.close(LINGER_MS)
        self._inlets.clear()
        self._outboxes.clear()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.destroy(0)

    def _connect(self, address: str) -> Outbox | None:
        endpoint = endpoint_of(address) or self._routes.get(address, "")
        if not endpoint:
            return None
        host = endpoint.removeprefix("tcp://").rpartition(":")[0]
        if self._key is None and not _is_loopback(host):
            self._complaints.add("peers_refused", address, "no cluster key")
            return None
        if len(self._outboxes) >= PEERS_MAX:
            self.disconnect(next(iter(self._outboxes)))
        socket = self._context.socket(zmq.PUSH)
        self._set(socket, host)
        socket.setsockopt(zmq.SNDHWM, BATCHES_BUFFERED_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS_MAX)
        if self._key is not None:
            socket.curve_secretkey = self._key.secret
            socket.curve_publickey = self._key.public
            socket.curve_serverkey = self._key.public
        outbox = Outbox(socket, self._loop, waiting_max=self._config.waiting_max)
        watched = self._watched.get(address.partition(":")[0])
        if watched is not None:
            gone, after_s = watched
            outbox.watch(lambda: gone(address), after_s=after_s)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            outbox.close(0)
            self._complaints.add("peers_refused", address, error.strerror or str(error))
            return None
        self._outboxes[address] = outbox
        return outbox

    def _set(self, socket: zmq.Socket[bytes], host: str) -> None:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int(":" in host))
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)

    def _authenticate(self) -> None:
        """Let in who holds the cluster key, and nobody else."""
        assert self._key is not None
        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(
            domain="*", credentials_provider=_OnlyKey(self._key.public)
        )

    def _check_exposed(self, host: str) -> None:
        if self._key is None and not _is_loopback(host):
            raise ConfigError(
                f"{host} can be reached from other machines, and there is no cluster key",
                next_step="Make a key with `pratai keys cluster`, copy its file to every machine"
                " of the cluster and set [queue] key_file.",
                field="queue.key_file",
                value="",
            )


class _OnlyKey:
    """What `ThreadAuthenticator` asks for each peer."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002 - the library's signature
        """Whether a peer with this public key is let in."""
        return hmac.compare_digest(key, self._public)


def _is_loopback(host: str) -> bool:
    return host.startswith(_LOOPBACK)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
