"""Functions, their versions and aliases, and what a function may be configured with.

Values only: checking them is `model/validation.py`, keeping them is the store's work.
"""

from __future__ import annotations

from typing import Literal

import msgspec

LATEST = "$LATEST"
Network = Literal["outbound", "none", "host"]


class FunctionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner of a function decides about it (`interfaces.md`, function configuration)."""

    #: Language environment, e.g. `python3.11`; "" until found from the package.
    runtime: str = ""
    #: `module:function`; "" until found from the package.
    handler: str = ""
    description: str = ""
    memory_mb: int = 256
    timeout_ms: int = 30_000
    #: Calls of this function at one time over all nodes; None = bounded by the nodes alone.
    concurrency_max: int | None = None
    environment: dict[str, str] = {}
    secrets: list[str] = []
    network: Network = "outbound"
    tmp_mb: int = 512
    #: Attempts after the first for an asynchronous call that the function failed.
    retries: int = 2
    #: Wait before the second attempt; doubles with each further one.
    retry_backoff_ms: int = 1_000
    #: An asynchronous event older than this is discarded instead of run again.
    event_age_max_ms: int = 21_600_000
    #: Destinations of async outcomes, `function:NAME` or a URL; "" = none.
    on_success: str = ""
    on_failure: str = ""
    #: Whether `/fn/NAME` is open without a key.
    public: bool = False
    #: Instances kept warm without calls.
    keep_warm: int = 0
    labels: dict[str, str] = {}
    #: Debian packages that the function needs; only nodes with the docker driver install them.
    apt: list[str] = []


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable numbered snapshot of code and configuration."""

    namespace: str
    name: str
    #: 1, 2, 3 ... within the function; never reused.
    number: int
    #: SHA-256 of the package, hex.
    digest: str
    package_bytes: int
    #: Digest of the dependency layer; "" when the package needs none.
    layer: str
    config: FunctionConfig
    created_at_ms: int
    #: What the owner said when publishing.
    note: str = ""

    @property
    def version_id(self) -> str:
        """`namespace/name/number`: names this version everywhere inside Pratai."""
        return f"{self.namespace}/{self.name}/{self.number}"


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """A movable pointer to a version, optionally sending a share of calls to a second one."""

    name: str
    version: int
    #: {version: share of calls in 0..1} besides `version`, which takes the rest.
    weights: dict[int, float] = {}


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A named function: its newest version and its aliases. One document in the store."""

    namespace: str
    name: str
    #: Number of the version that `$LATEST` means. At most `version_last`.
    latest: int
    #: Highest number ever given; grows only.
    version_last: int
    #: Lowest number of this function; above 1 when one of its name was deleted before.
    version_first: int = 1
    created_at_ms: int
    updated_at_ms: int
    aliases: dict[str, Alias] = {}


def resolve(function: Function, qualifier: str, chance: float) -> int | None:
    """The version number a qualifier means, or None when there is no such version or alias.

    `chance`: a random number in 0..1 that picks among an alias's weighted versions.
    A number is returned as is: whether that version still exists is for the store to say.
    """
    if qualifier in ("", LATEST):
        return function.latest
    if qualifier.isdecimal():
        number = int(qualifier)
        return number if function.version_first <= number <= function.version_last else None
    alias = function.aliases.get(qualifier)
    if alias is None:
        return None
    for number, share in alias.weights.items():
        if chance < share:
            return number
        chance -= share
    return alias.version
