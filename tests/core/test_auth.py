"""Keys: who calls, and in which namespace."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from pratai.errors import Conflict, Forbidden, InvalidField, Unauthorized
from pratai.gateway import auth
from pratai.gateway.auth import KeyRing, Principal, choose_namespace
from pratai.store.memory import MemoryStore


async def ring(*, required: bool = True, shared: bool = False) -> tuple[MemoryStore, KeyRing]:
    store = MemoryStore()
    await store.open()
    return store, KeyRing(store, required=required, shared=shared)


def test_a_key_is_known_from_memory_once_it_was_seen() -> None:
    async def story() -> None:
        _, keys = await ring()
        secret, _ = await keys.create(namespace="team-b")
        header = f"Bearer {secret}".encode()

        assert keys.authenticate_cached(header) is None
        principal = await keys.authenticate(header)
        assert (principal.namespace, principal.admin) == ("team-b", False)
        assert keys.authenticate_cached(header) is principal
        assert keys.authenticate_cached(b"bearer " + secret.encode()) is principal

    asyncio.run(story())


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer ", b"Basic abc", b"Bearer \xff"])
def test_what_is_no_known_key_is_unauthorized_and_says_what_to_do(header: bytes) -> None:
    async def story() -> None:
        _, keys = await ring()
        with pytest.raises(Unauthorized) as caught:
            await keys.authenticate(header)
        assert caught.value.next_step

    asyncio.run(story())


def test_the_store_never_has_the_key_itself() -> None:
    async def story() -> None:
        store, keys = await ring()
        secret, key = await keys.create()
        (document,) = await store.documents("key", None)

        assert secret.encode() not in document.body
        assert secret not in document.id
        assert key.key_id in document.id

    asyncio.run(story())


def test_a_revoked_key_is_worthless_at_once_here_and_soon_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000
    monkeypatch.setattr(auth, "now_ms", lambda: now)

    async def story() -> None:
        nonlocal now
        store, keys = await ring()
        elsewhere = KeyRing(store, shared=True)
        secret, key = await keys.create()
        header = f"Bearer {secret}".encode()
        await keys.authenticate(header)
        await elsewhere.authenticate(header)

        await keys.revoke(key.key_id)

        assert keys.authenticate_cached(header) is None
        assert elsewhere.authenticate_cached(header) is not None
        now += auth.SHARED_AGE_MAX_MS + 1
        with pytest.raises(Unauthorized):
            await elsewhere.authenticate(header)

    asyncio.run(story())


def test_the_last_admin_key_stays() -> None:
    async def story() -> None:
        _, keys = await ring()
        _, first = await keys.create(admin=True)
        _, second = await keys.create(admin=True)

        await keys.revoke(first.key_id)
        with pytest.raises(Conflict):
            await keys.revoke(second.key_id)

    asyncio.run(story())


def test_the_first_admin_key_is_kept_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    async def story() -> None:
        store, keys = await ring()
        path = tmp_path / "key"

        secret = await keys.ensure_admin_key(str(path))
        again = await KeyRing(store).ensure_admin_key(str(path))

        assert secret == again == path.read_text().strip()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await keys.authenticate(f"Bearer {secret}".encode())).admin
        assert len(await keys.keys()) == 1

    asyncio.run(story())


def test_a_file_with_a_key_of_another_store_is_replaced(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "key"
        path.write_text("pratai_of_another_store\n")
        path.chmod(0o644)
        _, keys = await ring()

        secret = await keys.ensure_admin_key(str(path))

        assert path.read_text().strip() == secret != "pratai_of_another_store"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    asyncio.run(story())


def test_without_keys_everybody_is_admin_of_default() -> None:
    async def story() -> None:
        _, keys = await ring(required=False)
        principal = keys.authenticate_cached(b"")
        assert principal is not None
        assert (principal.namespace, principal.admin) == ("default", True)

    asyncio.run(story())


def test_only_an_admin_names_another_namespace() -> None:
    user = Principal(namespace="team-a", admin=False)
    admin = Principal(namespace="default", admin=True)

    assert choose_namespace(user, "") == "team-a"
    assert choose_namespace(user, "team-a") == "team-a"
    assert choose_namespace(admin, "team-a") == "team-a"
    with pytest.raises(Forbidden):
        choose_namespace(user, "team-b")
    with pytest.raises(InvalidField):
        choose_namespace(admin, "no name")
