"""What a process finds out about its machine and keeps about itself."""

from __future__ import annotations

import os
import platform
import resource

from pratai import ids
from pratai.config.schema import Config
from pratai.errors import ConfigError
from pratai.model.node import Capacity
from pratai.runtimes.catalog import runtimes

#: Calls at one time for each processor when `[node] slots` is 0.
SLOTS_EACH_CPU = 32
#: Open files that a process asks for.
FILES_MAX = 65_536


def kept_id(data_dir: str, kind: str) -> str:
    """The id of this process, e.g. `node-3f9c2a1b`: made once, kept in its data dir."""
    path = os.path.join(data_dir, f"{kind}-id")
    try:
        with open(path, encoding="ascii") as file:
            found = file.read(64).strip()
        if found:
            return found
    except FileNotFoundError:
        pass
    made = ids.process_id(kind)
    with open(path, "w", encoding="ascii") as file:
        file.write(made)
    return made


def allow_files() -> None:
    """As many open files as this user may have: each peer takes some, each caller one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def capacity_of(config: Config) -> Capacity:
    """What this machine offers as a node."""
    cpus = len(os.sched_getaffinity(0))
    memory_mb = config.node.memory_mb
    if not memory_mb:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory_mb = total * 3 // 4 >> 20
    return Capacity(
        slots=config.node.slots or SLOTS_EACH_CPU * cpus,
        memory_mb=memory_mb,
        driver=config.driver.name,
        runtimes=[runtime.name for runtime in runtimes()],
        architecture=platform.machine(),
        labels=labels_of(config.node.labels),
    )


def labels_of(text: str) -> dict[str, str]:
    """The labels that `[node] labels` means.

    Raises:
        ConfigError: not of the form `key=value`.

    """
    labels: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"{part!r} is no label",
                next_step="Write labels as key=value, separated by commas.",
                field="node.labels",
                value=text,
                allowed="key=value, separated by commas",
            )
        labels[key.strip()] = value.strip()
    return labels
