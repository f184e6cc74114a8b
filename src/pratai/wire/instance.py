"""What a node's service tells its core about instances: frames and ends, as messages.

These never cross a network; they are messages so that one `handle` serves everything and the
simulator can say them too.
"""

from __future__ import annotations

from pratai.model.invocation import Failure
from pratai.wire.messages import Message


class Prepared(Message, frozen=True, kw_only=True):
    """A version can be started now, or (`failure`) cannot."""

    version_id: str
    #: Instances to keep warm, as the version's configuration says.
    keep_warm: int = 0
    memory_mb: int = 256
    failure: Failure | None = None


class InstanceReady(Message, frozen=True, kw_only=True):
    """An instance has imported the user's code and takes events."""

    instance_id: str
    #: From the decision to start it until now.
    start_us: int = 0


class InstanceFailed(Message, frozen=True, kw_only=True):
    """An instance could not start; its exit is said as well."""

    instance_id: str
    failure: Failure


class InstanceExited(Message, frozen=True, kw_only=True):
    """An instance is gone, with all it started."""

    instance_id: str
    failure: Failure


class Answered(Message, frozen=True, kw_only=True):
    """The oldest event given to an instance is done, with a result or (`failure`) without."""

    instance_id: str
    run_us: int
    payload: bytes = b""
    content_type: str = "application/json"
    failure: Failure | None = None
    streamed: bool = False


class Streamed(Message, frozen=True, kw_only=True):
    """A part of the result of the oldest event given to an instance."""

    instance_id: str
    payload: bytes
    content_type: str = ""


class Returned(Message, frozen=True, kw_only=True):
    """An instance gave back an event that it had not begun."""

    instance_id: str
    request_id: str


class Measured(Message, frozen=True, kw_only=True):
    """What instances use: {instance_id: bytes}, and what the machine still has."""

    memory_bytes: dict[str, int]
    available_bytes: int


class Drain(Message, frozen=True, kw_only=True):
    """Take nothing new; give back what has not begun."""
