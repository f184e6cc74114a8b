"""Nodes and instances: what they can hold and the states they pass through."""

from __future__ import annotations

from typing import Literal

import msgspec

NodeState = Literal["joining", "ready", "draining", "lost", "left"]
InstanceState = Literal["starting", "idle", "busy", "frozen", "draining", "stopped"]

NODE_MOVES: frozenset[tuple[NodeState, NodeState]] = frozenset(
    {
        ("joining", "ready"),
        ("ready", "draining"),
        ("draining", "ready"),
        ("ready", "lost"),
        ("draining", "lost"),
        ("lost", "ready"),
        ("ready", "left"),
        ("draining", "left"),
    }
)


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a node offers."""

    #: Calls it runs at one time.
    slots: int
    #: Calls it takes beyond its slots, so that a slot that frees has work at once.
    prefetch: int = 0
    memory_mb: int = 0
    driver: str = "process"
    runtimes: list[str] = []
    architecture: str = ""
    labels: dict[str, str] = {}
