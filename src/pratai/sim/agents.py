"""Agents in the simulator: their real core over a store that fails, with clocks that jump.

What `agent/service.py` does with files and sockets is done here at simulated times, one step at a
time, so that an agent can die between any two of them. `AgentWorld` is also the bench on which the
core is tested by hand: without chance every step takes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from msgspec.structs import replace

from pratai.agent.core import Agent
from pratai.agent.messages import (
    Fire,
    KeepState,
    RunAccepted,
    RunPostponed,
    RunRefused,
    StateKept,
    StateSeen,
    TriggerGone,
    TriggerSeen,
    key_of,
)
from pratai.config import schema
from pratai.core.effects import Effect, Wake
from pratai.model.trigger import Trigger, TriggerState, revised
from pratai.sim.timeline import Timeline
from pratai.wire.messages import Message, Tick

_TICK = Tick()
#: Wait before a write that the store refused is made again.
STORE_RETRY_MS = 100
#: Each step of an agent's service takes less than this, when chance decides.
STEP_MS_MAX = 40


class AgentWorld:
    """A store, a journal, some agents, and a wall clock that anybody may set."""

    def __init__(
        self, start_ms: int, *, chance: Random | None = None, config: schema.Agent | None = None
    ) -> None:
        self.timeline = Timeline()
        self.chance = chance
        self.config = config or schema.Agent()
        self._offset_ms = start_ms - self.timeline.now_ms
        self.store_up = True
        #: {trigger: (revision, trigger)} and {trigger: (revision, state)}.
        self.triggers: dict[str, tuple[int, Trigger]] = {}
        self.states: dict[str, tuple[int, TriggerState]] = {}
        self._revision = 0
        #: Functions whose runs are refused.
        self.absent: set[str] = set()
        #: {idempotency key: request id}: what was accepted, once.
        self.journal: dict[str, str] = {}
        #: [(trigger, due time)] in order of acceptance.
        self.accepted: list[tuple[str, int]] = []
        #: Offers of something that was accepted before.
        self.repeated = 0
        self.agents: list[SimAgent] = []
        #: Wall-clock stretches in which each agent watched without a gap.
        self.alive: list[tuple[int, int]] = []

    @property
    def now_ms(self) -> int:
        """The wall clock."""
        return self.timeline.now_ms + self._offset_ms

    def run_for(self, duration_ms: int) -> None:
        """Let time pass."""
        self.timeline.run_until(self.timeline.now_ms + duration_ms)

    def jump(self, by_ms: int) -> None:
        """Set the wall clock, as an operator, a time server or a machine's sleep does."""
        for agent in self.agents:
            agent.close_stretch()
        self._offset_ms += by_ms
        for agent in self.agents:
            agent.open_stretch()

    def put(self, trigger: Trigger) -> Trigger:
        """Create or change a trigger, as the API does."""
        key = key_of(trigger)
        before = self.triggers[key][1] if key in self.triggers else None
        kept = revised(before, trigger, self.now_ms)
        self._revision += 1
        self.triggers[key] = (self._revision, kept)
        return kept

    def delete(self, key: str) -> None:
        """Delete a trigger and its state, as the API does."""
        del self.triggers[key]
        self.states.pop(key, None)

    def put_state(self, state: TriggerState, revision: int) -> int | None:
        """Compare and set; the new revision, None when somebody else was faster."""
        key = key_of(state)
        if self.states.get(key, (0, None))[0] != revision:
            return None
        self._revision += 1
        self.states[key] = (self._revision, state)
        return self._revision

    def accept(self, trigger: Trigger, due_ms: int) -> str:
        """Journal a run unless its key is there."""
        key = f"timer:{key_of(trigger)}:{due_ms}"
        if key in self.journal:
            self.repeated += 1
        else:
            self.journal[key] = f"r{len(self.journal) + 1}"
            self.accepted.append((key_of(trigger), due_ms))
        return self.journal[key]

    def due(self, key: str) -> list[int]:
        """Accepted due times of one trigger, in order of acceptance."""
        return [due_ms for name, due_ms in self.accepted if name == key]

    def start_agent(self) -> SimAgent:
        """One more agent."""
        agent = SimAgent(self)
        self.agents.append(agent)
        agent.start()
        return agent


