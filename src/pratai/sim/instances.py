"""A simulated node: the real core, and instances that start, run, raise, crash and hang."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from pratai.core import effects as do
from pratai.model.invocation import Failure
from pratai.model.node import Capacity, address_of
from pratai.node.core import Node
from pratai.node.presence import Presence
from pratai.sim.process import Process, Stage
from pratai.sim.workload import SPIKE_MS_MAX, Function
from pratai.wire.instance import (
    Answered,
    Drain,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    Prepared,
    Returned,
)
from pratai.wire.messages import Dispatch, Leave, Message

#: How often a draining node looks whether it has nothing any more.
DRAIN_LOOK_MS = 20

RAISED = Failure(code="function_error", fault="function", error_type="ValueError")
CRASHED = Failure(code="crashed", fault="function", error_message="killed by signal 11")
KILLED = Failure(code="crashed", fault="function", error_message="killed")
INIT_FAILED = Failure(code="import_error", fault="function", error_type="ImportError")
DRIVER_FAILED = Failure(code="sandbox_failed", fault="platform", error_message="no sandbox")


class Instance:
    """One instance: the events it has, the first of which it runs once it is ready."""

    def __init__(self, instance_id: str, function: Function) -> None:
        self.instance_id = instance_id
        self.function = function
        self.events: deque[Dispatch] = deque()
        self.ready = False
        self.gone = False


class NodeProcess(Process):
    """One life of a node."""

    def __init__(
        self,
        stage: Stage,
        node_id: str,
        *,
        capacity: Capacity,
        functions: Mapping[str, Function],
        chance: Random,
    ) -> None:
        endpoint = f"tcp://{node_id}:5558"
        self.core = Node(
            stage.config.node,
            node_id,
            memory_mb=capacity.memory_mb,
            presence=Presence(node_id, endpoint=endpoint, capacity=capacity),
        )
        super().__init__(stage, address_of("node", node_id, endpoint), self.core)
        self.node_id = node_id
        self._functions = functions
        self._chance = chance
        self._instances: dict[str, Instance] = {}
        self._joined = False
        #: When the last thing said to the core arrives: what instances say stays in order.
        self._said_ms = 0
        self.does.update(
            {
                do.Prepare: self._prepare,
                do.Start: self._start,
                do.Run: self._run,
                do.Stop: self._stop,
                do.Recall: self._recall,
                do.Drop: lambda _: None,
            }
        )
        self._beat()

    def leave(self) -> None:
        """Give back what has not begun, end the rest, then go."""
        self.receive(Drain())
        self._leave_when_empty()

    def _leave_when_empty(self) -> None:
        if not self.alive:
            return
        if self.core.held:
            self.stage.timeline.after(DRAIN_LOOK_MS, self._leave_when_empty)
            return
        self.stage.network.send(self.address, "collector", Leave(node_id=self.node_id))
        self.die()

    def _beat(self) -> None:
        if not self.alive:
            return
        said = self.core.heartbeat() if self._joined else self.core.join()
        self._joined = True
        self.stage.network.send(self.address, "collector", said)
        self.stage.timeline.after(self.stage.config.node.heartbeat_ms, self._beat)

    # effects

    def _prepare(self, effect: do.Prepare) -> None:
        function = self._functions[effect.version_id]
        prepared = Prepared(version_id=effect.version_id, keep_warm=function.keep_warm)
        self._say_after(self._chance.randint(0, 30), prepared)

    def _start(self, effect: do.Start) -> None:
        function = self._functions[effect.version_id]
        instance = self._instances[effect.instance_id] = Instance(effect.instance_id, function)
        start_ms = self._chance.randint(*function.start_ms)
        self._later(instance, start_ms, partial(self._started, instance, start_ms))

    def _started(self, instance: Instance, start_ms: int) -> None:
        lot = self._chance.random()
        function = instance.function
        if lot < function.driver_fails:
            self._exit(instance, DRIVER_FAILED)
        elif lot < function.driver_fails + function.init_fails:
            self._say(InstanceFailed(instance_id=instance.instance_id, failure=INIT_FAILED))
            self._exit(instance, INIT_FAILED)
        else:
            instance.ready = True
            ready = InstanceReady(instance_id=instance.instance_id, start_us=start_ms * 1_000)
            self._say(ready)

    def _run(self, effect: do.Run) -> None:
        instance = self._instances.get(effect.instance_id)
        if instance is None or instance.gone:
            return
        assert instance.ready, f"{effect.instance_id} was given an event before it was ready"
        instance.events.append(effect.dispatch)
        if len(instance.events) == 1:
            self._begin(instance)

    def _begin(self, instance: Instance) -> None:
        function = instance.function
        run_ms = self._chance.randint(*function.run_ms)
        if self._chance.random() < function.spikes:
            run_ms = self._chance.randint(1, SPIKE_MS_MAX)
        lot = self._chance.random()
        if lot < function.hangs:
            return
        if lot < function.hangs + function.crashes:
            self._later(instance, run_ms, partial(self._exit, instance, CRASHED))
            return
        raised = lot < function.hangs + function.crashes + function.raises
        self._later(instance, run_ms, partial(self._answer, instance, run_ms, raised=raised))

    def _answer(self, instance: Instance, run_ms: int, *, raised: bool) -> None:
        dispatch = instance.events.popleft()
        self._say(
            Answered(
                instance_id=instance.instance_id,
                run_us=run_ms * 1_000 or self._chance.randint(50, 900),
                payload=b"" if raised else dispatch.request_id.encode(),
                failure=RAISED if raised else None,
            )
        )
        if instance.events:
            self._begin(instance)

    def _stop(self, effect: do.Stop) -> None:
        instance = self._instances.get(effect.instance_id)
        if instance is not None and not instance.gone:
            self._exit(instance, KILLED)

    def _recall(self, effect: do.Recall) -> None:
        instance = self._instances.get(effect.instance_id)
        while instance is not None and not instance.gone and len(instance.events) > 1:
            dispatch = instance.events.pop()
            self._say(Returned(instance_id=effect.instance_id, request_id=dispatch.request_id))

    # what instances say

    def _exit(self, instance: Instance, failure: Failure) -> None:
        instance.gone = True
        del self._instances[instance.instance_id]
        self._say(InstanceExited(instance_id=instance.instance_id, failure=failure))

    def _later(self, instance: Instance, delay_ms: int, action: Callable[[], None]) -> None:
        def act() -> None:
            if self.alive and not instance.gone:
                action()

        self.stage.timeline.after(delay_ms, act)

    def _say(self, message: Message) -> None:
        """Tell the core a moment later, in order."""
        self._said_ms = max(self._said_ms, self.stage.timeline.now_ms + self._chance.randint(0, 1))
        self.stage.timeline.at(self._said_ms, partial(self.receive, message))

    def _say_after(self, delay_ms: int, message: Message) -> None:
        self.stage.timeline.after(delay_ms, partial(self.receive, message))
