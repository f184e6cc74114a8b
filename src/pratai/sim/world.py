"""One simulated cluster: two gateways, a scheduler process, up to three nodes, and what befalls
them.

Everything random is drawn from the seed, here or by those given `chance`; the same seed is the
same run, to the last message.
"""

from __future__ import annotations

import zlib
from collections import deque
from functools import partial
from random import Random

import msgspec

from pratai.config import schema
from pratai.core.effects import Answer, Effect
from pratai.model.node import Capacity
from pratai.sim.checkers import Broken, Checkers
from pratai.sim.instances import NodeProcess
from pratai.sim.journal import Journal
from pratai.sim.network import HELD_UP_MS_MAX, Network
from pratai.sim.process import GatewayProcess, Process, SchedulerProcess
from pratai.sim.timeline import Timeline
from pratai.sim.workload import FUNCTIONS, NAMESPACE, Call, invocation_of, invoke_of, plan
from pratai.wire.messages import BACKLOG_LASTS_MS, Cancel, DrainNode, Forget, Message, Outcome

GATEWAYS = ("g1", "g2")
#: Steps of the story that a failure tells, and steps remembered for it.
STORY_STEPS = 40
STEPS_KEPT = 20_000
#: Simulated time after which a run that is not quiet will never be.
QUIET_MS_MAX = 180_000
SLICE_MS = 500

FAULTS = (
    "node_dies",
    "scheduler_dies",
    "gateway_dies",
    "node_cut_off",
    "gateway_cut_off",
    "node_leaves",
    "node_drained",
)