class SimAgent:
    """One agent: its core, and its service's steps."""

    def __init__(self, world: AgentWorld) -> None:
        self._world = world
        self._life = 0
        self.core = Agent(world.config)
        self._known: dict[str, tuple[int, int]] = {}
        #: {trigger: revision of its state that this agent knows}.
        self._revisions: dict[str, int] = {}
        self._since_ms: int | None = None
        #: When the one timer ticks; 0 = not set.
        self._wake_at_ms = 0

    def start(self) -> None:
        """Come to life without any memory."""
        self._life += 1
        self.core = Agent(self._world.config)
        self._known, self._revisions, self._wake_at_ms = {}, {}, 0
        self.open_stretch()
        self._receive(_TICK)
        self._look()

    def kill(self) -> None:
        """Forget everything that was going to happen, as `kill -9` does."""
        self.close_stretch()
        self._life += 1

    def open_stretch(self) -> None:
        """It watches from now on."""
        if self._since_ms is None:
            self._since_ms = self._world.now_ms

    def close_stretch(self) -> None:
        """It watched until now."""
        if self._since_ms is not None:
            self._world.alive.append((self._since_ms, self._world.now_ms))
        self._since_ms = None

    @property
    def lives(self) -> bool:
        """Whether it is not killed."""
        return self._since_ms is not None

    def _later(self, step: Callable[[], None], delay_ms: int | None = None) -> None:
        """Do a step in a while, if this life lasts."""
        life, chance = self._life, self._world.chance
        if delay_ms is None:
            delay_ms = chance.randrange(0, STEP_MS_MAX) if chance else 0

        def do() -> None:
            if self._life == life:
                step()

        self._world.timeline.after(delay_ms, do)

    def _receive(self, message: Message) -> None:
        for effect in self.core.handle(message, self._world.now_ms):
            self._do(effect)
        self.core.check()

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Wake):
            self._wake(max(0, effect.at_ms - self._world.now_ms))
        elif isinstance(effect, Fire):
            self._later(lambda: self._offer(effect))
        elif isinstance(effect, KeepState):
            revision = self._revisions.get(key_of(effect.state), 0)
            self._later(lambda: self._keep(effect.state, revision))

    def _wake(self, delay_ms: int) -> None:
        """One timer, moved forward by earlier wishes, as a service's runner has it."""
        at_ms = self._world.timeline.now_ms + delay_ms
        if self._wake_at_ms and self._wake_at_ms <= at_ms:
            return
        self._wake_at_ms = at_ms

        def tick() -> None:
            if self._wake_at_ms == at_ms:
                self._wake_at_ms = 0
                self._receive(_TICK)

        self._later(tick, delay_ms)

    # what the service does

    def _look(self) -> None:
        world = self._world
        self._later(self._look, world.config.look_ms)
        if not world.store_up:
            return
        for key in [key for key in self._known if key not in world.triggers]:
            self._gone(key)
        for key, (revision, trigger) in list(world.triggers.items()):
            if self._known.get(key, (0, 0))[0] != revision:
                self._seen(key, revision, trigger)

    def _seen(self, key: str, revision: int, trigger: Trigger) -> None:
        if self._known.get(key, (0, trigger.created_at_ms))[1] != trigger.created_at_ms:
            self._gone(key)
        self._known[key] = (revision, trigger.created_at_ms)
        self._receive(TriggerSeen(trigger=trigger, state=self._state(trigger)))

    def _gone(self, key: str) -> None:
        del self._known[key]
        self._revisions.pop(key, None)
        self._receive(TriggerGone(key=key))

    def _state(self, trigger: Trigger | TriggerState) -> TriggerState:
        nothing = TriggerState(namespace=trigger.namespace, name=trigger.name)
        revision, state = self._world.states.get(key_of(trigger), (0, nothing))
        self._revisions[key_of(trigger)] = revision
        return state

    def _offer(self, fire: Fire) -> None:
        world = self._world
        postponed = RunPostponed(key=fire.key, due_ms=fire.due_ms, failure="out")
        if not world.store_up:
            self._receive(postponed)
            return
        revision, trigger = world.triggers.get(fire.key, (0, None))
        if trigger is None:
            self._gone(fire.key)
            return
        if self._known[fire.key][0] != revision:
            self._seen(fire.key, revision, trigger)
            self._receive(postponed)
            return
        known = self._revisions.get(fire.key, 0)
        state = self._state(trigger)
        if self._revisions[fire.key] != known:
            self._receive(StateSeen(state=state))
        if state.cursor_ms >= fire.due_ms:
            return
        self._later(lambda: self._emit(fire))

    def _emit(self, fire: Fire) -> None:
        world = self._world
        if not world.store_up:
            answer: Message = RunPostponed(key=fire.key, due_ms=fire.due_ms, failure="out")
        elif fire.trigger.function in world.absent:
            answer = RunRefused(key=fire.key, due_ms=fire.due_ms, failure="no such function")
        else:
            request_id = world.accept(fire.trigger, fire.due_ms)
            answer = RunAccepted(key=fire.key, due_ms=fire.due_ms, request_id=request_id)
        self._later(lambda: self._receive(answer))

    def _keep(self, state: TriggerState, known: int) -> None:
        world, key = self._world, key_of(state)
        if key not in self._known:
            return
        if not world.store_up:
            self._later(lambda: self._keep(state, known), STORE_RETRY_MS)
            return
        revision = world.put_state(state, known)
        if revision is None:
            self._receive(StateSeen(state=self._state(state), refused=True))
        else:
            self._revisions[key] = max(revision, self._revisions[key])
            self._receive(StateKept(state=replace(state)))
