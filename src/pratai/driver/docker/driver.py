"""The Docker driver: one container for each version, instances forked inside it.

Decides which container serves which version; a container's life is `container.py`, what is asked
of the engine is `plan.py`, images are `images.py` and `provision.py`. Containers of an earlier
process of this node are adopted: they are warm, though their instances ended with that process.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import structlog

from pratai.config.schema import Driver as DriverConfig
from pratai.driver import processes
from pratai.driver.base import Fingerprint, InstanceSpec, InstanceStats, Listener
from pratai.driver.docker.container import Container
from pratai.driver.docker.engine import Engine, NoSuchObject
from pratai.driver.docker.images import LABEL_NODE
from pratai.driver.docker.leftovers import Leftovers
from pratai.driver.docker.plan import Place, Plan, container_name, make_plan
from pratai.driver.docker.provision import Provision
from pratai.driver.users import Users
from pratai.errors import ConfigError, PlatformError
from pratai.runtimes import catalog
from pratai.wire import frames

#: The runtimes listen for it; `runtimes/python/worker.py` has its own line of this.
_RECALL_SIGNAL = 41

_log = structlog.get_logger("driver")


class DockerDriver:
    """See `driver/base.py` for the contract."""

    name = "docker"

    def __init__(self, config: DriverConfig, *, state_dir: str) -> None:
        if not config.docker_host.startswith("unix://"):
            raise ConfigError(
                "the docker driver and its engine share directories: both are on one machine",
                next_step="Set [driver] docker_host to a unix:// socket.",
                field="driver.docker_host",
                value=config.docker_host,
                allowed="unix:///PATH",
            )
        self._config = config
        state_dir = os.path.realpath(state_dir)
        #: Names this node to the engine: the same after a restart with this data directory.
        node = hashlib.sha256(state_dir.encode()).hexdigest()[:24]
        self._place = Place(
            node=node,
            containers_dir=os.path.join(state_dir, "containers"),
            network=f"pratai-{node[:8]}",
        )
        self._engine = Engine(
            config.docker_host,
            timeout_ms=config.engine_timeout_ms,
            build_timeout_ms=config.build_timeout_ms,
        )
        self._users = Users(config.uid_first, config.uid_count, seed=int(node[:8], 16))
        self._provision = Provision(self._engine, config, catalog.default_runtime(), node=node)
        self._leftovers = Leftovers(self._engine, config, self._place)
        self._listener: Listener | None = None
        #: {key of its plan: container}, those that start no instance any more included.
        self._containers: dict[str, Container] = {}
        #: {key: starting}: containers under way.
        self._starting: dict[str, asyncio.Task[Container]] = {}
        #: {instance id: its container}.
        self._homes: dict[str, Container] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._version: Mapping[str, Any] = {}
        self._degraded: list[str] = []
        self._closing = False

    # the node's side

    async def open(self, listener: Listener) -> None:
        """Reach the engine, have the runtime's image, adopt or remove what an earlier process left.

        Raises:
            PlatformError: no engine, or no image that fits.

        """
        self._listener = listener
        self._closing = False
        os.makedirs(self._place.containers_dir, mode=0o711, exist_ok=True)
        self._version = await self._engine.version()
        info = await self._engine.info()
        _check_users(info)
        self._degraded = _degraded(info)
        await self._provision.open()
        await self._engine.ensure_network(self._place.network, _network(self._place))
        await self.recover()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def close(self) -> None:
        """Kill all instances, remove all containers; `on_exit` is said for each instance first."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        for starting in list(self._starting.values()):
            starting.cancel()
        if self._starting:
            await asyncio.wait(list(self._starting.values()))
        closing = [c.close("the node closes") for c in list(self._containers.values())]
        for problem in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(problem, BaseException):
                _log.error("container_not_closed", error=str(problem))
        try:
            await self._engine.remove_network(self._place.network)
        except PlatformError as error:
            _log.warning("network_not_removed", error=error.detail)
        await self._engine.close()

    async def recover(self) -> list[str]:
        """Adopt containers of an earlier process of this node. No instance outlives its process:
        the sockets on which it would answer ended with it, and so did the instance.
        """
        found = await self._leftovers.find(known=self._names())
        for container_id, plan, paused in found:
            container = self._new_container(plan)
            try:
                await container.adopt(container_id, paused=paused)
            except PlatformError as error:
                _log.info("container_not_adopted", container=plan.name, error=error.detail)
                continue
            self._users.take(plan.version_id, plan.uid)
            self._containers[plan.key] = container
            _log.info("container_adopted", container=plan.name, version_id=plan.version_id)
        return []

    async def fingerprint(self) -> Fingerprint:
        """What the engine is and lacks; not healthy while it does not answer."""
        degraded = list(self._degraded)
        healthy = self._listener is not None and not self._closing
        try:
            self._version = await self._engine.version()
        except PlatformError as error:
            healthy = False
            degraded.append(error.detail)
        return Fingerprint(
            driver=self.name,
            healthy=healthy,
            runtimes=[catalog.default_runtime().name],
            degraded=degraded,
            engine=f"Docker {self._version.get('Version', '?')}",
        )

    async def prepare(self, spec: InstanceSpec) -> None:
        """Have a container of the version with its module imported, and its image if it needs one.

        Raises:
            PlatformError: the engine refuses, or packages of the system could not be installed.

        """
        container = await self._container(spec)
        await container.prepare(spec)

    async def start(self, spec: InstanceSpec) -> None:
        """Fork an instance in the container of its version, started now if there is none."""
        container = await self._container(spec)
        self._homes[spec.instance_id] = container
        try:
            await container.begin(spec)
        except BaseException:
            if spec.instance_id not in container.instances:
                self._homes.pop(spec.instance_id, None)
            raise

    def send(self, instance_id: str, frame: bytes) -> None:
        """Write a frame to an instance; its container goes on if it is paused."""
        if found := self._find(instance_id):
            container, instance = found
            instance.send(frame)
            container.touch()

    def recall(self, instance_id: str) -> None:
        """Ask it by a signal to hand back events that it has not begun."""
        if found := self._find(instance_id):
            container, instance = found
            instance.signal(_RECALL_SIGNAL)
            container.touch()

    async def freeze(self, instance_id: str) -> None:
        """Stop it and all it started."""
        if found := self._find(instance_id):
            await found[0].awake()
            found[1].signal_all(19)

    async def thaw(self, instance_id: str) -> None:
        """Let it and all it started go on."""
        if found := self._find(instance_id):
            await found[0].awake()
            found[1].signal_all(18)

    async def stop(self, instance_id: str, grace_ms: int) -> None:
        """Ask it to end, wait, then kill it and all it started. Returns when it is gone."""
        if found := self._find(instance_id):
            container, instance = found
            await container.stop(instance, frames.encode(frames.SHUTDOWN), grace_ms)

    async def forget(self, version_id: str) -> None:
        """Use its container no more; the container ends with its last instance."""
        for container in list(self._containers.values()):
            if container.plan.version_id == version_id:
                container.retire()

    def stats(self, instance_id: str) -> InstanceStats | None:
        """Memory, processor time and processes of an instance's tree, as this machine sees it."""
        found = self._find(instance_id)
        if found is None or not found[1].pid:
            return None
        tree = [found[1].pid, *processes.descendants(found[1].pid)]
        return InstanceStats(
            memory_bytes=sum(map(processes.memory_bytes, tree)),
            cpu_us=sum(map(processes.cpu_us, tree)),
            processes=len(tree),
        )

    # containers

    async def _container(self, spec: InstanceSpec) -> Container:
        """The container for a version: the one there is, or a new one."""
        if self._listener is None or self._closing:
            raise PlatformError("the driver is not open", next_step="Open it first.")
        image, mounted = await self._provision.image_for(spec)
        plan = make_plan(
            spec,
            self._config,
            self._place,
            image=image,
            uid=self._uid(spec.version.version_id),
            mounted=mounted,
        )
        known = self._containers.get(plan.key)
        if known is not None and known.reuse():
            return known
        starting = self._starting.get(plan.key)
        if starting is None:
            starting = asyncio.get_running_loop().create_task(self._start_container(plan, known))
            self._starting[plan.key] = starting
            starting.add_done_callback(lambda _: self._starting.pop(plan.key, None))
        return await asyncio.shield(starting)

    async def _start_container(self, plan: Plan, ending: Container | None) -> Container:
        if ending is not None:
            await ending.gone
        for other in list(self._containers.values()):
            if other.plan.version_id == plan.version_id:
                other.retire()
        self._make_room()
        container = self._new_container(plan)
        try:
            await container.start()
        except NoSuchObject:
            # Somebody removed the image: looked for, and made again, at the next start.
            self._provision.forget(plan.image)
            raise
        self._containers[plan.key] = container
        return container

    def _new_container(self, plan: Plan) -> Container:
        assert self._listener is not None
        return Container(
            plan,
            engine=self._engine,
            listener=self._listener,
            pause_idle_ms=self._config.pause_idle_ms,
            on_exit=self._on_instance_gone,
            on_gone=self._on_container_gone,
        )

    def _make_room(self) -> None:
        """At the bound, the container that was unused for longest goes."""
        if len(self._containers) + len(self._starting) <= self._config.containers_max:
            return
        idle = [c for c in self._containers.values() if not (c.instances or c.held or c.retired)]
        if not idle:
            raise PlatformError(
                f"all {self._config.containers_max} containers of this node are in use",
                next_step="Try again later, add a node, or raise [driver] containers_max.",
            )
        min(idle, key=lambda container: container.used_at).retire()

    def _on_instance_gone(self, instance_id: str) -> None:
        self._homes.pop(instance_id, None)

    def _on_container_gone(self, container: Container) -> None:
        if self._containers.get(container.plan.key) is container:
            del self._containers[container.plan.key]

    def _find(self, instance_id: str) -> tuple[Container, Any] | None:
        container = self._homes.get(instance_id)
        if container is None:
            return None
        instance = container.instances.get(instance_id)
        if instance is None:
            return None
        return container, instance

    def _uid(self, version_id: str) -> int:
        """As root a user id of its own for each version; else the platform's own, never root."""
        if os.geteuid() != 0:
            return os.geteuid()
        return self._users.uid(version_id, self._is_in_use)

    def _is_in_use(self, version_id: str) -> bool:
        return any(c.plan.version_id == version_id for c in self._containers.values())

    def _names(self) -> set[str]:
        return {container_name(self._place, key) for key in [*self._containers, *self._starting]}

    async def _sweep(self) -> None:
        """Now and then remove what nothing uses: containers of nobody, old images of functions."""
        while True:
            try:
                await self._leftovers.sweep(known=self._names, images=self._provision.in_use())
            except PlatformError as error:
                _log.warning("sweep_failed", error=error.detail)
            await asyncio.sleep(self._config.sweep_ms / 1000)