class SimulationFailed(AssertionError):
    """A seed whose run broke a promise, with the story of what it is about."""

    def __init__(self, seed: int, reason: str, story: list[str]) -> None:
        super().__init__("\n".join([f"seed {seed}: {reason}", *story]))
        self.seed = seed
        self.reason = reason


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one run came to."""

    seed: int
    invocations: int
    #: Outcomes in the journal, by kind.
    outcomes: dict[str, int]
    steps: int
    simulated_ms: int
    #: Of every message that every core took, with its time.
    trace_hash: int


class World:
    """A cluster from a seed."""

    def __init__(self, seed: int, *, calls: int = 70, faults: bool = True) -> None:
        self.seed = seed
        self.chance = Random(seed)  # noqa: S311  a simulation wants repeatable chance
        self.timeline = Timeline()
        self.network = Network(self.timeline, self.chance)
        self.journal = Journal()
        self.config = _config(self.chance)
        self.checkers = Checkers(self.config.gateway.deadline_grace_ms, faults=faults)
        self._faults = faults
        self._functions = {function.version_id: function for function in FUNCTIONS}
        self._plan = plan(self.chance, calls, self.timeline.now_ms + 50)
        self._steps: deque[tuple[int, str, Message]] = deque(maxlen=STEPS_KEPT)
        self._steps_count = 0
        self._trace_hash = 0
        self._lives = 0
        #: Nodes that an operator takes out of service and back in.
        self._drained: dict[str, None] = {}
        self.scheduler = SchedulerProcess(self, "s0")
        self.gateways: list[GatewayProcess] = []
        for process_id in GATEWAYS:
            self.gateways.append(GatewayProcess(self, process_id, self._answer))
        self.nodes: dict[str, NodeProcess] = {}
        for number in range(1, self.chance.randint(1, 3) + 1):
            self._add_node(f"n{number}")

    def run(self) -> Report:
        """Run to the end; raises `SimulationFailed` where a promise is broken."""
        try:
            self._run()
        except Exception as error:
            request_id = error.request_id if isinstance(error, Broken) else ""
            reason = f"{type(error).__name__}: {error}"
            raise SimulationFailed(self.seed, reason, self._story(request_id)) from error
        outcomes: dict[str, int] = {}
        for invocation in self.journal.invocations.values():
            outcomes[invocation.outcome] = outcomes.get(invocation.outcome, 0) + 1
        return Report(
            seed=self.seed,
            invocations=len(self._plan),
            outcomes=outcomes,
            steps=self._steps_count,
            simulated_ms=self.timeline.now_ms,
            trace_hash=self._trace_hash,
        )

    # what processes live on

    def within(self, ms_max: int) -> int:
        """A random time of at most this long."""
        return self.chance.randint(0, ms_max)

    def stepped(self, address: str, message: Message, effects: list[Effect]) -> None:
        """A core took a message and decided this."""
        now_ms = self.timeline.now_ms
        self._steps.append((now_ms, address, message))
        self._steps_count += 1
        line = f"{now_ms} {address} {type(message).__name__} {_about(message)}"
        self._trace_hash = zlib.crc32(line.encode(), self._trace_hash)
        if address in {"scheduler", "collector"}:
            self.checkers.decided(effects)

    def _answer(self, gateway: str, effect: Answer) -> None:
        self.checkers.answered(gateway, effect.result, self.timeline.now_ms)

    # the run

    def _run(self) -> None:
        for call in self._plan:
            self.timeline.at(call.at_ms, partial(self._call, call))
        end_ms = self._plan[-1].at_ms + 1_000
        if self._faults:
            self._disturb(self._plan[0].at_ms, end_ms)
        self.timeline.run_until(end_ms)
        self._mend()
        quiet_ms = end_ms + QUIET_MS_MAX
        while not self._is_quiet():
            if self.timeline.now_ms > quiet_ms:
                raise self._left_over()
            for node_id in self._drained:
                self._drain(node_id, drain=False)
            self.timeline.run_until(self.timeline.now_ms + SLICE_MS)
        self.timeline.run_until(self.timeline.now_ms + HELD_UP_MS_MAX)
        self._keep_nothing_warm()
        rest_ms = 2 * self.config.node.idle_max_ms + self.config.scheduler.node_silence_max_ms
        rest_ms = max(rest_ms, BACKLOG_LASTS_MS)
        self.timeline.run_until(self.timeline.now_ms + rest_ms + SLICE_MS)
        for request_id, invocation in self.journal.invocations.items():
            if invocation.state == "done":
                self.checkers.settled(request_id)
        self.checkers.at_end(self.journal.invocations)
        self._leaves_nothing()

    def _call(self, call: Call) -> None:
        gateway = self.chance.choice(self.gateways)
        function = call.function.name
        if not call.sync and gateway.core.backlog_wait_s(NAMESPACE, function):
            return
        if call.journalled:
            gateway.write(partial(self._accept, call, gateway))
        else:
            self._begin(call, gateway, journalled=False)

    def _accept(self, call: Call, gateway: GatewayProcess) -> None:
        """The batch was committed: the event is durable, and only now on its way."""
        invocation = invocation_of(call, self.timeline.now_ms)
        self.journal.accept(invocation)
        self.checkers.accept(invocation)
        if call.sync:
            self._begin(call, gateway, journalled=True)
        else:
            message = invoke_of(invocation, reply_to="", journalled=True)
            self.network.send(gateway.address, "scheduler", message)

    def _begin(self, call: Call, gateway: GatewayProcess, *, journalled: bool) -> None:
        invocation = invocation_of(call, self.timeline.now_ms)
        self.checkers.called(call.request_id, invocation.expires_at_ms, gateway.address)
        if call.gone_at_ms:
            self.timeline.at(call.gone_at_ms, partial(self._hang_up, call, gateway))
        invoke = invoke_of(invocation, reply_to=gateway.address, journalled=journalled)
        gateway.receive(invoke)

    def _hang_up(self, call: Call, gateway: GatewayProcess) -> None:
        if not gateway.alive or call.request_id not in gateway.core.waiting or call.journalled:
            return
        self.checkers.hung_up(call.request_id)
        gateway.receive(Cancel(request_id=call.request_id))

    # what befalls it

    def _disturb(self, start_ms: int, end_ms: int) -> None:
        self.network.faulty = self.chance.random() < 0.8
        for _ in range(self.chance.randint(0, 4)):
            kind = self.chance.choice(FAULTS)
            fault = getattr(self, f"_{kind}")
            self.timeline.at(self.chance.randint(start_ms, end_ms), fault)

    def _mend(self) -> None:
        self.network.faulty = False
        self.network.cut_off.clear()

    def _node_dies(self) -> None:
        node = self.chance.choice(list(self.nodes.values()))
        if not node.alive:
            return
        node.die()
        self._lives += 1
        again = node.node_id if self.chance.random() < 0.5 else f"{node.node_id}.{self._lives}"
        self._replace_node_later(node.node_id, again)

    def _node_leaves(self) -> None:
        node = self.chance.choice(list(self.nodes.values()))
        if node.alive:
            node.leave()
            self._lives += 1
            self._replace_node_later(node.node_id, f"{node.node_id}.{self._lives}")

    def _node_cut_off(self) -> None:
        self._cut_off(self.chance.choice(list(self.nodes.values())))

    def _gateway_cut_off(self) -> None:
        self._cut_off(self.chance.choice(self.gateways))

    def _cut_off(self, process: Process) -> None:
        address = process.address
        self.network.cut_off.add(address)
        self.timeline.after(
            self.chance.randint(200, 4_000), partial(self.network.cut_off.discard, address)
        )

    def _node_drained(self) -> None:
        """An operator takes a node out of service, and back in."""
        node_id = self.chance.choice(list(self.nodes))
        self._drain(node_id, drain=True)
        self.timeline.after(
            self.chance.randint(100, 2_000), partial(self._drain, node_id, drain=False)
        )

    def _drain(self, node_id: str, *, drain: bool) -> None:
        """Said again at the end, as an operator does who sees that it was not heard."""
        self._drained.setdefault(node_id)
        gateway = self.chance.choice(self.gateways)
        move = DrainNode(node_id=node_id, drain=drain)
        self.network.send(gateway.address, "scheduler", move)

    def _scheduler_dies(self) -> None:
        if not self.scheduler.alive:
            return
        self.scheduler.die()
        for request_id, invocation in self.journal.invocations.items():
            if invocation.state == "done":
                self.checkers.settled(request_id)
        self.checkers.scheduler_died()
        self.timeline.after(self.chance.randint(10, 2_000), self._scheduler_starts)

    def _scheduler_starts(self) -> None:
        self._lives += 1
        self.scheduler = SchedulerProcess(self, f"s{self._lives}")

    def _gateway_dies(self) -> None:
        """Another life begins at once at the same address, or a while later as somebody else."""
        place = self.chance.randrange(len(self.gateways))
        dead = self.gateways[place]
        dead.die()
        self.checkers.gateway_died(dead.address)
        process_id = dead.process_id
        if self.chance.random() < 0.5:
            self._lives += 1
            process_id = f"g{place + 1}.{self._lives}"
        self.gateways[place] = GatewayProcess(self, process_id, self._answer)

    def _replace_node_later(self, old_id: str, new_id: str) -> None:
        def replace_node() -> None:
            old = self.nodes.get(old_id)
            if old is not None and not old.alive:
                del self.nodes[old_id]
            self._add_node(new_id)

        self.timeline.after(self.chance.randint(50, 4_000), replace_node)

    def _add_node(self, node_id: str) -> None:
        chance = self.chance
        capacity = Capacity(
            slots=chance.randint(1, 4), prefetch=chance.randint(0, 2), memory_mb=1_024
        )
        self.nodes[node_id] = NodeProcess(
            self, node_id, capacity=capacity, functions=self._functions, chance=chance
        )

    # the end

    def _living(self) -> list[NodeProcess]:
        return [node for node in self.nodes.values() if node.alive]

    def _is_quiet(self) -> bool:
        scheduler = self.scheduler.core
        return (
            self.scheduler.alive
            and not self.journal.pending()
            and not len(scheduler.queues)
            and not len(scheduler.leases)
            and not any(gateway.core.waiting for gateway in self.gateways)
            and not any(node.core.held for node in self._living())
        )

    def _keep_nothing_warm(self) -> None:
        for node in self._living():
            for version_id in list(node.core.pool.versions):
                node.receive(Forget(version_id=version_id))

    def _left_over(self) -> Broken:
        """What is still there when nothing should be."""
        pending = [item.request_id for item in self.journal.pending()]
        leases = {
            lease.invoke.request_id: lease.node_id
            for node_id in self.scheduler.core.placement.nodes
            for lease in self.scheduler.core.leases.of_node(node_id)
        }
        held = {node.node_id: list(node.core.held) for node in self._living() if node.core.held}
        waiting = [key for gateway in self.gateways for key in gateway.core.waiting]
        concerned = [*pending, *leases, *waiting, *(key for keys in held.values() for key in keys)]
        return Broken(
            f"not quiet after {QUIET_MS_MAX} ms: in the journal {pending}, leased {leases}, held "
            f"{held}, waiting {waiting}, queued {len(self.scheduler.core.queues)}",
            concerned[0] if concerned else "",
        )

    def _leaves_nothing(self) -> None:
        """Every core's memory is as it was before the first call."""
        scheduler = self.scheduler.core
        left = {
            "payload_bytes": scheduler.payload_bytes,
            "functions": scheduler.queues.functions,
            "delayed": len(scheduler._delayed),
            "delays": len(scheduler._delays),
            "expiries": len(scheduler._expiry),
            "early": len(self.scheduler.collector.core._early),
        }
        for gateway in self.gateways:
            left[f"waiting bytes of {gateway.process_id}"] = gateway.core.waiting_bytes
            left[f"deadlines of {gateway.process_id}"] = len(gateway.core._deadlines)
            left[f"full backlogs of {gateway.process_id}"] = len(gateway.core._full)
        for node in self._living():
            core = node.core
            left[f"instances of {node.node_id}"] = len(core.pool.instances)
            left[f"deadlines of {node.node_id}"] = len(core._deadlines)
            left[f"versions of {node.node_id}"] = len(core.pool.versions)
        for ledger in scheduler.placement.nodes.values():
            left[f"held by {ledger.node_id}"] = ledger.held
            unused = ledger.credit and not ledger.draining and ledger.place < 0
            left[f"credit unused of {ledger.node_id}"] = ledger.credit if unused else 0
        kept = {name: count for name, count in left.items() if count}
        if kept:
            raise Broken(f"left over at the end: {kept}")
        known, living = set(scheduler.placement.nodes), {node.node_id for node in self._living()}
        if known != living:
            raise Broken(f"the scheduler knows nodes {known}, those that live are {living}")
        addresses = {gateway.address for gateway in self.gateways}
        if set(scheduler.backlogs.gateways) != addresses:
            raise Broken(f"the scheduler knows {scheduler.backlogs.gateways}, not {addresses}")

    def _story(self, request_id: str) -> list[str]:
        """The last steps that concern a request, or the last of all."""
        steps = [
            f"  {at_ms} {address} {type(message).__name__} {_about(message)}{_detail(message)}"
            for at_ms, address, message in self._steps
            if not request_id or getattr(message, "request_id", "") == request_id
        ]
        return steps[-STORY_STEPS:]


