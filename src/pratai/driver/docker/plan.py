"""A container as data: what the engine is asked for, for which version. Decides the walls, does
nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from typing import Any

import msgspec

from pratai.config.schema import Driver as DriverConfig
from pratai.driver import box
from pratai.driver.base import InstanceSpec
from pratai.driver.docker.images import (
    BOOTSTRAP,
    CONTROL_DIR,
    LABEL_KEY,
    LABEL_NODE,
    LAYER_DIR,
    TASK_DIR,
)

LABEL_VERSION = "pratai.version"

#: What the first process of a container needs beside instances.
_BASE_MB = 64
_BASE_PROCESSES = 16
_SHM_BYTES = 64 * 1024 * 1024
_INSTANCES_DIR = "/tmp"  # noqa: S108 - a tmpfs inside the container


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A container of one version."""

    version_id: str
    #: Equal keys: containers that may stand for each other.
    key: str
    name: str
    image: str
    uid: int
    #: The container's own directory on this machine; what is in it is for this process alone,
    #: but for `control_dir`.
    directory: str
    #: What the engine is asked for, without limits.
    body: dict[str, Any]
    walls: box.SandboxSpec
    memory_mb: int
    tmp_mb: int
    processes_max: int
    cpu_millis: int

    @property
    def control_dir(self) -> str:
        """Has the socket that the container's first process looks for; the container sees it."""
        return os.path.join(self.directory, "run")

    def limits(self, instances: int) -> dict[str, int]:
        """Limits of a container with room for that many instances."""
        memory = (_BASE_MB + self.tmp_mb + self.memory_mb * instances) << 20
        return {
            "Memory": memory,
            "MemorySwap": memory,
            "PidsLimit": _BASE_PROCESSES + (self.processes_max + 1) * instances,
        }

    def create(self) -> dict[str, Any]:
        """The engine's request for a container with room for one instance."""
        limits: dict[str, Any] = {**self.limits(1), "NanoCpus": self.cpu_millis * 1_000_000}
        return {**self.body, "HostConfig": {**self.body["HostConfig"], **limits}}

    def runtime_spec(self, spec: InstanceSpec, *, kind: str) -> dict[str, Any]:
        """What the container's zygotes are told."""
        layer_dir = LAYER_DIR if spec.layer_dir else ""
        told = box.runtime_spec(spec, self.walls, kind=kind, code_dir=TASK_DIR, layer_dir=layer_dir)
        return {**told, "layer_dir": layer_dir}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a driver's containers live."""

    #: Names this node to the engine; the same again after a restart.
    node: str
    #: Directory with one directory for each container.
    containers_dir: str
    #: The network of functions with `network = outbound`.
    network: str


def make_plan(
    spec: InstanceSpec, config: DriverConfig, place: Place, *, image: str, uid: int, mounted: bool
) -> Plan:
    """The container for a version. `mounted`: code and layer are not in the image."""
    function = spec.version.config
    version_id = spec.version.version_id
    key = _key(spec, config, image)
    directory = os.path.join(place.containers_dir, key[:16])
    return Plan(
        version_id=version_id,
        key=key,
        name=container_name(place, key),
        image=image,
        uid=uid,
        directory=directory,
        body={
            "Image": image,
            "User": f"{uid}:{uid}",
            "Cmd": [
                *("python3", "-I", "-S", BOOTSTRAP),
                *(f"{CONTROL_DIR}/control", str(config.adopt_ms / 1000)),
            ],
            "WorkingDir": "/",
            "Hostname": spec.version.name[:63].replace("_", "-").strip("-"),
            "Env": [f"PRATAI_MARK={place.node}", "LANG=C.UTF-8"],
            "Labels": {LABEL_NODE: place.node, LABEL_VERSION: version_id, LABEL_KEY: key},
            "HostConfig": {
                "Mounts": _mounts(spec, directory, mounted=mounted),
                "NetworkMode": _network(function.network, place),
                **_hardening(function.tmp_mb, config, uid),
            },
        },
        walls=box.SandboxSpec(
            mounts="",
            alone=False,
            uid=0,
            instances_dir=_INSTANCES_DIR,
            prefix="",
            blocked_parent="",
            limits=box.limits(spec, files_max=config.files_max),
            processes_max=0,
            files_max=config.files_max,
            contained=True,
        ),
        memory_mb=box.memory_mb(spec),
        tmp_mb=function.tmp_mb,
        processes_max=config.processes_max,
        cpu_millis=config.cpu_millis,
    )


def container_name(place: Place, key: str) -> str:
    """The name of the container with this key; its directory is named by the last part."""
    return f"pratai-{place.node[:8]}-{key[:16]}"


@functools.cache
def seccomp_profile() -> str:
    """The system calls that functions may make, as the engine reads it."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "seccomp.json")
    with open(path, encoding="utf-8") as file:
        return json.dumps(json.load(file), separators=(",", ":"))


def _hardening(tmp_mb: int, config: DriverConfig, uid: int) -> dict[str, Any]:
    owner = f"uid={uid},gid={uid}"
    return {
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,size={max(1, tmp_mb)}m,mode=0700,{owner}"},  # noqa: S108
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp_profile()}"],
        "Ulimits": [
            {"Name": "nofile", "Soft": config.files_max, "Hard": config.files_max},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "ShmSize": _SHM_BYTES,
        "IpcMode": "private",
        "Init": False,
        "OomScoreAdj": 500,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "256k", "max-file": "1"}},
        "RestartPolicy": {"Name": "no"},
    }


def _mounts(spec: InstanceSpec, directory: str, *, mounted: bool) -> list[dict[str, Any]]:
    found = [(os.path.join(directory, "run"), CONTROL_DIR)]
    if mounted:
        found.append((os.path.realpath(spec.code_dir), TASK_DIR))
        if spec.layer_dir:
            found.append((os.path.realpath(spec.layer_dir), LAYER_DIR))
    return [
        {
            "Type": "bind",
            "Source": source,
            "Target": target,
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate"},
        }
        for source, target in found
    ]


def _network(wanted: str, place: Place) -> str:
    return place.network if wanted == "outbound" else wanted


def _key(spec: InstanceSpec, config: DriverConfig, image: str) -> str:
    function = spec.version.config
    parts: list[Any] = [
        spec.version.version_id,
        spec.version.created_at_ms,
        os.path.realpath(spec.code_dir),
        os.path.realpath(spec.layer_dir) if spec.layer_dir else "",
        image,
        (function.memory_mb, function.tmp_mb, function.network),
        (config.processes_max, config.files_max, config.cpu_millis, config.adopt_ms),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
