"""The agent's I/O: reads triggers, offers runs until they are accepted, writes down what was done.

Triggers are read every `look_ms`, or less often when reading takes long: looking takes a twentieth
of the time at most. Before a run is offered its trigger and state are read once more, so that what
an owner changed or another agent did a moment ago counts at once.

Folders and deliveries have loops of their own (`sources/folder.py`, `destinations.py`).
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from pratai.agent.core import Agent
from pratai.agent.destinations import Destinations
from pratai.agent.messages import (
    Emission,
    Emit,
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
from pratai.agent.rounds import Rounds
from pratai.agent.sources.watch import FolderWatch
from pratai.config import schema
from pratai.core.effects import Effect
from pratai.errors import Conflict, PrataiError, StoreUnavailable
from pratai.metrics import count
from pratai.model.trigger import TRIGGER, TRIGGER_STATE, Trigger, TriggerState, timer_event
from pratai.store.base import Document, Store
from pratai.transport.base import Transport
from pratai.transport.runner import Runner
from pratai.wire.messages import Message, Tick

_log = structlog.get_logger("pratai.agent")
#: Documents read at one time, and triggers taken in one turn of the loop.
PAGE, TAKEN_AT_ONCE = 500, 100
#: So many new triggers at once have their states read by pages instead of one by one.
STATES_BY_PAGE = 50
#: An offer that takes longer is made again; its key makes it the same one.
OFFER_S_MAX = 30.0
#: How long what is being offered or written is waited for at the end.
STOP_S_MAX = 1.0
#: States being written at one time; first and longest wait while the store cannot write.
WRITES_MAX, RETRY_S, RETRY_S_MAX = 64, 0.2, 5.0

_encode = msgspec.json.Encoder().encode
_trigger_of = msgspec.json.Decoder(Trigger).decode
_state_of = msgspec.json.Decoder(TriggerState).decode


class AgentService(Runner):
    """The agent of this process. `emit` accepts an event durably and returns its request id."""

    def __init__(
        self,
        config: schema.Agent,
        agent_id: str,
        *,
        store: Store,
        emit: Emit,
        transport: Transport,
    ) -> None:
        self.core = Agent(config)
        super().__init__(self.core, transport)
        self.agent_id = agent_id
        self._config = config
        self._store = store
        self._emit = emit
        #: {NAMESPACE/NAME: (revision, when the trigger was made)}.
        self._known: dict[str, tuple[int, int]] = {}
        #: {NAMESPACE/NAME: revision of the state that the core has as its base}.
        self._revisions: dict[str, int] = {}
        self._writing = asyncio.Semaphore(WRITES_MAX)
        self._does[Fire] = self._fire
        self._does[KeepState] = self._keep_state
        self._looking = Rounds("triggers", config.look_ms, self._look)
        self._folders = FolderWatch(config, agent_id, store=store, emit=emit)
        self._watching = Rounds("folders", config.look_ms, self._folders.look)
        self._destinations = Destinations(config, agent_id, store=store, emit=emit)
        self._delivering = Rounds("deliveries", config.look_ms, self._destinations.look)

    def start(self) -> None:
        """Begin to watch."""
        self.receive(Tick())
        for rounds in (self._looking, self._watching, self._delivering):
            rounds.start()

    async def stop(self) -> None:
        """End. What was accepted and is not written down yet is found again by its key."""
        for rounds in (self._looking, self._watching, self._delivering):
            await rounds.stop()
        await self._destinations.stop()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=STOP_S_MAX)
        try:
            await self._folders.stop()
        except PrataiError as error:
            _log.warning("claims_not_released", error=error.detail)
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look_now(self) -> None:
        """Somebody changed a trigger or put a delivery: look at once."""
        self._looking.hurry()
        self._delivering.hurry()

    @property
    def ready(self) -> bool:
        """Whether the triggers were read at least once and the last look succeeded."""
        return self._looking.succeeded

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Figures for metrics."""
        return {
            "agent_timers": ("Timers that are watched.", len(self.core.watched)),
            "agent_runs_waiting": ("Timer runs due and not accepted yet.", self.core.waiting),
            "agent_folders": ("Folders that are watched here.", self._folders.watched),
            "agent_deliveries_waiting": (
                "Outcomes that wait for their destination.",
                self._destinations.waiting,
            ),
        }

    # triggers

    async def _look(self) -> None:
        """Read all triggers; tell the core of those that are new, changed or gone."""
        listed: set[str] = set()
        fresh: list[tuple[int, Trigger]] = []
        after = ""
        while True:
            page = await self._store.documents(TRIGGER, None, after=after, limit=PAGE)
            for document in page:
                key = f"{document.namespace}/{document.id}"
                listed.add(key)
                if document.revision > self._known.get(key, (0, 0))[0]:
                    fresh.append((document.revision, _trigger_of(document.body)))
            if len(page) < PAGE:
                break
            after = f"{page[-1].namespace}/{page[-1].id}"
        await self._take(fresh)
        for key in [key for key in self._known if key not in listed]:
            namespace, _, name = key.partition("/")
            if await self._store.get(TRIGGER, namespace, name) is None:
                self._gone(key)

    async def _take(self, fresh: list[tuple[int, Trigger]]) -> None:
        timers = [trigger for _, trigger in fresh if trigger.timer is not None]
        states = await self._states(timers)
        for number, (revision, trigger) in enumerate(fresh, 1):
            self._seen(revision, trigger, states.get(key_of(trigger)))
            if number % TAKEN_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _states(self, timers: list[Trigger]) -> dict[str, Document]:
        """The state documents of timers, those that exist."""
        found: dict[str, Document] = {}
        if len(timers) <= STATES_BY_PAGE:
            for trigger in timers:
                document = await self._store.get(TRIGGER_STATE, trigger.namespace, trigger.name)
                if document is not None:
                    found[key_of(trigger)] = document
            return found
        wanted, after = {key_of(trigger) for trigger in timers}, ""
        while True:
            page = await self._store.documents(TRIGGER_STATE, None, after=after, limit=PAGE)
            keys = (f"{document.namespace}/{document.id}" for document in page)
            found.update(
                {key: document for key, document in zip(keys, page, strict=True) if key in wanted}
            )
            if len(page) < PAGE:
                return found
            after = f"{page[-1].namespace}/{page[-1].id}"

    def _seen(self, revision: int, trigger: Trigger, document: Document | None) -> None:
        key = key_of(trigger)
        known = self._known.get(key)
        if known is not None and known[0] >= revision:
            return
        if known is not None and known[1] != trigger.created_at_ms:
            self._gone(key)  # deleted meanwhile, and made anew
        self._known[key] = (revision, trigger.created_at_ms)
        self._folders.take(trigger)
        if trigger.timer is None:
            self.receive(TriggerGone(key=key))
            return
        self.receive(TriggerSeen(trigger=trigger, state=self._base(trigger, document)))

    def _gone(self, key: str) -> None:
        self._known.pop(key, None)
        self._revisions.pop(key, None)
        self._folders.forget(key)
        self.receive(TriggerGone(key=key))

    def _base(self, of: Trigger | TriggerState, document: Document | None) -> TriggerState:
        """A state as the core's new base. To be handed to it in the same turn of the loop."""
        key = key_of(of)
        revision = 0 if document is None else document.revision
        self._revisions[key] = max(revision, self._revisions.get(key, 0))
        if document is None:
            return TriggerState(namespace=of.namespace, name=of.name)
        return _state_of(document.body)

    # runs

    def _fire(self, effect: Effect) -> None:
        assert isinstance(effect, Fire)
        self._begin(self._loop.create_task(self._offer(effect)))

    async def _offer(self, fire: Fire) -> None:
        """Offer a run once; whatever happens, the core is told."""
        answer: Message | None
        try:
            async with asyncio.timeout(OFFER_S_MAX):
                answer = await self._offered(fire)
        except TimeoutError:
            answer = RunPostponed(key=fire.key, due_ms=fire.due_ms, failure="it took too long")
        except PrataiError as error:
            answer = _answer_to(fire, error)
        except Exception as error:  # noqa: BLE001  the boundary of one run: the others go on
            count("agent_failures")
            _log.exception("run_not_offered", trigger=fire.key, due_ms=fire.due_ms)
            answer = RunPostponed(key=fire.key, due_ms=fire.due_ms, failure=str(error))
        if answer is not None:
            self.receive(answer)

    async def _offered(self, fire: Fire) -> Message | None:
        """What to tell the core; None when it was told already that the run is settled."""
        namespace, name = fire.trigger.namespace, fire.trigger.name
        document = await self._store.get(TRIGGER, namespace, name)
        if document is None:
            self._gone(fire.key)
            return None
        state = await self._store.get(TRIGGER_STATE, namespace, name)
        if document.revision > self._known.get(fire.key, (0, 0))[0]:
            self._seen(document.revision, _trigger_of(document.body), state)
            return RunPostponed(key=fire.key, due_ms=fire.due_ms, failure="it was changed")
        if state is not None and state.revision > self._revisions.get(fire.key, 0):
            self.receive(StateSeen(state=self._base(fire.trigger, state)))
        if state is not None and _state_of(state.body).cursor_ms >= fire.due_ms:
            self.receive(StateSeen(state=_state_of(state.body)))
            return None
        request_id = await self._emit(
            Emission(
                namespace=namespace,
                function=fire.trigger.function,
                qualifier=fire.trigger.qualifier,
                event=timer_event(fire.trigger, fire.due_ms),
                trigger=f"timer:{name}",
                idempotency_key=f"timer:{fire.key}:{fire.due_ms}",
            )
        )
        return RunAccepted(key=fire.key, due_ms=fire.due_ms, request_id=request_id)

    # states

    def _keep_state(self, effect: Effect) -> None:
        assert isinstance(effect, KeepState)
        revision = self._revisions.get(key_of(effect.state), 0)
        self._begin(self._loop.create_task(self._write(effect.state, revision)))

    async def _write(self, state: TriggerState, revision: int) -> None:
        """Write a state over the revision that it was made from, until that is done or refused."""
        document = Document(
            kind=TRIGGER_STATE,
            namespace=state.namespace,
            id=state.name,
            body=_encode(state),
            revision=revision,
        )
        key, wait_s = key_of(state), RETRY_S
        while key in self._known:
            try:
                async with self._writing:
                    written = await self._written(document)
            except StoreUnavailable as error:
                count("store_retries")
                _log.warning("store_unavailable", error=error.detail, retry_in_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(RETRY_S_MAX, wait_s * 2)
                continue
            if key not in self._known or written is None:
                self._gone(key)
                return
            if isinstance(written, int):
                self._revisions[key] = max(written, self._revisions.get(key, 0))
                self.receive(StateKept(state=state))
            else:
                self.receive(StateSeen(state=self._base(state, written), refused=True))
            return

    async def _written(self, document: Document) -> int | Document | None:
        """The new revision, or what is there instead; None when it was deleted."""
        try:
            return await self._store.put(document)
        except Conflict:
            return await self._store.get(document.kind, document.namespace, document.id)


def _answer_to(fire: Fire, error: PrataiError) -> Message:
    """What a refused offer means for its run."""
    if error.code == "idempotency_key_reused":
        # accepted before, with the event that its owner has changed since
        return RunAccepted(key=fire.key, due_ms=fire.due_ms, request_id="")
    if error.retryable:
        wait_ms = 1_000 * (error.retry_after_s or 0)
        return RunPostponed(
            key=fire.key, due_ms=fire.due_ms, failure=error.detail, retry_after_ms=wait_ms
        )
    return RunRefused(key=fire.key, due_ms=fire.due_ms, failure=error.detail)