def _about(message: Message) -> str:
    """The request, instance, node or version that a message is about."""
    for field in ("request_id", "instance_id", "node_id", "version_id"):
        value: str = getattr(message, field, "")
        if value:
            return value
    return ""


def _detail(message: Message) -> str:
    if isinstance(message, Outcome):
        code = message.failure.code if message.failure is not None else ""
        return f" attempt {message.attempt} on {message.node_id}: {message.outcome} {code}"
    attempt: int | None = getattr(message, "attempt", None)
    return "" if attempt is None else f" attempt {attempt}"


def _config(chance: Random) -> schema.Config:
    """Small bounds, so that they are met."""
    return schema.Config(
        gateway=schema.Gateway(
            waiting_max=chance.choice((10, 1_000)),
            waiting_bytes_max=chance.choice((3_000, 1 << 20)),
            deadline_grace_ms=chance.choice((50, 500)),
            announce_ms=300,
        ),
        scheduler=schema.Scheduler(
            queue_max=chance.choice((3, 50)),
            backlog_max=chance.choice((4, 20, 1_000)),
            payload_bytes_max=chance.choice((0, 800, 1 << 20)),
            lease_grace_ms=chance.choice((100, 600)),
            node_silence_max_ms=1_500,
            gateway_silence_max_ms=1_500,
        ),
        node=schema.Node(
            instances_max=chance.choice((2, 8)),
            idle_max_ms=chance.choice((500, 3_000)),
            start_wait_ms=chance.choice((1, 5)),
            depth=chance.choice((1, 4, 8)),
            heartbeat_ms=300,
        ),
    )
