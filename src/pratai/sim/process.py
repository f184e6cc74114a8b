"""Simulated processes: each runs its real core as its service does, and dies as processes do.

A process that died takes nothing more; whatever it had asked of clock, network or journal and that
had not happened yet comes to nothing. Its next life is another object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from msgspec.structs import replace

from pratai.collector.core import Collector
from pratai.config import schema
from pratai.core import effects as do
from pratai.core.effects import Effect
from pratai.core.leases import Leases
from pratai.core.machine import Machine
from pratai.gateway.core import Gateway
from pratai.scheduler.core.scheduler import Scheduler
from pratai.scheduler.recovery import recovered
from pratai.sim.journal import Journal
from pratai.sim.network import Network
from pratai.sim.timeline import Timeline
from pratai.wire.messages import Dispatch, Message, Outcome, Tick

#: Longest time until a write is durable.
COMMIT_MS_MAX = 5

_TICK = Tick()


class Stage(Protocol):
    """What processes live on; `World` is one."""

    timeline: Timeline
    network: Network
    journal: Journal
    config: schema.Config

    def within(self, ms_max: int) -> int:
        """A random time of at most this long."""
        ...

    def stepped(self, address: str, message: Message, effects: list[Effect]) -> None:
        """A core took a message and decided this; told before anything of it is done."""
        ...


class Process:
    """One core with an address, a timer and a life."""

    def __init__(self, stage: Stage, address: str, core: Machine) -> None:
        self.stage = stage
        self.address = address
        self._machine = core
        self.alive = True
        self._wake_at_ms = 0
        self.does: dict[type[Effect], Callable[[Any], None]] = {
            do.Send: self._send,
            do.Wake: self._wake,
            do.Count: _nothing,
            do.Disconnect: _nothing,
        }
        stage.network.bind(address, self.receive)

    def receive(self, message: Message) -> None:
        """Take a message, unless dead."""
        if not self.alive:
            return
        effects = self._machine.handle(message, self.stage.timeline.now_ms)
        self._machine.check()
        self.stage.stepped(self.address, message, effects)
        for effect in effects:
            self.does[type(effect)](effect)

    def die(self) -> None:
        """Be gone."""
        self.alive = False
        self.stage.network.unbind(self.address)

    def write(self, change: Callable[[], object]) -> None:
        """Have the journal changed in a moment, if this process lives until then."""

        def commit() -> None:
            if self.alive:
                change()

        self.stage.timeline.after(self.stage.within(COMMIT_MS_MAX), commit)

    def _send(self, effect: do.Send) -> None:
        self.stage.network.send(self.address, effect.to, effect.message)

    def _wake(self, effect: do.Wake) -> None:
        """Keep the earliest wish only, as services do: cores wish again at every tick."""
        if self._wake_at_ms and self._wake_at_ms <= effect.at_ms:
            return
        self._wake_at_ms = effect.at_ms
        self.stage.timeline.at(effect.at_ms, partial(self._tick, effect.at_ms))

    def _tick(self, at_ms: int) -> None:
        if self._wake_at_ms == at_ms:
            self._wake_at_ms = 0
            self.receive(_TICK)


def _nothing(_: Effect) -> None:
    """Counters and the like are of no interest here."""


class GatewayProcess(Process):
    """A gateway. `answer` is told every result given to a caller."""

    def __init__(self, stage: Stage, address: str, answer: Callable[[do.Answer], None]) -> None:
        self.core = Gateway(stage.config.gateway, address)
        super().__init__(stage, address, self.core)
        self.does[do.Answer] = answer
        self.does[do.StreamChunk] = _nothing


class CollectorProcess(Process):
    """The collector's half of a scheduler process."""

    def __init__(self, stage: Stage, leases: Leases) -> None:
        self.core = Collector(stage.config.scheduler, leases)
        super().__init__(stage, "collector", self.core)
        self.does[do.RecordOutcome] = self._finish
        self.does[do.RecordRetry] = self._retry
        self.does[do.Deliver] = _nothing
        self.does[do.RecordMember] = _nothing
        #: Outcomes asked to be recorded, for those who check.
        self.recorded: list[str] = []

    def _finish(self, effect: do.RecordOutcome) -> None:
        outcome = effect.outcome
        assert isinstance(outcome, Outcome)
        self.recorded.append(outcome.request_id)
        self.write(lambda: self.stage.journal.finish(outcome, dead=effect.dead))

    def _retry(self, effect: do.RecordRetry) -> None:
        outcome = effect.outcome
        assert isinstance(outcome, Outcome)
        self.write(lambda: self.stage.journal.retry(outcome, effect.available_at_ms))


class SchedulerProcess(Process):
    """A scheduler process: scheduler and collector around one ledger of leases."""

    def __init__(self, stage: Stage, gateways: list[str]) -> None:
        leases = Leases()
        self.core = Scheduler(stage.config.scheduler, leases, gateways)
        super().__init__(stage, "scheduler", self.core)
        self.collector = CollectorProcess(stage, leases)
        self.does[do.RecordLease] = self._lease

    def recover(self) -> None:
        """Queue what the journal has unfinished, as the service does when it starts."""
        for invocation in self.stage.journal.pending():
            message = recovered(invocation, self.stage.config.scheduler.recoveries_max)
            if isinstance(message, Outcome):
                self.stage.network.send(self.address, "collector", message)
            else:
                self.receive(message)

    def die(self) -> None:
        """Both halves are gone."""
        super().die()
        self.collector.die()

    def _lease(self, effect: do.RecordLease) -> None:
        self.write(
            lambda: self.stage.journal.lease(effect.request_id, effect.attempt, effect.node_id)
        )

    def _send(self, effect: do.Send) -> None:
        message = effect.message
        if not isinstance(message, Dispatch) or message.payload is not None:
            super()._send(effect)
            return

        def send_from_journal() -> None:
            if self.alive:
                event = self.stage.journal.invocations[message.request_id].event
                self.stage.network.send(self.address, effect.to, replace(message, payload=event))

        self.stage.timeline.after(self.stage.within(COMMIT_MS_MAX), send_from_journal)
