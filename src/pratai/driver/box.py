"""What zygotes are told: the sandbox of an instance and the instance itself, as data.

The runtime closes the sandbox (`runtimes/python/sandbox.py`); which walls stand is each driver's.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import msgspec

from pratai.driver.base import InstanceSpec

#: Memory of the interpreter and of thread stacks, beyond what the function was promised.
_OVERHEAD_MB = 128
_STACK_MB = 9


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The sandbox of one instance, as the runtime reads it."""

    mounts: str
    #: Whether it has a network of its own, with nobody else in it.
    alone: bool
    #: 0 = stay the user that the platform runs as.
    uid: int
    instances_dir: str
    prefix: str
    blocked_parent: str
    #: {name in Python's `resource`: limit}
    limits: dict[str, int]
    #: 0 = unlimited.
    processes_max: int
    files_max: int
    #: Whether a container is around it: what has no user id or mounts of its own has them there.
    contained: bool = False


def memory_mb(spec: InstanceSpec) -> int:
    """Memory that an instance of this version may use, with its interpreter and thread stacks."""
    return spec.version.config.memory_mb + _OVERHEAD_MB + _STACK_MB * (os.cpu_count() or 1)


def limits(spec: InstanceSpec, *, files_max: int) -> dict[str, int]:
    """Limits of each process of an instance: {name in Python's `resource`: limit}."""
    found = {
        "RLIMIT_DATA": memory_mb(spec) * 1024 * 1024,
        "RLIMIT_NOFILE": files_max,
        "RLIMIT_CORE": 0,
    }
    if spec.version.config.tmp_mb:
        found["RLIMIT_FSIZE"] = spec.version.config.tmp_mb * 1024 * 1024
    return found


def runtime_spec(
    spec: InstanceSpec,
    sandbox: SandboxSpec,
    *,
    kind: str,
    code_dir: str = "",
    layer_dir: str = "",
) -> dict[str, Any]:
    """What a zygote is told in order to start an instance (or a function zygote).

    `code_dir`, `layer_dir`: where the zygote finds them, if elsewhere than this process does.
    """
    version = spec.version
    return {
        "kind": kind,
        "instance_id": spec.instance_id,
        "handler": version.config.handler,
        "code_dir": code_dir or os.path.abspath(spec.code_dir),
        "layer_dir": layer_dir or (os.path.abspath(spec.layer_dir) if spec.layer_dir else ""),
        "environment": spec.environment,
        "result_bytes_max": spec.result_bytes_max,
        "log_bytes_max": spec.log_bytes_max,
        "namespace": version.namespace,
        "function": version.name,
        "version": str(version.number),
        "arn": f"arn:aws:lambda:local:{version.namespace}:function:{version.name}:{version.number}",
        "memory_mb": version.config.memory_mb,
        "box": msgspec.to_builtins(sandbox),
    }


def signature(spec: InstanceSpec) -> str:
    """What must be equal for instances to share an imported module."""
    parts: list[Any] = [
        spec.version.version_id,
        spec.code_dir,
        spec.layer_dir,
        sorted(spec.environment.items()),
        spec.version.config.handler,
        spec.version.config.memory_mb,
        spec.version.config.tmp_mb,
        spec.result_bytes_max,
        spec.log_bytes_max,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
