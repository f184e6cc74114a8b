"""Documents of who is in the cluster: the newest of each member is written, one writer at a time.

They are written by the scheduler process alone and read by gateways (`pratai nodes`). What they say
of the moment may be some seconds old; what an operator decided (draining) is what the next
scheduler starts from.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from pratai.core.effects import RecordMember
from pratai.errors import Conflict, StoreUnavailable
from pratai.metrics import count
from pratai.model.node import (
    NODE_KIND,
    PROCESS_KIND,
    SYSTEM_NAMESPACE,
    NodeRecord,
    ProcessRecord,
)
from pratai.store.base import Document, Store

_log = structlog.get_logger("pratai.collector")
#: Documents read in one page.
PAGE = 500
#: Documents written at one time, so that they share commits and leave room for others.
AT_ONCE = 50
#: Wait before members are written again while the store cannot be written.
RETRY_S = 1.0
#: Members that wait to be written; further ones are counted and given up.
WAITING_MAX = 20_000

Key = tuple[str, str]

_encode = msgspec.json.Encoder().encode


class Records:
    """Keeps the documents of members up to date."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: {(kind, id): what is to be written}, the newest of each.
        self._waiting: dict[Key, RecordMember] = {}
        #: {(kind, id): revision of the document}; absent = not known to exist.
        self._revisions: dict[Key, int] = {}
        self._loaded = False
        self._writing = False

    @property
    def wait_to_be_written(self) -> bool:
        """Whether `write` has anything to do."""
        return bool(self._waiting) and self._loaded and not self._writing

    def add(self, effect: RecordMember) -> None:
        """Have this written, instead of what was to be written of the same member before."""
        key = key_of(effect.record)
        if key not in self._waiting and len(self._waiting) >= WAITING_MAX:
            count("members_unrecorded")
            return
        self._waiting[key] = effect

    async def load(self) -> list[NodeRecord | ProcessRecord]:
        """Everything written so far; from now on members are written."""
        records: list[NodeRecord | ProcessRecord] = []
        for kind, decode in ((NODE_KIND, _decode_node), (PROCESS_KIND, _decode_process)):
            after = ""
            while True:
                page = await self._store.documents(kind, SYSTEM_NAMESPACE, after=after, limit=PAGE)
                for document in page:
                    self._revisions[kind, document.id] = document.revision
                    try:
                        records.append(decode(document.body))
                    except msgspec.DecodeError as error:
                        _log.warning("member_unreadable", id=document.id, error=str(error))
                if len(page) < PAGE:
                    break
                after = page[-1].id
        self._loaded = True
        return records

    async def write(self) -> None:
        """Write until nothing waits."""
        self._writing = True
        try:
            while self._waiting:
                batch = [self._waiting.pop(key) for key in list(self._waiting)[:AT_ONCE]]
                done = await asyncio.gather(*(self._write_one(effect) for effect in batch))
                failed = [effect for effect, ok in zip(batch, done, strict=True) if not ok]
                for effect in failed:
                    self._waiting.setdefault(key_of(effect.record), effect)
                if failed:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._writing = False

    async def _write_one(self, effect: RecordMember) -> bool:
        """Whether it was written."""
        kind, member_id = key = key_of(effect.record)
        document = Document(
            kind=kind,
            namespace=SYSTEM_NAMESPACE,
            id=member_id,
            body=_encode(effect.record),
            revision=self._revisions.get(key, 0),
        )
        try:
            if effect.forgotten:
                await self._store.delete(msgspec.structs.replace(document, revision=0))
                self._revisions.pop(key, None)
            else:
                self._revisions[key] = await self._store.put(document)
        except StoreUnavailable:
            count("store_retries")
            return False
        except Conflict:  # somebody else wrote it: what is newer is here
            current = await self._revision(key)
            if current is not None:
                self._revisions[key] = current
            return False
        return True

    async def _revision(self, key: Key) -> int | None:
        try:
            document = await self._store.get(key[0], SYSTEM_NAMESPACE, key[1])
        except StoreUnavailable:
            return None
        return document.revision if document is not None else 0


def key_of(record: NodeRecord | ProcessRecord) -> Key:
    """Kind and id of the document of a member."""
    if isinstance(record, NodeRecord):
        return NODE_KIND, record.node_id
    return PROCESS_KIND, f"{record.kind}:{record.process_id}"


_decode_node = msgspec.json.Decoder(NodeRecord).decode
_decode_process = msgspec.json.Decoder(ProcessRecord).decode
