"""What must hold whatever happens: nothing lost, nothing recorded twice or for an old attempt,
nothing run beyond its attempts, every caller answered once and in time, nothing left over.

The cores' own `check()` runs after every step beside this. A complaint raises `Broken`, with the
request it is about.
"""

from __future__ import annotations

import msgspec

from pratai.core.effects import Effect, RecordOutcome, RecordRetry, Send
from pratai.model.invocation import Failure, Invocation
from pratai.wire.messages import Dispatch, Outcome, Result, Resume

#: Attempts of one invocation that may go uncounted when the scheduler dies: the one that ran, and
#: one whose records were not durable yet.
UNCOUNTED_MAX = 2


class Broken(AssertionError):
    """A promise was not kept."""

    def __init__(self, what: str, request_id: str = "") -> None:
        super().__init__(what)
        self.request_id = request_id


class Waiting(msgspec.Struct):
    """A caller that waits for its result."""

    #: The latest that it may be answered.
    due_ms: int
    #: Address of the gateway that it waits at.
    gateway: str


class Checkers:
    """Watches callers, attempts and outcomes of one run."""

    def __init__(self, answer_grace_ms: int, *, faults: bool) -> None:
        self._answer_grace_ms = answer_grace_ms
        #: Without faults nothing may need repair: neither leases that expire nor the deadline of a
        #: gateway, which would hide that somebody forgot something.
        self._faults = faults
        #: {request_id: caller} of those not answered yet.
        self.waiting: dict[str, Waiting] = {}
        self._answered: set[str] = set()
        #: Everything the journal accepted.
        self.accepted: dict[str, Invocation] = {}
        #: {request_id: (attempt, node_id)} of the newest dispatch in this life of the scheduler.
        self._newest: dict[str, tuple[int, str]] = {}
        self._dispatches: dict[str, int] = {}
        #: Attempts that did not count: the platform lost them.
        self._losses: dict[str, int] = {}
        #: Outcomes recorded in this life of the scheduler.
        self._recorded: set[str] = set()
        self._unsettled: set[str] = set()

    # callers

    def called(self, request_id: str, deadline_ms: int, gateway: str) -> None:
        """A sync call was made."""
        due_ms = deadline_ms + self._answer_grace_ms + 1
        self.waiting[request_id] = Waiting(due_ms=due_ms, gateway=gateway)

    def hung_up(self, request_id: str) -> None:
        """Its caller waits no more."""
        self.waiting.pop(request_id, None)

    def answered(self, gateway: str, result: Result, now_ms: int) -> None:
        """A caller got its result."""
        request_id = result.request_id
        caller = self.waiting.pop(request_id, None)
        if request_id in self._answered:
            raise Broken(f"{request_id} was answered twice", request_id)
        if caller is None or caller.gateway != gateway:
            raise Broken(f"{request_id} was answered although nobody waits there", request_id)
        self._answered.add(request_id)
        if now_ms > caller.due_ms:
            late_ms = now_ms - caller.due_ms
            raise Broken(f"{request_id} was answered {late_ms} ms too late", request_id)
        failure = result.failure
        unsaid = failure is not None and failure.code == "timed_out" and not failure.stage
        if unsaid and not self._faults:
            raise Broken(f"{request_id} was answered by nobody but its gateway", request_id)
        self._not_repaired(request_id, failure)
        if result.outcome == "succeeded" and result.payload != request_id.encode():
            raise Broken(f"{request_id} was answered with {result.payload!r}", request_id)

    def gateway_died(self, gateway: str) -> None:
        """Its callers are gone with it."""
        for request_id in [key for key, item in self.waiting.items() if item.gateway == gateway]:
            del self.waiting[request_id]

    # the journal and the scheduler process

    def accept(self, invocation: Invocation) -> None:
        """An invocation is durable, so the caller was told that it will run."""
        self.accepted[invocation.request_id] = invocation
        self._unsettled.add(invocation.request_id)

    def scheduler_died(self) -> None:
        """Leases and queues are gone; what the journal has is started again."""
        self._newest.clear()
        self._recorded.clear()
        for request_id in self._unsettled:
            self._losses[request_id] = self._losses.get(request_id, 0) + UNCOUNTED_MAX

    def settled(self, request_id: str) -> None:
        """Its outcome is durable."""
        self._unsettled.discard(request_id)

    def decided(self, effects: list[Effect]) -> None:
        """The scheduler process decided this."""
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, Dispatch):
                self._dispatched(effect.message, _node_of(effect.to))
            elif isinstance(effect, Send) and isinstance(effect.message, Resume):
                resume = effect.message
                request_id = resume.invoke.request_id
                self._newest[request_id] = (resume.attempt, resume.node_id)
            elif isinstance(effect, Send) and isinstance(effect.message, Outcome):
                self._given_up(effect.message)
            elif isinstance(effect, RecordRetry):
                outcome = effect.outcome
                assert isinstance(outcome, Outcome)
                self._not_repaired(outcome.request_id, outcome.failure)
                if outcome.failure is not None and outcome.failure.fault == "platform":
                    request_id = outcome.request_id
                    self._losses[request_id] = self._losses.get(request_id, 0) + 1
            elif isinstance(effect, RecordOutcome):
                assert isinstance(effect.outcome, Outcome)
                self._to_be_recorded(effect.outcome)

    def _dispatched(self, dispatch: Dispatch, node_id: str) -> None:
        request_id = dispatch.request_id
        newest = self._newest.get(request_id)
        if newest is not None and dispatch.attempt <= newest[0]:
            raise Broken(f"attempt {dispatch.attempt} follows attempt {newest[0]}", request_id)
        self._newest[request_id] = (dispatch.attempt, node_id)
        count = self._dispatches[request_id] = self._dispatches.get(request_id, 0) + 1
        accepted = self.accepted.get(request_id)
        allowed = 1 if accepted is None else accepted.attempts_max
        if count > allowed + self._losses.get(request_id, 0):
            raise Broken(f"{request_id} was dispatched {count} times", request_id)

    def _given_up(self, outcome: Outcome) -> None:
        """The scheduler speaks for a node that did not say how an attempt ended."""
        if outcome.node_id and not self._faults:
            request_id = outcome.request_id
            raise Broken(f"{request_id} was forgotten by {outcome.node_id}", request_id)

    def _not_repaired(self, request_id: str, failure: Failure | None) -> None:
        """That a node does not have what it should must not happen where nothing is lost."""
        if failure is not None and failure.code == "dispatch_lost" and not self._faults:
            raise Broken(f"{request_id} was forgotten by its node", request_id)

    def _to_be_recorded(self, outcome: Outcome) -> None:
        request_id = outcome.request_id
        if request_id not in self.accepted:
            raise Broken(f"{request_id} is recorded and was never accepted", request_id)
        if request_id in self._recorded:
            raise Broken(f"{request_id} is recorded twice", request_id)
        self._recorded.add(request_id)
        self._not_repaired(request_id, outcome.failure)
        said_by = (outcome.attempt, outcome.node_id)
        if outcome.node_id and self._newest.get(request_id) != said_by:
            newest = self._newest.get(request_id)
            raise Broken(f"{request_id}: {said_by} is recorded, the newest is {newest}", request_id)
        if outcome.outcome == "succeeded" and outcome.payload != request_id.encode():
            raise Broken(f"{request_id} is recorded with {outcome.payload!r}", request_id)

    # the end

    def at_end(self, journal: dict[str, Invocation]) -> None:
        """All is quiet: every promise was kept."""
        for request_id in self.waiting:
            raise Broken(f"{request_id} was never answered", request_id)
        for request_id in self.accepted:
            invocation = journal[request_id]
            if invocation.state != "done" or not invocation.outcome:
                raise Broken(f"{request_id} was accepted and has no outcome", request_id)


def _node_of(address: str) -> str:
    return address.removeprefix("node:").partition("@")[0]
