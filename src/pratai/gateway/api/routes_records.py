"""Rows of the table: invocations and dead letters."""

from __future__ import annotations

from pratai.gateway.api import invocations, logs
from pratai.gateway.api import parameters as p
from pratai.gateway.api.operations import Operation, Reply
from pratai.gateway.api.rows import ACCEPTED, OF_INVOCATION, gone, ok
from pratai.model import api

_INVOCATION = "/v1/invocations/{request_id}"
_DEAD_LETTERS = "/v1/dead-letters"


def invocations_rows() -> list[Operation]:
    """Rows of invocations."""
    filters = (p.FUNCTION, p.OUTCOME, p.STATE, p.SINCE, p.UNTIL, p.SEARCH, p.LIMIT, p.CURSOR)
    return [
        Operation(
            id="listInvocations",
            method="GET",
            path="/v1/invocations",
            summary="Search invocations, newest first.",
            tag="invocations",
            handler=invocations.list_invocations,
            parameters=(p.NAMESPACE, *filters),
            replies=ok(api.InvocationList),
        ),
        Operation(
            id="readInvocation",
            method="GET",
            path=_INVOCATION,
            summary="An invocation: state, timeline, event, result or failure.",
            tag="invocations",
            handler=invocations.read_invocation,
            parameters=OF_INVOCATION,
            problems=(404,),
            replies=ok(api.InvocationView),
        ),
        Operation(
            id="readResult",
            method="GET",
            path=f"{_INVOCATION}/result",
            summary="The result's bytes; without success, the problem a caller would have got.",
            tag="invocations",
            handler=invocations.read_result,
            parameters=OF_INVOCATION,
            problems=(404, 429, 502, 504),
            replies={
                200: Reply(description="The result.", media=("*/*",)),
                202: Reply(description="Not done yet.", model=api.PendingView),
            },
        ),
    ]


def stories_rows() -> list[Operation]:
    """Rows of what became of an invocation: logs, explanation, replay."""
    return [
        Operation(
            id="readInvocationLogs",
            method="GET",
            path=f"{_INVOCATION}/logs",
            summary="What the function wrote during this invocation, oldest first.",
            tag="logs",
            handler=logs.invocation_logs,
            parameters=(*OF_INVOCATION, p.GREP, p.AFTER, p.LOG_LIMIT),
            problems=(404,),
            replies={
                200: Reply(description="One JSON object (LogView) a line.", media=(logs.NDJSON,))
            },
        ),
        Operation(
            id="explainInvocation",
            method="GET",
            path=f"{_INVOCATION}/why",
            summary="What happened, why, whose fault it was and what to do.",
            tag="invocations",
            handler=invocations.explain_invocation,
            parameters=OF_INVOCATION,
            problems=(404,),
            replies=ok(api.ExplanationView),
        ),
        Operation(
            id="replayInvocation",
            method="POST",
            path=f"{_INVOCATION}/replay",
            summary="Run the same event again, as a new invocation.",
            tag="invocations",
            handler=invocations.replay_invocation,
            parameters=OF_INVOCATION,
            problems=(404, 413, 429),
            replies={202: ACCEPTED},
        ),
    ]


def dead_letters_rows() -> list[Operation]:
    """Rows of dead letters."""
    filters = (p.FUNCTION, p.SINCE, p.UNTIL, p.SEARCH, p.LIMIT, p.CURSOR)
    return [
        Operation(
            id="listDeadLetters",
            method="GET",
            path=_DEAD_LETTERS,
            summary="Events given up without success, newest first.",
            tag="dead letters",
            handler=invocations.list_dead_letters,
            parameters=(p.NAMESPACE, *filters),
            replies=ok(api.InvocationList),
        ),
        Operation(
            id="purgeDeadLetters",
            method="DELETE",
            path=_DEAD_LETTERS,
            summary="Remove the dead letters of a function, or all.",
            tag="dead letters",
            handler=invocations.purge_dead_letters,
            parameters=(p.NAMESPACE, p.FUNCTION),
            replies=ok(api.PurgeView),
        ),
        Operation(
            id="replayDeadLetters",
            method="POST",
            path=f"{_DEAD_LETTERS}/replay",
            summary="Run the dead letters of a function, or all, again.",
            tag="dead letters",
            handler=invocations.replay_dead_letters,
            parameters=(p.NAMESPACE, p.FUNCTION),
            problems=(404, 413, 429),
            replies=ok(api.PurgeView),
        ),
    ]


def dead_letter_rows() -> list[Operation]:
    """Rows of one dead letter."""
    return [
        Operation(
            id="readDeadLetter",
            method="GET",
            path=f"{_DEAD_LETTERS}/{{request_id}}",
            summary="A dead letter: the invocation with its event and failure.",
            tag="dead letters",
            handler=invocations.read_dead_letter,
            parameters=OF_INVOCATION,
            problems=(404,),
            replies=ok(api.InvocationView),
        ),
        Operation(
            id="purgeDeadLetter",
            method="DELETE",
            path=f"{_DEAD_LETTERS}/{{request_id}}",
            summary="Remove a dead letter.",
            tag="dead letters",
            handler=invocations.purge_dead_letter,
            parameters=OF_INVOCATION,
            problems=(404,),
            replies=gone("Removed."),
        ),
        Operation(
            id="replayDeadLetter",
            method="POST",
            path=f"{_DEAD_LETTERS}/{{request_id}}/replay",
            summary="Run a dead letter again; it is none any more once it is accepted anew.",
            tag="dead letters",
            handler=invocations.replay_dead_letter,
            parameters=OF_INVOCATION,
            problems=(404, 413, 429),
            replies={202: ACCEPTED},
        ),
    ]
