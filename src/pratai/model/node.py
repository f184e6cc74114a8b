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


#: Kinds of the documents in which the scheduler keeps who is in the cluster, and their namespace.
NODE_KIND = "node"
PROCESS_KIND = "process"
SYSTEM_NAMESPACE = "_system"


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster knows of a node, as the store keeps it; written now and then."""

    node_id: str
    endpoint: str = ""
    state: NodeState = "ready"
    #: An operator wants it to get no work; outlives that it is lost or comes back.
    draining: bool = False
    driver: str = ""
    runtimes: list[str] = []
    slots: int = 0
    slots_busy: int = 0
    memory_mb: int = 0
    memory_used_mb: int = 0
    instances: int = 0
    architecture: str = ""
    labels: dict[str, str] = {}
    degraded: list[str] = []
    joined_at_ms: int = 0
    heard_at_ms: int = 0
    #: The scheduler that wrote this; another life of it has another id.
    scheduler_id: str = ""


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster knows of a gateway or an agent, as the store keeps it."""

    process_id: str
    kind: Literal["gateway", "agent"]
    endpoint: str = ""
    url: str = ""
    state: Literal["ready", "lost"] = "ready"
    joined_at_ms: int = 0
    heard_at_ms: int = 0
    scheduler_id: str = ""


#: Endpoint of who is in the same process as the sender.
MEMORY = "memory"


def address_of(kind: str, name: str, endpoint: str) -> str:
    """The address that messages for a process are sent to: `KIND:NAME`, and where it is reached
    unless that is this process: `node:n1@tcp://10.0.0.7:5558`.
    """
    return f"{kind}:{name}" if endpoint in ("", MEMORY) else f"{kind}:{name}@{endpoint}"


def endpoint_of(address: str) -> str:
    """Where an address is reached; "" when that is not said."""
    return address.partition("@")[2]
