"""The contract of drivers: what a node asks of whatever makes its sandboxes.

A driver does I/O only; every decision (when to start, reuse, evict) is the node core's. Events of
instances arrive at the `Listener`, always on the node's event loop, never from another thread.
One contract suite (`tests/contract/test_driver.py`) runs over every driver.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pratai.model.function import Version


class InstanceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All a driver needs to start an instance of a version."""

    instance_id: str
    version: Version
    #: Directory with the unpacked package, read-only for the function.
    code_dir: str
    #: Directory with the dependencies (`sys.path` entry), or "" for none.
    layer_dir: str
    #: The function's own variables and secrets, merged.
    environment: dict[str, str]
    #: Result and log limits that the bootstrap keeps to.
    result_bytes_max: int = 6 * 1024 * 1024
    log_bytes_max: int = 1024 * 1024
    init_timeout_ms: int = 10_000


class InstanceExit(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance's main process ended."""

    #: Exit code, or None when a signal ended it.
    code: int | None = None
    #: Signal number, or None.
    signal: int | None = None
    #: One sentence for its owner, e.g. "killed by SIGSEGV (segmentation fault)".
    detail: str = ""
    out_of_memory: bool = False


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What this driver can do on this machine."""

    driver: str
    healthy: bool
    runtimes: list[str]
    #: What is missing for full isolation; each entry one sentence. Empty is best.
    degraded: list[str] = []
    #: What makes the sandboxes, with its version, where that is a program of its own.
    engine: str = ""


class InstanceStats(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance costs now."""

    memory_bytes: int
    cpu_us: int
    processes: int


class Listener(Protocol):
    """Where a driver reports what its instances do. The node service is one."""

    def on_frame(self, instance_id: str, kind: int, meta: bytes, payload: bytes) -> None:
        """A frame of `wire/frames.py` arrived, READY and INIT_ERROR included."""
        ...

    def on_output(self, instance_id: str, stream: str, text: str) -> None:
        """Something was written to the instance's own stdout or stderr outside the channel."""
        ...

    def on_exit(self, instance_id: str, how: InstanceExit) -> None:
        """The instance is gone with all it started. The last call for this instance."""
        ...


class Driver(Protocol):
    """Makes, feeds and ends sandboxes."""

    name: str

    async def open(self, listener: Listener) -> None:
        """Get ready (start base zygotes, connect to an engine).

        Raises:
            PlatformError: this driver cannot work here; the sentence says why.

        """
        ...

    async def close(self) -> None:
        """Kill every instance and helper process; nothing stays behind."""
        ...

    async def fingerprint(self) -> Fingerprint:
        """What can be done here, and what is degraded."""
        ...

    async def prepare(self, spec: InstanceSpec) -> None:
        """Make later starts of this version fast. Optional work: a failure is not an error."""
        ...

    async def start(self, spec: InstanceSpec) -> None:
        """Begin an instance. Returns once it is begun; READY, INIT_ERROR or exit follow.

        Raises:
            PlatformError: it could not even be begun.

        """
        ...

    def send(self, instance_id: str, frame: bytes) -> None:
        """Write a frame to an instance, never blocking; frames of one loop turn are coalesced.
        Unknown or ended instances are ignored: their `on_exit` has been or will be said.
        """
        ...

    def recall(self, instance_id: str) -> None:
        """Ask a busy instance for the events that it was sent and has not begun.

        Each comes back as a RETURNED frame and is never run there, or is run and answered as
        usual: one of the two, whichever came first. An instance that is not busy ignores it.
        """
        ...

    async def freeze(self, instance_id: str) -> None:
        """Stop giving it CPU time."""
        ...

    async def thaw(self, instance_id: str) -> None:
        """Undo `freeze`."""
        ...

    async def stop(self, instance_id: str, grace_ms: int) -> None:
        """End it and all it started; after `grace_ms` by force. `on_exit` follows."""
        ...

    async def forget(self, version_id: str) -> None:
        """Drop what `prepare` made for this version."""
        ...

    async def recover(self) -> list[str]:
        """Clean up or adopt what an earlier process of this node left; ids of adopted instances."""
        ...

    def stats(self, instance_id: str) -> InstanceStats | None:
        """Current cost, or None when it is gone."""
        ...
