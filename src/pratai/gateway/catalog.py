"""How functions, versions and aliases change in the store.

A function is one document, each version another; both change by compare-and-set, repeated a
bounded number of times. A version is written before the function points at it, so a crash between
leaves at most a number that nobody was told. Numbers are never given twice, not even after a
function was deleted: what still runs or waits under an old number never meets new code.

Deleting removes the function at once. Its versions stay readable by id for calls in flight until
`sweep` removes them. Finding what a call runs is `lookup.py`.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from pratai.clock import now_ms
from pratai.errors import Conflict, InvalidField
from pratai.gateway.lookup import (
    FUNCTION,
    VERSION,
    VERSIONS_MAX,
    Lookup,
    decode_function,
    decode_version,
    no_qualifier,
    version_key,
)
from pratai.model.function import LATEST, Alias, Function, FunctionConfig, Version
from pratai.store.base import Document

#: Attempts at a compare-and-set before the caller is told of the conflict.
ATTEMPTS_MAX = 8
ALIASES_MAX = 64

_DELETED = "deleted-function"
_encode = msgspec.json.Encoder().encode


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment did. `changed` False: it was deployed like this already."""

    function: Function
    version: Version
    created: bool
    changed: bool


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A package that was inspected: all a version needs beside its number."""

    digest: str
    package_bytes: int
    layer: str
    config: FunctionConfig


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a deleted function."""

    name: str
    version_last: int
    deleted_at_ms: int
    #: Whether its versions were removed as well.
    swept: bool = False


_decode_deleted = msgspec.json.Decoder(Deleted).decode


