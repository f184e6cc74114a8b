"""Documents: functions, versions, keys, triggers ... one index, compare-and-set, real time.

A revision is made of `_primary_term` and `_seq_no`, which Elasticsearch raises with every change of
a shard, also over deletions and over the loss of a node: it never comes back for a document, and
it is all that `if_seq_no` and `if_primary_term` need.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from pratai import ids
from pratai.errors import Conflict
from pratai.store.base import Document
from pratai.store.elasticsearch.names import Names, document_id
from pratai.store.elasticsearch.refresh import Refresher
from pratai.store.elasticsearch.refusals import no_index
from pratai.store.elasticsearch.writer import Writer, make_write

if TYPE_CHECKING:
    from pratai.store.elasticsearch.connection import Connection

#: Bits of a revision that hold the sequence number (2^40 changes of one index).
_SEQ_BITS = 40
_SEQ_MASK = (1 << _SEQ_BITS) - 1
#: Documents of one answer of Elasticsearch.
PAGE = 100


class Documents:
    """The documents of one installation."""

    def __init__(
        self, connection: Connection, names: Names, writer: Writer, refresher: Refresher
    ) -> None:
        self._connection = connection
        self._index = names.documents
        self._writer = writer
        self._refresher = refresher

    async def get(self, kind: str, namespace: str, id_: str) -> Document | None:
        """One document, in real time."""
        found = await self._found(kind, namespace, id_)
        return None if found is None else found[0]

    async def put(self, document: Document) -> int:
        """Create or replace; the new revision."""
        token = ids.request_id()
        options: dict[str, Any] = {}
        action = "create"
        if document.revision:
            action = "index"
            options = _condition(document.revision)
            if options["if_primary_term"] < 1:
                raise _changed_meanwhile(document)
        answer = await self._writer.submit(
            make_write(action, self._index, _id(document), _source(document, token), **options)
        )
        if answer.status in (200, 201):
            return _revision(answer.primary_term, answer.seq_no)
        # A conflict may be with our own first try, whose answer was lost with its node.
        found = await self._found(document.kind, document.namespace, document.id)
        if found is not None and found[1] == token:
            return found[0].revision
        raise _changed_meanwhile(document)

    async def delete(self, document: Document) -> bool:
        """Remove; whether it was there. Told twice of a node's loss, "was there" may be our own."""
        found = await self.get(document.kind, document.namespace, document.id)
        if found is None:
            return False
        if document.revision not in (0, found.revision):
            raise _changed_meanwhile(document)
        # Revision 0 removes any: what is there now, or, changed meanwhile, what is there then.
        options = _condition(document.revision) if document.revision else {}
        answer = await self._writer.submit(
            make_write("delete", self._index, _id(document), **options)
        )
        if answer.status != 409:
            return True
        if await self.get(document.kind, document.namespace, document.id) is None:
            return True
        raise _changed_meanwhile(document)

    async def listed(
        self, kind: str, namespace: str | None, *, prefix: str, after: str, limit: int
    ) -> list[Document]:
        """Documents in order of (namespace, id), as of now."""
        await self._refresher.refresh(self._index)
        filters: list[dict[str, Any]] = [{"term": {"kind": kind}}]
        above = ["", ""]
        if namespace is None:
            above[0], _, above[1] = after.partition("/")
        else:
            filters.append({"term": {"namespace": namespace}})
            above = [namespace, after]
        if prefix:
            filters.append({"prefix": {"id": prefix}})
        found: list[Document] = []
        while len(found) < limit:
            count = min(PAGE, limit - len(found))
            body = await self._connection.search(
                index=self._index,
                query={"bool": {"filter": filters}},
                sort=[{"namespace": "asc"}, {"id": "asc"}],
                search_after=above,
                size=count,
                seq_no_primary_term=True,
                track_total_hits=False,
            )
            hits = body["hits"]["hits"]
            found += [_document_of(hit) for hit in hits]
            if len(hits) < count:
                break
            above = hits[-1]["sort"]
        return found

    async def _found(self, kind: str, namespace: str, id_: str) -> tuple[Document, str] | None:
        body = await self._connection.ask(
            self._connection.es.get(index=self._index, id=document_id(kind, namespace, id_)),
            allowed=(404,),
        )
        if "found" not in body:
            raise no_index(self._index)
        return (_document_of(body), body["_source"]["token"]) if body["found"] else None


def _id(document: Document) -> str:
    return document_id(document.kind, document.namespace, document.id)


def _source(document: Document, token: str) -> dict[str, str]:
    source = {
        "kind": document.kind,
        "namespace": document.namespace,
        "id": document.id,
        "token": token,
    }
    try:
        source["body"] = document.body.decode()
    except UnicodeDecodeError:
        source["base64"] = base64.b64encode(document.body).decode()
    return source


def _document_of(hit: dict[str, Any]) -> Document:
    source = hit["_source"]
    binary = source.get("base64")
    return Document(
        kind=source["kind"],
        namespace=source["namespace"],
        id=source["id"],
        body=source["body"].encode() if binary is None else base64.b64decode(binary),
        revision=_revision(hit["_primary_term"], hit["_seq_no"]),
    )


def _revision(primary_term: int, seq_no: int) -> int:
    return primary_term << _SEQ_BITS | seq_no


def _condition(revision: int) -> dict[str, int]:
    return {"if_seq_no": revision & _SEQ_MASK, "if_primary_term": revision >> _SEQ_BITS}


def _changed_meanwhile(document: Document) -> Conflict:
    return Conflict(
        f"{document.kind} {document.namespace}/{document.id} was changed by somebody else first.",
        next_step="Read it again and repeat.",
    )
