"""Simulated processes: each runs its real core as its service does, and dies as processes do.

A process that died takes nothing more; whatever it had asked of clock, network or journal and that
had not happened yet comes to nothing. Its next life is another object.
"""

from __future__ import annotations

from collections import Counter
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
from pratai.model.invocation import Invocation
from pratai.model.node import address_of
from pratai.scheduler.core.scheduler import Scheduler
from pratai.scheduler.recovery import recovered
from pratai.sim.journal import Journal
from pratai.sim.network import Network
from pratai.sim.timeline import Timeline
from pratai.wire.messages import Announce, Dispatch, Invoke, Message, Outcome, Roster, Tick

#: Longest time until a write is durable.
COMMIT_MS_MAX = 5
#: Invocations that a scheduler reads in one page when it starts, and the longest wait for a page.
RECOVERY_PAGE = 5
RECOVERY_MS_MAX = 60
#: Time between looks through the journal for what never arrived.
LOOK_MS = 700

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
        self.stage.network.drop_from(self.address)

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
    """A gateway that says now and then that it lives. `answer` is told what callers are given."""

    def __init__(
        self, stage: Stage, process_id: str, answer: Callable[[str, do.Answer], None]
    ) -> None:
        endpoint = f"tcp://{process_id}:5559"
        address = address_of("gateway", process_id, endpoint)
        self.core = Gateway(stage.config.gateway, address)
        super().__init__(stage, address, self.core)
        self.process_id = process_id
        self.does[do.Answer] = partial(answer, address)
        self.does[do.StreamChunk] = _nothing
        self.roster: Roster | None = None
        self._announcement = Announce(process_id=process_id, kind="gateway", endpoint=endpoint)
        self._announce()

    def receive(self, message: Message) -> None:
        """Take a message; one about the cluster is not the core's."""
        if isinstance(message, Roster):
            self.roster = message
        else:
            super().receive(message)

    def _announce(self) -> None:
        if self.alive:
            self.stage.network.send(self.address, "collector", self._announcement)
            self.stage.timeline.after(self.stage.config.gateway.announce_ms, self._announce)


class CollectorProcess(Process):
    """The collector's half of a scheduler process."""

    def __init__(self, stage: Stage, leases: Leases, scheduler_id: str) -> None:
        self.core = Collector(stage.config.scheduler, leases, scheduler_id=scheduler_id)
        super().__init__(stage, "collector", self.core)
        self.does[do.RecordOutcome] = self._finish
        self.does[do.RecordRetry] = self._retry
        self.does[do.Deliver] = _nothing
        self.does[do.RecordMember] = _nothing
        #: {request_id: writes under way}.
        self.settling: Counter[str] = Counter()

    def _finish(self, effect: do.RecordOutcome) -> None:
        outcome = effect.outcome
        assert isinstance(outcome, Outcome)
        self._settle(outcome, lambda: self.stage.journal.finish(outcome, dead=effect.dead))

    def _retry(self, effect: do.RecordRetry) -> None:
        outcome = effect.outcome
        assert isinstance(outcome, Outcome)
        self._settle(outcome, lambda: self.stage.journal.retry(outcome, effect.available_at_ms))

    def _settle(self, outcome: Outcome, change: Callable[[], object]) -> None:
        self.settling[outcome.request_id] += 1

        def settled() -> None:
            change()
            self.settling[outcome.request_id] -= 1

        self.write(settled)


class SchedulerProcess(Process):
    """A scheduler process: scheduler and collector around one ledger of leases."""

    def __init__(self, stage: Stage, scheduler_id: str) -> None:
        leases = Leases()
        self.core = Scheduler(stage.config.scheduler, leases)
        super().__init__(stage, "scheduler", self.core)
        self.collector = CollectorProcess(stage, leases, scheduler_id)
        self.does[do.RecordLease] = self._lease
        #: Invocations that came while the journal is read.
        self._arrived: set[str] = set()
        #: Unfinished ones that were nowhere when the journal was looked through last.
        self._missing: set[str] = set()
        leases.recovering = True
        self._recover([item.request_id for item in stage.journal.pending()])

    def receive(self, message: Message) -> None:
        """Take a message."""
        if isinstance(message, Invoke) and self.core.leases.recovering:
            self._arrived.add(message.request_id)
        super().receive(message)

    def _recover(self, request_ids: list[str]) -> None:
        """Queue or resume what the journal has unfinished, page by page, as the service does."""
        if not self.alive:
            return
        for request_id in request_ids[:RECOVERY_PAGE]:
            if request_id not in self._arrived:
                self._take_up(self.stage.journal.invocations[request_id])
        rest = request_ids[RECOVERY_PAGE:]
        if rest:
            wait_ms = self.stage.within(RECOVERY_MS_MAX)
            self.stage.timeline.after(wait_ms, partial(self._recover, rest))
            return
        self.core.leases.recovering = False
        self.stage.timeline.after(LOOK_MS, self._look)

    def _take_up(self, invocation: Invocation) -> None:
        if invocation.state == "done" or self.collector.settling[invocation.request_id]:
            return
        message = recovered(invocation, self.stage.config.scheduler.recoveries_max)
        if isinstance(message, Outcome):
            self.stage.network.send(self.address, "collector", message)
        else:
            super().receive(message)

    def _look(self) -> None:
        """Take up what was accepted and never arrived: its gateway died, or was cut off."""
        if not self.alive:
            return
        missing = {
            item.request_id
            for item in self.stage.journal.pending()
            if not self.core.knows(item.request_id) and not self.collector.settling[item.request_id]
        }
        for request_id in sorted(missing & self._missing):
            self._take_up(self.stage.journal.invocations[request_id])
        self._missing = missing
        self.stage.timeline.after(LOOK_MS, self._look)

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