class Catalog(Lookup):
    """Knows the functions: finds them (`Lookup`) and changes them."""

    async def create_or_update(self, namespace: str, name: str, code: Code) -> Deployed:
        """Deploy code under a name: a new version, unless `$LATEST` is exactly this already."""
        for _ in range(ATTEMPTS_MAX):
            document = await self._store.get(FUNCTION, namespace, name)
            function = decode_function(document.body) if document else None
            if function is not None:
                latest = await self.version(function, function.latest)
                if _same(latest, code):
                    self.remember(function)
                    return Deployed(function=function, version=latest, created=False, changed=False)
            version = await self._add_version(namespace, name, code, function)
            fresh = _pointed_at(function, version)
            try:
                await self._put_function(fresh, document)
            except Conflict:
                continue
            return Deployed(function=fresh, version=version, created=function is None, changed=True)
        raise _busy(name)

    async def publish(self, namespace: str, name: str, description: str = "") -> Version:
        """The version that `$LATEST` means, its description kept. Idempotent."""
        for _ in range(ATTEMPTS_MAX):
            function = await self.get(namespace, name)
            key = version_key(name, function.latest)
            document = await self._store.get(VERSION, namespace, key)
            if document is None:
                no_qualifier(function, str(function.latest))
            version = decode_version(document.body)
            if not description or description == version.note:
                return self.remember_version(version)
            version = replace(version, note=description)
            try:
                await self._store.put(replace(document, body=_encode(version)))
            except Conflict:
                continue
            return self.remember_version(version)
        raise _busy(name)

    async def rollback(self, namespace: str, name: str, version: str = "") -> Function:
        """Make `$LATEST` mean an older version: the one before it, or the one given."""
        for _ in range(ATTEMPTS_MAX):
            document, function = await self._read(namespace, name)
            number = _number(version) if version else function.latest - 1
            if not version and number < function.version_first:
                raise Conflict(
                    f"{name} has no version before {function.latest}",
                    next_step="Name the version to go back to.",
                )
            target = await self.version(function, number)
            fresh = replace(function, latest=target.number, updated_at_ms=now_ms())
            try:
                return await self._put_function(fresh, document)
            except Conflict:
                continue
        raise _busy(name)

    async def set_alias(
        self, namespace: str, name: str, alias: str, version: str, weights: dict[int, float]
    ) -> tuple[Alias, bool]:
        """Point an alias at a version, other versions taking their share. True when it is new."""
        for _ in range(ATTEMPTS_MAX):
            document, function = await self._read(namespace, name)
            target = await self._target(function, version)
            shares = {
                (await self.version(function, number)).number: share
                for number, share in weights.items()
            }
            if alias not in function.aliases and len(function.aliases) >= ALIASES_MAX:
                raise Conflict(
                    f"{name} has {ALIASES_MAX} aliases already",
                    next_step="Delete an alias that is not used.",
                )
            made = Alias(name=alias, version=target, weights=shares)
            aliases = {**function.aliases, alias: made}
            try:
                await self._put_function(
                    replace(function, aliases=aliases, updated_at_ms=now_ms()), document
                )
            except Conflict:
                continue
            return made, alias not in function.aliases
        raise _busy(name)

    async def delete_alias(self, namespace: str, name: str, alias: str) -> None:
        """Remove an alias. Raises `NotFound`."""
        for _ in range(ATTEMPTS_MAX):
            document, function = await self._read(namespace, name)
            if alias not in function.aliases:
                no_qualifier(function, alias)
            aliases = {key: value for key, value in function.aliases.items() if key != alias}
            try:
                await self._put_function(
                    replace(function, aliases=aliases, updated_at_ms=now_ms()), document
                )
            except Conflict:
                continue
            return
        raise _busy(name)

    async def delete(self, namespace: str, name: str) -> list[str]:
        """Remove a function; ids of the versions it had. Calls in flight end as they would."""
        for _ in range(ATTEMPTS_MAX):
            document, function = await self._read(namespace, name)
            await self._bury(function)
            try:
                await self._store.delete(document)
            except Conflict:
                continue
            self._functions.pop((namespace, name), None)
            await self.tell(namespace, name)
            numbers = range(function.version_first, function.version_last + 1)
            return [f"{namespace}/{name}/{number}" for number in numbers]
        raise _busy(name)

    async def sweep(self, age_max_ms: int, *, limit: int = 100) -> int:
        """Remove versions of functions deleted longer ago than events live; how many were."""
        removed = 0
        for document in await self._store.documents(_DELETED, None, limit=VERSIONS_MAX):
            deleted = _decode_deleted(document.body)
            if deleted.swept or now_ms() - deleted.deleted_at_ms <= age_max_ms:
                continue
            removed += await self._sweep_one(document, deleted, limit - removed)
            if removed >= limit:
                break
        return removed

    # inside

    async def _read(self, namespace: str, name: str) -> tuple[Document, Function]:
        document = await self._store.get(FUNCTION, namespace, name)
        if document is None:
            await self.no_function(namespace, name)
        return document, decode_function(document.body)

    async def _put_function(self, function: Function, document: Document | None) -> Function:
        await self._store.put(
            Document(
                kind=FUNCTION,
                namespace=function.namespace,
                id=function.name,
                body=_encode(function),
                revision=document.revision if document else 0,
            )
        )
        self.remember(function)
        await self.tell(function.namespace, function.name)
        return function

    async def _add_version(
        self, namespace: str, name: str, code: Code, function: Function | None
    ) -> Version:
        """Write a version under the first number that is free."""
        if function is not None:
            number = function.version_last + 1
        else:
            buried = await self._store.get(_DELETED, namespace, name)
            number = _decode_deleted(buried.body).version_last + 1 if buried else 1
        for _ in range(ATTEMPTS_MAX):
            version = Version(
                namespace=namespace,
                name=name,
                number=number,
                digest=code.digest,
                package_bytes=code.package_bytes,
                layer=code.layer,
                config=code.config,
                created_at_ms=now_ms(),
            )
            try:
                await self._store.put(
                    Document(
                        kind=VERSION,
                        namespace=namespace,
                        id=version_key(name, number),
                        body=_encode(version),
                    )
                )
            except Conflict:
                number += 1
                continue
            return self.remember_version(version)
        raise _busy(name)

    async def _target(self, function: Function, version: str) -> int:
        """The number an alias shall point at; it must exist."""
        number = function.latest if version in ("", LATEST) else _number(version)
        return (await self.version(function, number)).number

    async def _bury(self, function: Function) -> None:
        """Remember which numbers were used, before the function is gone."""
        document = await self._store.get(_DELETED, function.namespace, function.name)
        last = function.version_last
        if document is not None:
            last = max(last, _decode_deleted(document.body).version_last)
        await self._store.put(
            Document(
                kind=_DELETED,
                namespace=function.namespace,
                id=function.name,
                body=_encode(
                    Deleted(name=function.name, version_last=last, deleted_at_ms=now_ms())
                ),
                revision=document.revision if document else 0,
            )
        )

    async def _sweep_one(self, document: Document, deleted: Deleted, limit: int) -> int:
        namespace, name = document.namespace, deleted.name
        current = await self._store.get(FUNCTION, namespace, name)
        last = deleted.version_last
        if current is not None:
            last = min(last, decode_function(current.body).version_first - 1)
        found = await self._store.documents(VERSION, namespace, prefix=f"{name}/", limit=limit)
        old = [one for one in found if one.id <= version_key(name, last)]
        for one in old:
            await self._store.delete(one)
            self._versions.pop((namespace, name, int(one.id.rpartition("/")[2])), None)
        if len(old) < limit:
            await self._store.put(replace(document, body=_encode(replace(deleted, swept=True))))
        return len(old)


def _pointed_at(function: Function | None, version: Version) -> Function:
    """The function with `$LATEST` at a new version; a higher number deployed meanwhile stays."""
    at_ms = now_ms()
    if function is None:
        return Function(
            namespace=version.namespace,
            name=version.name,
            latest=version.number,
            version_last=version.number,
            version_first=version.number,
            created_at_ms=at_ms,
            updated_at_ms=at_ms,
        )
    newer = version.number > function.version_last
    return replace(
        function,
        latest=version.number if newer else function.latest,
        version_last=max(function.version_last, version.number),
        updated_at_ms=at_ms,
    )


def _same(version: Version, code: Code) -> bool:
    return (version.digest, version.layer, version.config) == (
        code.digest,
        code.layer,
        code.config,
    )


def _number(version: str) -> int:
    if not (version.isascii() and version.isdecimal() and len(version) <= 9):
        raise InvalidField(
            f"{version!r} is not a number of a version",
            field="version",
            value=version,
            allowed="a whole number, e.g. 3",
        )
    return int(version)


def _busy(name: str) -> Conflict:
    return Conflict(
        f"{name} is being changed by somebody else at this moment",
        next_step="Ask again.",
        retry_after_s=1,
    )
