"""Functions and versions as calls find them: reading the store, and the cache in front of it.

Nothing here changes the store; `catalog.py` does, and tells the cache at once.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from typing import NoReturn

import msgspec
import structlog

from pratai.clock import now_ms
from pratai.errors import NotFound, PlatformError, PrataiError
from pratai.model.function import LATEST, Function, Version, resolve
from pratai.store.base import Store

#: Functions and versions remembered; the oldest is forgotten beyond it.
FUNCTIONS_CACHED_MAX = 20_000
VERSIONS_CACHED_MAX = 40_000
#: With more than one gateway: how old a cached function may be before it is read again.
AGE_MAX_MS = 5_000
#: Names looked through for a similar one.
NAMES_MAX = 1_000
#: Versions in all; more would make "which packages are in use" unanswerable in one reading.
VERSIONS_MAX = 1_000_000

FUNCTION, VERSION = "function", "version"
_log = structlog.get_logger("pratai.gateway")
decode_function = msgspec.json.Decoder(Function).decode
decode_version = msgspec.json.Decoder(Version).decode


#: Told (namespace, name) of a function that was changed; returns when all gateways know.
Tell = Callable[[str, str], Awaitable[None]]


async def tell_nobody(namespace: str, name: str) -> None:
    """Hook of a catalog that is the only one."""


class _Cached(msgspec.Struct):
    function: Function
    checked_at_ms: int


class Lookup:
    """Finds functions and versions. `shared`: other gateways write to the same store."""

    def __init__(self, store: Store, *, shared: bool = False) -> None:
        self._store = store
        self._shared = shared
        #: {(namespace, name): function and when it was read}. At most `FUNCTIONS_CACHED_MAX`.
        self._functions: dict[tuple[str, str], _Cached] = {}
        #: {(namespace, name, number): version}. At most `VERSIONS_CACHED_MAX`.
        self._versions: dict[tuple[str, str, int], Version] = {}
        #: Told of each change, before whoever made it is answered.
        self.tell: Tell = tell_nobody
        #: Grows when something is forgotten: what was being read then may be of before.
        self._forgotten = 0
        #: Readings under way, at most one for each cached function.
        self._refreshing: dict[tuple[str, str], asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        """What is cached."""
        cached = f"[functions: {len(self._functions)} | versions: {len(self._versions)}]"
        return f"<{type(self).__name__} {cached}>"

    @property
    def shared(self) -> bool:
        """Whether other gateways write to the same store."""
        return self._shared

    def resolve_cached(
        self, namespace: str, name: str, qualifier: str, chance: float
    ) -> Version | None:
        """The version a call runs, from memory alone; None = ask `resolve`."""
        cached = self._functions.get((namespace, name))
        if cached is None:
            return None
        if self._shared and now_ms() - cached.checked_at_ms > AGE_MAX_MS:
            self._refresh_soon(namespace, name)
        number = resolve(cached.function, qualifier, chance)
        if number is None:
            return None
        return self._versions.get((namespace, name, number))

    async def resolve(self, namespace: str, name: str, qualifier: str, chance: float) -> Version:
        """The version a call runs, read from the store when it is not cached.

        Raises:
            NotFound: no such function, version or alias.

        """
        found = self.resolve_cached(namespace, name, qualifier, chance)
        if found is not None:
            return found
        function = await self.get(namespace, name)
        number = resolve(function, qualifier, chance)
        if number is None:
            no_qualifier(function, qualifier)
        return await self.version(function, number)

    async def get(self, namespace: str, name: str) -> Function:
        """A function, from the store. Raises `NotFound` with the nearest names."""
        forgotten = self._forgotten
        document = await self._store.get(FUNCTION, namespace, name)
        if document is None:
            self._functions.pop((namespace, name), None)
            await self.no_function(namespace, name)
        function = decode_function(document.body)
        return self.remember(function) if forgotten == self._forgotten else function

    async def version(self, function: Function, number: int) -> Version:
        """One version of a function. Raises `NotFound`."""
        found = None
        if function.version_first <= number <= function.version_last:
            found = await self.version_by_id(f"{function.namespace}/{function.name}/{number}")
        if found is None:
            no_qualifier(function, str(number))
        return found

    async def version_by_id(self, version_id: str) -> Version | None:
        """A version by its id, also one of a function deleted lately."""
        namespace, name, number = version_id.split("/")
        key = (namespace, name, int(number))
        cached = self._versions.get(key)
        if cached is not None:
            return cached
        document = await self._store.get(VERSION, namespace, version_key(name, key[2]))
        if document is None:
            return None
        return self.remember_version(decode_version(document.body))

    async def functions(
        self, namespace: str, *, after: str = "", limit: int = 50
    ) -> list[Function]:
        """Functions in order of their names, those above `after`."""
        documents = await self._store.documents(FUNCTION, namespace, after=after, limit=limit)
        return [decode_function(document.body) for document in documents]

    async def versions(
        self, function: Function, *, below: int | None = None, limit: int = 50
    ) -> tuple[list[Version], int | None]:
        """Versions newest first, those below a number; and what to give as `below` next."""
        last = function.version_last
        high = last if below is None else min(below - 1, last)
        low = max(function.version_first, high - limit + 1)
        if high < function.version_first:
            return [], None
        documents = await self._store.documents(
            VERSION,
            function.namespace,
            prefix=f"{function.name}/",
            after=version_key(function.name, low - 1),
            limit=high - low + 1,
        )
        found = [decode_version(document.body) for document in documents]
        page = [version for version in reversed(found) if version.number <= high]
        return page, low if low > function.version_first else None

    async def all_versions_in_use(self) -> list[Version]:
        """Every version of every namespace: whose packages and layers must be kept.

        Raises:
            PlatformError: there are too many to tell.

        """
        documents = await self._store.documents(VERSION, None, limit=VERSIONS_MAX)
        if len(documents) >= VERSIONS_MAX:
            raise PlatformError(f"there are more than {VERSIONS_MAX} versions")
        return [decode_version(document.body) for document in documents]

    def forget(self, namespace: str, name: str) -> None:
        """A function was changed through another gateway: its next call reads it again."""
        self._functions.pop((namespace, name), None)
        self._forgotten += 1

    def forget_all(self) -> None:
        """Changes through other gateways may have been missed: read everything again."""
        self._functions.clear()
        self._forgotten += 1

    # for the catalog

    def remember(self, function: Function) -> Function:
        """Cache a function as it is in the store now."""
        key = (function.namespace, function.name)
        while len(self._functions) >= FUNCTIONS_CACHED_MAX:
            del self._functions[next(iter(self._functions))]
        self._functions[key] = _Cached(function, now_ms())
        return function

    def remember_version(self, version: Version) -> Version:
        """Cache a version."""
        while len(self._versions) >= VERSIONS_CACHED_MAX:
            del self._versions[next(iter(self._versions))]
        self._versions[(version.namespace, version.name, version.number)] = version
        return version

    def _refresh_soon(self, namespace: str, name: str) -> None:
        key = (namespace, name)
        if key not in self._refreshing:
            task = asyncio.get_running_loop().create_task(self._refresh(namespace, name))
            self._refreshing[key] = task
            task.add_done_callback(lambda _: self._refreshing.pop(key, None))

    async def _refresh(self, namespace: str, name: str) -> None:
        """Read a function again; when the store is away, what is known stays in use."""
        try:
            function = await self.get(namespace, name)
            await self.version(function, function.latest)
        except NotFound:
            self._functions.pop((namespace, name), None)
        except PrataiError as error:
            _log.warning("refresh_failed", namespace=namespace, function=name, error=error.detail)

    async def no_function(self, namespace: str, name: str) -> NoReturn:
        """Raise `NotFound` with the names that are most like it."""
        documents = await self._store.documents(FUNCTION, namespace, limit=NAMES_MAX)
        near = difflib.get_close_matches(name, [document.id for document in documents], n=3)
        advice = "`pratai functions` lists them; `pratai deploy` makes one."
        raise NotFound(
            f"there is no function {name} in namespace {namespace}",
            next_step=f"Did you mean {' or '.join(near)}?" if near else advice,
            field="name",
            value=name,
            allowed=near or None,
        )


def no_qualifier(function: Function, qualifier: str) -> NoReturn:
    """Raise `NotFound` with what the function does have."""
    known = [LATEST, *function.aliases]
    near = difflib.get_close_matches(qualifier, known, n=3)
    raise NotFound(
        f"{function.name} has no version or alias {qualifier}",
        next_step=(
            f"Did you mean {' or '.join(near)}?"
            if near
            else f"It has versions {function.version_first} to {function.version_last}"
            f" and aliases: {', '.join(function.aliases) or 'none'}."
        ),
        field="qualifier",
        value=qualifier,
        allowed=known,
    )


def version_key(name: str, number: int) -> str:
    """Id of a version's document: sorts by number within a function."""
    return f"{name}/{number:08d}"
