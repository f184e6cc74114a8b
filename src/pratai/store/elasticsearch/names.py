"""Names: of indices, and of documents inside them. Pure.

An index of invocations or logs is named by the time of the first id in it:
`PREFIX-invocations-0001764034607000`. An id that begins with a time (`ids.request_id`) belongs to
the index with the highest beginning that is not above it, so that a document is read by its id, in
real time, without a search for its index. Other ids belong to the first index, which always is.
"""

from __future__ import annotations

import bisect
import hashlib
from urllib.parse import quote

#: Longest `_id` that Elasticsearch takes.
ID_BYTES_MAX = 512
_DIGITS = 16


class Names:
    """The names of one installation."""

    def __init__(self, prefix: str) -> None:
        self.documents = f"{prefix}-documents"
        self.keys = f"{prefix}-keys"
        #: Aliases of all indices of a series.
        self.invocations = f"{prefix}-invocations"
        self.logs = f"{prefix}-logs"

    @property
    def series(self) -> tuple[str, str]:
        """What is spread over several indices."""
        return (self.invocations, self.logs)

    @property
    def all(self) -> tuple[str, ...]:
        """Everything, each also the name of its template and of its mapping."""
        return (self.documents, self.keys, *self.series)


def index_name(series: str, begins_ms: int) -> str:
    """The index of a series that begins at a time."""
    return f"{series}-{begins_ms:0{_DIGITS}}"


def beginning_of(series: str, index: str) -> int | None:
    """When an index begins; None for a name that is none of this series."""
    head, _, digits = index.rpartition("-")
    is_one = head == series and len(digits) == _DIGITS and digits.isascii() and digits.isdigit()
    return int(digits) if is_one else None


def index_at(series: str, beginnings: list[int], time_ms: int) -> str:
    """The index that something of a time belongs to; `beginnings` in order, never empty."""
    at = bisect.bisect_right(beginnings, time_ms)
    return index_name(series, beginnings[max(0, at - 1)])


def time_of(request_id: str) -> int:
    """The time in a request id (UUID version 7); 0 where there is none."""
    if len(request_id) != 36 or request_id[8] != "-" or request_id[13:15] != "-7":
        return 0
    try:
        return int(request_id[:8] + request_id[9:13], 16)
    except ValueError:
        return 0


def invocation_id(namespace: str, request_id: str) -> str:
    """The `_id` of an invocation."""
    return _bounded(f"{quote(namespace, safe='')}/{request_id}")


def document_id(kind: str, namespace: str, id_: str) -> str:
    """The `_id` of a document."""
    return _bounded(f"{quote(kind, safe='')}/{quote(namespace, safe='')}/{id_}")


def key_id(namespace: str, function: str, key: str) -> str:
    """The `_id` of an idempotency key."""
    return digest(f"{quote(namespace, safe='')}/{quote(function, safe='')}/{key}".encode())


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _bounded(id_: str) -> str:
    encoded = id_.encode("utf-8", "surrogatepass")
    # No other id has no "/".
    return id_ if len(encoded) <= ID_BYTES_MAX else digest(encoded)
