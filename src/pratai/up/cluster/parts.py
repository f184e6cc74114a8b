"""What every process of a cluster is made of: its id, its key, its sockets, its store.

Nothing here decides anything; `gateway.py`, `scheduler.py`, `agent.py` and `node.py` compose.
"""

from __future__ import annotations

import asyncio
import socket

import msgspec
import structlog

from pratai.config.cluster_key import read_cluster_key
from pratai.config.schema import Config, Queue
from pratai.errors import ConfigError, PlatformError, StoreUnavailable
from pratai.store.base import Store
from pratai.transport.base import Receiver
from pratai.transport.zeromq.transport import CurveKey, ZeromqTransport

_log = structlog.get_logger("pratai.cluster")
#: First and longest wait before a store that does not answer is opened again.
OPEN_RETRY_S, OPEN_RETRY_S_MAX = 0.25, 5.0


class ProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a process was asked for on its command line."""

    kind: str
    config: Config
    #: Where it keeps its id, its files and its logs.
    data_dir: str
    ready_file: str | None = None


def create_transport(config: Config) -> tuple[ZeromqTransport, bytes]:
    """The sockets of this process, and the cluster key (b"" = none)."""
    secret = read_cluster_key(config.queue.key_file)
    queue = config.queue
    routes = {
        "scheduler": queue.scheduler_endpoint(),
        "collector": queue.collector_endpoint(),
    }
    key = CurveKey(secret) if secret else None
    return ZeromqTransport(queue, key=key, routes=routes), secret


def create_shared_store(config: Config) -> Store:
    """The store that all processes of a cluster share.

    Raises:
        ConfigError: the configured store belongs to one process.

    """
    if config.store.name != "elasticsearch":
        raise ConfigError(
            f"a cluster cannot share the store {config.store.name}",
            next_step="Set [store] name = elasticsearch and [elasticsearch] urls on every machine.",
            field="store.name",
            value=config.store.name,
            allowed=["elasticsearch"],
        )
    from pratai.store.elasticsearch.store import ElasticsearchStore

    return ElasticsearchStore(config.elasticsearch, config.store)


async def open_patiently(store: Store) -> None:
    """Open a store as soon as it can be: a cluster's machines start in any order.

    Raises:
        PlatformError: it never will: it was written by a newer version.
        ConfigError: it is not configured so that it can be opened.

    """
    wait_s = OPEN_RETRY_S
    while True:
        try:
            await store.open()
        except StoreUnavailable as error:
            _log.warning("store_unavailable", error=error.detail, retry_in_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(OPEN_RETRY_S_MAX, wait_s * 2)
        else:
            return


def own_address(queue: Queue) -> str:
    """The address at which the others reach this machine: the one it reaches the scheduler from."""
    if queue.advertise:
        return queue.advertise
    try:
        family, _, _, _, there = socket.getaddrinfo(
            queue.host, queue.scheduler_port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(there)
            address: str = probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(
            f"the scheduler's host {queue.host} cannot be reached from here: {error.strerror}",
            next_step="Set [queue] host to where the scheduler is, or [queue] advertise to an"
            " address of this machine.",
            field="queue.host",
            value=queue.host,
        ) from None
    return address


def listen(
    transport: ZeromqTransport, queue: Queue, kind: str, *, port: int, receiver: Receiver
) -> str:
    """Take messages of others for `kind` of address; the endpoint at which they reach it.

    A second process of a kind on one machine finds its port taken and takes any free one: it says
    itself where it is.
    """
    address = own_address(queue)
    bind = queue.bind or address
    try:
        bound = transport.listen(kind, bind, port, receiver)
    except PlatformError:
        bound = transport.listen(kind, bind, 0, receiver)
    return f"tcp://{_bracketed(address)}:{bound.rpartition(':')[2]}"


def bind_address(queue: Queue) -> str:
    """The address that the scheduler's own sockets listen on."""
    if queue.bind:
        return queue.bind
    found = socket.getaddrinfo(queue.host, None, type=socket.SOCK_STREAM)[0]
    return str(found[4][0])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
