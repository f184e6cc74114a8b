"""What Elasticsearch's refusals mean in our errors. Knows no client library."""

from __future__ import annotations

from pratai.errors import InvalidField, PrataiError, StoreUnavailable

#: Kinds of status 400 that are about a value, not about us.
_MALFORMED = (
    "mapper_parsing_exception",
    "document_parsing_exception",
    "illegal_argument_exception",
    "strict_dynamic_mapping_exception",
    "x_content_parse_exception",
)


class Blocked(StoreUnavailable):
    """The indices are read-only, as on a full disk."""


class Overloaded(StoreUnavailable):
    """The cluster is up and has too much to do."""


class Gone(StoreUnavailable):
    """The index was dropped since we read which there are."""


class Unreached(StoreUnavailable):
    """No node answered, or none in time."""


def refusal(status: int, kind: str, reason: str) -> PrataiError:
    """What the cluster's refusal of a request, or of one write in a bulk, means."""
    if kind == "cluster_block_exception" and status in (403, 429):
        return Blocked(
            f"Elasticsearch takes no writes: {reason}",
            next_step="Free disk space on its nodes; below the high watermark it lifts the block.",
            retry_after_s=5,
        )
    if kind == "index_not_found_exception":
        return Gone(
            f"An index is gone: {reason}", next_step="Send again in a moment.", retry_after_s=1
        )
    if status in (401, 403):
        return StoreUnavailable(
            f"Elasticsearch lets us not do this: {reason}",
            next_step="Check username, password or api_key of `[elasticsearch]` and their rights.",
            retry_after_s=30,
        )
    if status == 429:
        return Overloaded(
            f"Elasticsearch has more work than it takes: {reason}",
            next_step="Send again in a moment.",
            retry_after_s=1,
        )
    if status == 400 and kind in _MALFORMED:
        return unstorable(reason)
    return StoreUnavailable(
        f"Elasticsearch answered {status} {kind}: {reason}",
        next_step="Look at `GET _cluster/health` and the nodes' logs.",
        retry_after_s=2,
    )


def unstorable(reason: str) -> InvalidField:
    """A value that cannot be written, or asked for."""
    return InvalidField(
        f"A value cannot be stored: {reason}",
        next_step="Send numbers below 2^63 and text that is valid Unicode.",
    )


def no_index(name: str) -> StoreUnavailable:
    """An index that must be there is not."""
    return StoreUnavailable(
        f"There is no index {name}.",
        next_step="Start a process of the platform again: it makes what is missing.",
        retry_after_s=5,
    )
