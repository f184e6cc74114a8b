"""Who is in the cluster: nodes, gateways, agents; who was heard, who is silent. Pure.

Nodes and processes introduce themselves and are forgotten when they fall silent; nobody edits a
list. What is known of each is written down at once when its state changes, and now and then beside
that. Leases and what becomes of them are not decided here but in `core.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from pratai.config import schema
from pratai.core.deadlines import Deadlines
from pratai.core.effects import Count, Disconnect, Effect, RecordMember, Send, Wake
from pratai.core.leases import Leases
from pratai.model.node import MEMORY, Capacity, NodeRecord, NodeState, ProcessRecord, address_of
from pratai.wire.messages import (
    PROTOCOL,
    Announce,
    DrainNode,
    Heartbeat,
    Join,
    Joined,
    Peer,
    Peers,
    Roster,
)

#: Time between two writings of figures that change all the time, for up to `RECORDED_EACH_MS`
#: members; with more of them it grows, so that the store is written at a bounded rate.
RECORD_MS_MIN = 5_000
RECORD_MS_EACH = 50
#: What is known of a node that was lost or left is kept this long.
PAST_MS_MAX = 86_400_000
#: Records kept of nodes that are not there; beyond it the oldest go first.
PAST_MAX = 10_000
#: Gateways and agents that are listened to; further ones are counted and nothing else.
PROCESSES_MAX = 1_000
#: Strangers that are told why they are refused; further ones are counted and nothing else.
REFUSED_MAX = 64

Said = Join | Heartbeat


class Member(msgspec.Struct):
    """What the collector knows of a node that is there."""

    node_id: str
    endpoint: str
    capacity: Capacity
    joined_at_ms: int
    heard_at_ms: int
    instances: int = 0
    memory_used_mb: int = 0
    degraded: list[str] = []
    draining: bool = False
    #: What it said that it has, when it was heard last: (request_id, attempt).
    held: frozenset[tuple[str, int]] = frozenset()
    recorded_at_ms: int = 0

    @property
    def address(self) -> str:
        """Where it is reached."""
        return address_of("node", self.node_id, self.endpoint)


class Silent(NamedTuple):
    """Who was not heard of in time."""

    kind: str
    name: str


class Membership:
    """Everybody who introduced themselves."""

    def __init__(self, config: schema.Scheduler, leases: Leases, scheduler_id: str) -> None:
        self._config = config
        self._leases = leases
        self._scheduler_id = scheduler_id
        #: {node_id: Member} of nodes that were heard lately.
        self.nodes: dict[str, Member] = {}
        #: {node_id: record} of nodes known from before, lost or gone, oldest first.
        self.past: dict[str, NodeRecord] = {}
        #: {`KIND:ID`: record} of gateways and agents that were heard lately.
        self.processes: dict[str, ProcessRecord] = {}
        #: Addresses of those told that they are refused, until their socket is closed.
        self._refused: set[str] = set()
        #: When somebody has been silent too long: `node:`, `gateway:`, `agent:`, `past:`,
        #: `refused:` and who.
        self._silence = Deadlines()
        self._gateways: list[Peer] = []

    # nodes

    def hear(self, said: Said, now_ms: int, effects: list[Effect]) -> Member | None:
        """A node said that it lives; None when it is not taken in."""
        if said.protocol != PROTOCOL:
            address = address_of("node", said.node_id, said.endpoint)
            self._refuse(f"node {said.node_id}", address, said.protocol, now_ms, effects)
            return None
        member = self.nodes.get(said.node_id)
        if member is None or (
            said.endpoint and said.capacity is not None and _is_new(member, said)
        ):
            if not said.endpoint or said.capacity is None:
                effects.append(Count("heartbeats_unknown"))
                return None
            member = self._admit(said, said.capacity, member, now_ms, effects)
        member.heard_at_ms = now_ms
        member.held = frozenset(said.held)
        if isinstance(said, Heartbeat):
            member.instances = said.instances
            member.memory_used_mb = said.memory_used_mb
        if now_ms - member.recorded_at_ms >= self._record_ms() and member.endpoint != MEMORY:
            self._record(member, now_ms, effects)
        self._expect(f"node:{member.node_id}", self._config.node_silence_max_ms, now_ms, effects)
        effects.append(Send(member.address, self.roster()))
        return member

    def _admit(
        self,
        said: Said,
        capacity: Capacity,
        known: Member | None,
        now_ms: int,
        effects: list[Effect],
    ) -> Member:
        past = self.past.pop(said.node_id, None)
        self._silence.discard(f"past:{said.node_id}")
        draining = known.draining if known else past is not None and past.draining
        member = self.nodes[said.node_id] = Member(
            node_id=said.node_id,
            endpoint=said.endpoint,
            capacity=capacity,
            joined_at_ms=known.joined_at_ms if known and isinstance(said, Heartbeat) else now_ms,
            heard_at_ms=now_ms,
            degraded=said.degraded,
            draining=draining,
        )
        joined = Joined(node_id=said.node_id, endpoint=said.endpoint, capacity=capacity)
        effects.append(Send("scheduler", joined))
        self._record(member, now_ms, effects)
        return member

    def drop(self, node_id: str, state: NodeState, now_ms: int, effects: list[Effect]) -> None:
        """A node is gone; what was known of it is kept for a day."""
        member = self.nodes.pop(node_id)
        self._silence.discard(f"node:{node_id}")
        record = replace(self._record_of(member, state), slots_busy=0)
        self._keep_past(record, PAST_MS_MAX, now_ms, effects)
        effects.append(RecordMember(record))

    def drain(self, move: DrainNode, now_ms: int, effects: list[Effect]) -> None:
        """An operator took a node out of service, or back in."""
        member = self.nodes.get(move.node_id)
        if member is not None:
            if member.draining != move.drain:
                member.draining = move.drain
                self._record(member, now_ms, effects)
            return
        past = self.past.get(move.node_id)
        if past is not None and past.draining != move.drain:
            self.past[move.node_id] = replace(past, draining=move.drain)
            effects.append(RecordMember(self.past[move.node_id]))

    def remember(
        self, records: list[NodeRecord | ProcessRecord], now_ms: int, effects: list[Effect]
    ) -> None:
        """What the scheduler before this one had written down. Those it knew to be there are given
        the usual time to be heard of.
        """
        for record in records:
            if isinstance(record, NodeRecord):
                if record.node_id in self.nodes:
                    continue
                there = record.state in {"ready", "draining"}
                wait_ms = self._config.node_silence_max_ms
                if not there:
                    wait_ms = max(0, record.heard_at_ms + PAST_MS_MAX - now_ms)
                self._keep_past(record, wait_ms, now_ms, effects)
                continue
            key = f"{record.kind}:{record.process_id}"
            if key not in self.processes and len(self.processes) < PROCESSES_MAX:
                self.processes[key] = record
                self._expect(key, self._config.gateway_silence_max_ms, now_ms, effects)

    # gateways and agents

    def announce(self, announce: Announce, now_ms: int, effects: list[Effect]) -> None:
        """A gateway or an agent lives."""
        key = f"{announce.kind}:{announce.process_id}"
        address = address_of(announce.kind, announce.process_id, announce.endpoint)
        if announce.protocol != PROTOCOL:
            who = f"{announce.kind} {announce.process_id}"
            self._refuse(who, address, announce.protocol, now_ms, effects)
            return
        known = self.processes.get(key)
        if known is None and len(self.processes) >= PROCESSES_MAX:
            effects.append(Count("announces_refused"))
            return
        record = ProcessRecord(
            process_id=announce.process_id,
            kind=announce.kind,
            endpoint=announce.endpoint,
            url=announce.url,
            joined_at_ms=known.joined_at_ms if known is not None else now_ms,
            heard_at_ms=known.heard_at_ms if known is not None else 0,
            scheduler_id=self._scheduler_id,
        )
        if known is not None and known.endpoint != record.endpoint and record.kind == "agent":
            effects.append(Disconnect(address_of("agent", record.process_id, known.endpoint)))
        if record != known or now_ms - record.heard_at_ms >= self._record_ms():
            record = replace(record, heard_at_ms=now_ms)
            self.processes[key] = record
            effects.append(RecordMember(record))
        self._expect(key, self._config.gateway_silence_max_ms, now_ms, effects)
        self._tell_peers(effects)
        effects.append(Send(address, self.roster()))

    def roster(self) -> Roster:
        """Who is there."""
        return Roster(
            scheduler_id=self._scheduler_id, gateways=self._gateways, nodes=len(self.nodes)
        )

    def _tell_peers(self, effects: list[Effect]) -> None:
        """Tell the scheduler of the gateways if there are others than before."""
        gateways = [
            Peer(process_id=record.process_id, endpoint=record.endpoint, url=record.url)
            for _, record in sorted(self.processes.items())
            if record.kind == "gateway" and record.scheduler_id == self._scheduler_id
        ]
        if gateways == self._gateways:
            return
        self._gateways = gateways
        effects.append(Send("scheduler", Peers(gateways=gateways)))
        roster = self.roster()  # they tell each other of changes: a new one must not be missed
        effects.extend(
            Send(address_of("gateway", peer.process_id, peer.endpoint), roster) for peer in gateways
        )

    # silence

    def silent(self, now_ms: int, effects: list[Effect]) -> list[str]:
        """Nodes that were not heard of in time, which the caller drops; everybody else who was not
        is dropped here.
        """
        nodes: list[str] = []
        for key in self._silence.due(now_ms):
            kind, _, name = key.partition(":")
            if kind == "node":
                nodes.append(name)
            elif kind == "past":
                self._fade(name, now_ms, effects)
            elif kind == "refused":
                self._refused.discard(name)
                effects.append(Disconnect(name))
            else:
                record = replace(self.processes.pop(key), state="lost")
                effects.append(Count("processes_lost"))
                effects.append(RecordMember(record, forgotten=True))
                if kind == "agent":  # the scheduler closes what leads to gateways
                    effects.append(Disconnect(address_of(kind, name, record.endpoint)))
                self._tell_peers(effects)
        return nodes

    def next_ms(self) -> int | None:
        """When somebody will have been silent too long."""
        return self._silence.next_ms()

    def _fade(self, node_id: str, now_ms: int, effects: list[Effect]) -> None:
        """A node of before was not heard of: lost if it was there, forgotten if it was not."""
        record = self.past.pop(node_id)
        if record.state in {"ready", "draining"}:
            record = replace(record, state="lost", slots_busy=0, scheduler_id=self._scheduler_id)
            self._keep_past(record, PAST_MS_MAX, now_ms, effects)
            effects.append(RecordMember(record))
        else:
            effects.append(RecordMember(record, forgotten=True))

    def _keep_past(
        self, record: NodeRecord, wait_ms: int, now_ms: int, effects: list[Effect]
    ) -> None:
        self.past.pop(record.node_id, None)
        self.past[record.node_id] = record
        self._expect(f"past:{record.node_id}", wait_ms, now_ms, effects)
        if len(self.past) > PAST_MAX:
            oldest = next(iter(self.past))
            self._silence.discard(f"past:{oldest}")
            effects.append(RecordMember(self.past.pop(oldest), forgotten=True))

    def _refuse(
        self, who: str, address: str, protocol: int, now_ms: int, effects: list[Effect]
    ) -> None:
        effects.append(Count("members_refused"))
        if "@" not in address or (
            address not in self._refused and len(self._refused) >= REFUSED_MAX
        ):
            return
        self._refused.add(address)
        self._expect(f"refused:{address}", self._config.node_silence_max_ms, now_ms, effects)
        why = (
            f"{who} speaks version {protocol} of the protocol and this scheduler version "
            f"{PROTOCOL}: install the same release of Pratai on both"
        )
        effects.append(Send(address, replace(self.roster(), gateways=[], refused=why)))

    def _expect(self, key: str, wait_ms: int, now_ms: int, effects: list[Effect]) -> None:
        if self._silence.add(key, now_ms + wait_ms):
            effects.append(Wake(now_ms + wait_ms))

    # records

    def _record_ms(self) -> int:
        return max(RECORD_MS_MIN, RECORD_MS_EACH * (len(self.nodes) + len(self.processes)))

    def _record(self, member: Member, now_ms: int, effects: list[Effect]) -> None:
        member.recorded_at_ms = now_ms
        state: NodeState = "draining" if member.draining else "ready"
        effects.append(RecordMember(self._record_of(member, state)))

    def _record_of(self, member: Member, state: NodeState) -> NodeRecord:
        capacity = member.capacity
        return NodeRecord(
            node_id=member.node_id,
            endpoint=member.endpoint,
            state=state,
            draining=member.draining,
            driver=capacity.driver,
            runtimes=capacity.runtimes,
            slots=capacity.slots,
            slots_busy=self._leases.count_of(member.node_id),
            memory_mb=capacity.memory_mb,
            memory_used_mb=member.memory_used_mb,
            instances=member.instances,
            architecture=capacity.architecture,
            labels=capacity.labels,
            degraded=member.degraded,
            joined_at_ms=member.joined_at_ms,
            heard_at_ms=member.heard_at_ms,
            scheduler_id=self._scheduler_id,
        )

    def check(self) -> None:
        """All invariants."""
        self._silence.check()
        assert all(f"node:{node_id}" in self._silence for node_id in self.nodes)
        assert all(f"past:{node_id}" in self._silence for node_id in self.past)
        assert all(key in self._silence for key in self.processes)
        assert not self.nodes.keys() & self.past.keys()
        assert len(self.past) <= PAST_MAX
        assert len(self._refused) <= REFUSED_MAX


def _is_new(member: Member, said: Said) -> bool:
    """Whether a node that is known offers itself anew, or something else than before."""
    if isinstance(said, Join):
        return True
    return (member.endpoint, member.capacity) != (said.endpoint, said.capacity)
