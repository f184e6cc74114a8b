"""User ids for versions, when the platform runs as root. Numbers only: nobody is changed here."""

from __future__ import annotations

from collections.abc import Callable


class Users:
    """Gives each version a user id of its own, again the same while it is remembered."""

    def __init__(self, first: int, count: int, *, seed: int) -> None:
        self._first = first
        self._count = count
        #: Platforms on one machine begin at different places, so that they rarely meet.
        self._next = seed % count
        #: {version_id: uid}, least recently asked for first. At most `count`.
        self._uids: dict[str, int] = {}

    def uid(self, version_id: str, in_use: Callable[[str], bool]) -> int:
        """The user id of this version. `in_use(version_id)`: whether another must keep its own.

        When all ids are taken by versions in use, the least recently asked for is shared.
        """
        uid = self._uids.pop(version_id, None)
        if uid is None:
            uid = self._free(in_use)
        self._uids[version_id] = uid
        return uid

    def take(self, version_id: str, uid: int) -> None:
        """Have this version keep the user id that an earlier process gave it."""
        self._uids.setdefault(version_id, uid)

    def given(self) -> set[int]:
        """Every user id that a version has now."""
        return set(self._uids.values())

    def _free(self, in_use: Callable[[str], bool]) -> int:
        if len(self._uids) < self._count:
            taken = set(self._uids.values())
            while True:
                uid = self._first + self._next
                self._next = (self._next + 1) % self._count
                if uid not in taken:
                    return uid
        oldest = next((v for v in self._uids if not in_use(v)), next(iter(self._uids)))
        return self._uids.pop(oldest)
