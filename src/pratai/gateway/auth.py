"""Keys: who calls, and in which namespace. HTTP statuses are those of the errors raised here.

A key is 256 random bits, so the store keeps a plain SHA-256 of it: a slow, salted hash protects
secrets that people choose and that can be guessed; nobody guesses 256 bits, and every call would
pay for the slowness. Looking a key up means looking its digest up, and how long that takes says
nothing about the key, since a caller cannot steer a digest towards a stored one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable

import msgspec

from pratai import ids
from pratai.clock import now_ms
from pratai.errors import Conflict, Forbidden, NotFound, Unauthorized
from pratai.model.validation import check_name
from pratai.store.base import Document, Store

DEFAULT_NAMESPACE = "default"
#: Namespace of the key documents themselves: a digest is looked up before its namespace is known.
SYSTEM_NAMESPACE = "_system"
KEY_ID_PATTERN = r"^[0-9a-f]{16}$"
KEY_ID_CHARS = 16
#: Principals remembered; the oldest is forgotten beyond it.
CACHE_MAX = 10_000
#: With more than one gateway, a key revoked elsewhere works here for at most this long.
SHARED_AGE_MAX_MS = 5_000
#: Keys listed in one answer.
KEYS_MAX = 1_000

_KIND = "key"
_ADMIN_LABEL = b"pratai admin key v1"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls."""

    namespace: str
    admin: bool
    label: str = ""
    key_id: str = ""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as stored: all but the key itself."""

    digest: str
    namespace: str
    admin: bool
    label: str
    created_at_ms: int

    @property
    def key_id(self) -> str:
        """Names the key without giving it away."""
        return self.digest[:KEY_ID_CHARS]

    def principal(self) -> Principal:
        """Who calls with this key."""
        return Principal(
            namespace=self.namespace, admin=self.admin, label=self.label, key_id=self.key_id
        )


_decode_key = msgspec.json.Decoder(Key).decode
_OPEN = Principal(namespace=DEFAULT_NAMESPACE, admin=True, label="no key required")


def choose_namespace(principal: Principal, header: str) -> str:
    """The namespace a request is about: its key's, or the one an admin names ("" = its own).

    Raises:
        Forbidden: the key belongs to another namespace.
        InvalidField: not a name of a namespace.

    """
    if not header or header == principal.namespace:
        return principal.namespace
    check_name("namespace", header)
    if not principal.admin:
        raise Forbidden(
            f"this key belongs to namespace {principal.namespace}, not to {header}",
            next_step="Leave Pratai-Namespace out, or use a key of that namespace.",
        )
    return header


async def tell_nobody(digest: str) -> None:
    """Hook of a key ring that is the only one."""


class KeyRing:
    """Knows the keys. `shared`: other gateways write to the same store."""

    def __init__(self, store: Store, *, required: bool = True, shared: bool = False) -> None:
        self._store = store
        self._required = required
        self._shared = shared
        #: {sha256 of key: (principal, when read)}. At most `CACHE_MAX`.
        self._known: dict[bytes, tuple[Principal, int]] = {}
        #: {header of a known key: its digest}, so that a digest is made once, not for every call.
        #: At most `CACHE_MAX`; what is revoked is gone from `_known`, which alone decides.
        self._digests: dict[bytes, bytes] = {}
        #: Told the digest of a key that was revoked, before whoever did it is answered.
        self.tell: Callable[[str], Awaitable[None]] = tell_nobody

    def __repr__(self) -> str:
        """Counts, never keys."""
        return f"<KeyRing required={self._required} [{len(self._known)} cached]>"

    def authenticate_cached(self, authorization: bytes) -> Principal | None:
        """Who calls, when this header was seen before; None = ask `authenticate`."""
        if not self._required:
            return _OPEN
        digest = self._digests.get(authorization)
        if digest is None:
            if authorization[:7].lower() != b"bearer ":
                return None
            digest = hashlib.sha256(authorization[7:].strip()).digest()
        found = self._known.get(digest)
        if found is None:
            return None
        if self._shared and now_ms() - found[1] > SHARED_AGE_MAX_MS:
            return None
        return found[0]

    async def authenticate(self, authorization: bytes) -> Principal:
        """Who calls.

        Raises:
            Unauthorized: no key, or one that is not known.

        """
        cached = self.authenticate_cached(authorization)
        if cached is not None:
            return cached
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized(
                "this needs a key" if not authorization else "only Bearer keys are understood",
                next_step="Send `Authorization: Bearer KEY`; `pratai up` prints where the key is.",
            )
        digest = hashlib.sha256(authorization[7:].strip())
        document = await self._store.get(_KIND, SYSTEM_NAMESPACE, digest.hexdigest())
        if document is None:
            self._known.pop(digest.digest(), None)
            raise Unauthorized(
                "this key is not known here",
                next_step="Check the key; an admin makes one with `pratai keys create`.",
            )
        principal = _decode_key(document.body).principal()
        for cache in (self._known, self._digests):
            while len(cache) >= CACHE_MAX:
                del cache[next(iter(cache))]
        self._known[digest.digest()] = (principal, now_ms())
        self._digests[authorization] = digest.digest()
        return principal

    async def create(
        self, *, namespace: str = DEFAULT_NAMESPACE, admin: bool = False, label: str = ""
    ) -> tuple[str, Key]:
        """Make a key. The key itself is told this once and kept nowhere."""
        secret = ids.api_key()
        key = _key_of(secret, namespace, label, admin=admin)
        await self._keep(key)
        return secret, key

    async def _keep(self, key: Key) -> None:
        await self._store.put(
            Document(
                kind=_KIND,
                namespace=SYSTEM_NAMESPACE,
                id=key.digest,
                body=msgspec.json.encode(key),
            )
        )

    async def keys(self, *, after: str = "", limit: int = KEYS_MAX) -> list[Key]:
        """Keys in order of their ids."""
        documents = await self._store.documents(_KIND, SYSTEM_NAMESPACE, after=after, limit=limit)
        return [_decode_key(document.body) for document in documents]

    async def revoke(self, key_id: str) -> None:
        """Make a key worthless.

        Raises:
            NotFound: no such key.
            Conflict: it is the last admin key.

        """
        found = await self._store.documents(_KIND, SYSTEM_NAMESPACE, prefix=key_id, limit=1)
        if not found:
            raise NotFound(
                f"there is no key {key_id}",
                next_step="`pratai keys list` shows the keys.",
                field="key_id",
                value=key_id,
            )
        key = _decode_key(found[0].body)
        if key.admin and not await self._another_admin(key.digest):
            raise Conflict(
                "this is the last admin key",
                next_step="Make another admin key first.",
            )
        await self._store.delete(found[0])
        self.forget(key.digest)
        await self.tell(key.digest)

    def forget(self, digest: str) -> None:
        """A key (hex digest) was revoked, here or through another gateway."""
        self._known.pop(bytes.fromhex(digest), None)

    async def ensure_admin_key(self, path: str, cluster_key: bytes = b"") -> str:
        """The admin key kept in the file at `path`; made, stored and written there when needed.

        With a cluster key it is made from that, so that every gateway has the same.
        """
        if cluster_key:
            secret = f"pratai_{hmac.new(cluster_key, _ADMIN_LABEL, hashlib.sha256).hexdigest()}"
            with contextlib.suppress(Conflict):  # another gateway was first
                key = _key_of(secret, DEFAULT_NAMESPACE, "cluster admin key", admin=True)
                await self._keep(key)
            await asyncio.to_thread(_write_key, path, secret)
            return secret
        secret = await asyncio.to_thread(_read_key, path)
        if secret:
            digest = hashlib.sha256(secret.encode()).hexdigest()
            if await self._store.get(_KIND, SYSTEM_NAMESPACE, digest) is not None:
                return secret
        secret, _ = await self.create(admin=True, label="first admin key")
        await asyncio.to_thread(_write_key, path, secret)
        return secret

    async def _another_admin(self, digest: str) -> bool:
        after = ""
        while True:
            keys = await self.keys(after=after)
            if any(key.admin and key.digest != digest for key in keys):
                return True
            if len(keys) < KEYS_MAX:
                return False
            after = keys[-1].digest


def _key_of(secret: str, namespace: str, label: str, *, admin: bool) -> Key:
    return Key(
        digest=hashlib.sha256(secret.encode()).hexdigest(),
        namespace=namespace,
        admin=admin,
        label=label,
        created_at_ms=now_ms(),
    )


def _read_key(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read(1_024).strip()
    except FileNotFoundError:
        return ""


def _write_key(path: str, secret: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(f"{secret}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
