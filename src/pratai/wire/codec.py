"""Messages as frames and back: a batch is one frame of heads and one frame for each payload.

    [ msgpack array of tagged Structs ] [ payload of the first that has one ] [ ... ]

A payload is a frame of its own and is never decoded or copied into a head, so that whoever passes
it on passes it on as it came. A head says with `_FOLLOWS` that its payload is the next frame. No
socket here: `transport/zeromq` moves the frames.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import force_setattr, replace

from pratai.wire.messages import (
    Announce,
    Backlog,
    Cancel,
    Changed,
    ChangeSeen,
    Chunk,
    Dispatch,
    DrainNode,
    Forget,
    Heartbeat,
    Invoke,
    Join,
    Leave,
    Logs,
    Message,
    Outcome,
    Provision,
    Result,
    Roster,
    Withdraw,
)

#: In a head: the payload is the next frame.
_FOLLOWS = b"+"

#: {kind of address: messages that it takes from other processes}. Anything else is malformed there.
TAKEN: dict[str, tuple[type[Message], ...]] = {
    "scheduler": (Invoke, Cancel, Provision, Forget, DrainNode),
    "collector": (Join, Heartbeat, Leave, Outcome, Logs, Announce),
    "node": (Dispatch, Withdraw, Provision, Forget, Roster),
    "gateway": (Result, Chunk, Backlog, Roster, Changed, ChangeSeen),
    "agent": (Roster, Backlog),
}
_WITH_PAYLOAD = (Invoke, Dispatch, Result, Chunk, Outcome)

_encode = msgspec.msgpack.Encoder().encode


class Malformed(Exception):
    """Frames that are no batch of messages for this address."""


def frames_of(messages: Iterable[Message]) -> list[bytes]:
    """The frames of a batch."""
    heads: list[Message] = []
    frames: list[bytes] = [b""]
    for message in messages:
        payload = message.payload if isinstance(message, _WITH_PAYLOAD) else None
        if payload:
            frames.append(payload)
            heads.append(replace(message, payload=_FOLLOWS))
        else:
            heads.append(message)
    frames[0] = _encode(heads)
    return frames


class Decoder:
    """Reads batches for one kind of address."""

    def __init__(self, kind: str) -> None:
        union = functools.reduce(operator.or_, TAKEN[kind])
        self._decode = msgspec.msgpack.Decoder(list[union]).decode  # type: ignore[valid-type]

    def messages(self, frames: Sequence[bytes]) -> list[Message]:
        """The messages of a batch.

        Raises:
            Malformed: the frames are something else; nothing of them is to be trusted.

        """
        try:
            heads: list[Message] = self._decode(frames[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(str(error)) from None
        place = 1
        for head in heads:
            if isinstance(head, _WITH_PAYLOAD) and head.payload:
                if place >= len(frames) or head.payload != _FOLLOWS:
                    raise Malformed("a payload is missing")
                force_setattr(head, "payload", frames[place])
                place += 1
        if place != len(frames):
            raise Malformed(f"{len(frames) - place} frames belong to no message")
        return heads