def _network(place: Place) -> dict[str, Any]:
    """Functions reach the outside and not each other."""
    return {
        "Driver": "bridge",
        "Labels": {LABEL_NODE: place.node},
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
    }


def _check_users(info: Mapping[str, Any]) -> None:
    options = " ".join(info.get("SecurityOptions") or [])
    if "userns" in options or "rootless" in options:
        raise PlatformError(
            "the engine remaps users, so that containers cannot use this node's sockets",
            next_step="Use an engine without userns-remap and not rootless: functions have user "
            "ids of their own here.",
        )


def _degraded(info: Mapping[str, Any]) -> list[str]:
    """What is missing for full isolation, from what the engine says of its machine."""
    found = ["instances of one version share their container's processes and /tmp"]
    for key, sentence in _WANTED.items():
        if not info.get(key, True):
            found.append(sentence)
    options = " ".join(info.get("SecurityOptions") or [])
    if "seccomp" not in options:
        found.append("the engine has no seccomp: system calls are not filtered")
    if "apparmor" not in options and "selinux" not in options:
        found.append("neither AppArmor nor SELinux confines containers")
    if os.geteuid() != 0:
        found.append("not root: functions run under the user id that the platform runs as")
    return found


_WANTED = {
    "MemoryLimit": "the engine cannot limit memory",
    "SwapLimit": "the engine cannot limit swap: containers may use it beside their memory",
    "PidsLimit": "the engine cannot limit processes",
    "CpuCfsQuota": "the engine cannot limit processor time",
}
