"""Rows of the table: functions, versions, aliases and the invoke path."""

from __future__ import annotations

from pratai.gateway.api import functions, logs, versions
from pratai.gateway.api import parameters as p
from pratai.gateway.api.operations import Operation, Reply
from pratai.gateway.api.rows import BODY, OF_FUNCTION, gone, ok
from pratai.model import api


def functions_rows() -> list[Operation]:
    """Rows of functions."""
    return [
        Operation(
            id="listFunctions",
            method="GET",
            path="/v1/functions",
            summary="List functions by name.",
            tag="functions",
            handler=functions.list_functions,
            parameters=(p.NAMESPACE, p.LIMIT, p.NAME_CURSOR),
            replies=ok(api.FunctionList),
        ),
        _deploy_row(),
        Operation(
            id="readFunction",
            method="GET",
            path="/v1/functions/{name}",
            summary="A function with its whole configuration.",
            tag="functions",
            handler=functions.read_function,
            parameters=OF_FUNCTION,
            problems=(404,),
            replies=ok(api.FunctionView),
        ),
        Operation(
            id="readPackage",
            method="GET",
            path="/v1/functions/{name}/package",
            summary="The package of a version as it was uploaded.",
            tag="functions",
            handler=functions.read_package,
            parameters=(*OF_FUNCTION, p.QUALIFIER),
            problems=(404,),
            replies={
                200: Reply(
                    description="A zip archive, or one source file.",
                    media=("application/zip", "text/x-python"),
                    headers=(("ETag", "The digest of the package."),),
                )
            },
        ),
        Operation(
            id="deleteFunction",
            method="DELETE",
            path="/v1/functions/{name}",
            summary="Delete a function. Calls in flight end as they would have. One that triggers "
            "run is deleted with `force` only, which disables them.",
            tag="functions",
            handler=functions.delete_function,
            parameters=(*OF_FUNCTION, p.FORCE),
            problems=(404, 409),
            replies=gone("Deleted."),
        ),
    ]


def _deploy_row() -> Operation:
    return Operation(
        id="deployFunction",
        method="PUT",
        path="/v1/functions/{name}",
        summary="Create or change a function: a new version of package and configuration. "
        "With `Accept: application/x-ndjson` the answer is 200 and lines of progress, the "
        "last one with `function` or `problem`.",
        tag="functions",
        handler=functions.Deployments().put,
        parameters=OF_FUNCTION,
        body_media={"multipart/form-data": {"$ref": "#/components/schemas/Upload"}},
        problems=(409, 413, 415, 422, 429),
        replies={
            200: Reply(
                description="Changed, or deployed like this already.",
                model=api.FunctionView,
                media=(logs.NDJSON,),
                headers=(("Location", "Where the function is read."),),
            ),
            201: Reply(
                description="Created.",
                model=api.FunctionView,
                headers=(("Location", "Where the function is read."),),
            ),
        },
    )


def logs_rows() -> list[Operation]:
    """Rows of a function's logs."""
    return [
        Operation(
            id="readFunctionLogs",
            method="GET",
            path="/v1/functions/{name}/logs",
            summary="Log records of a function, oldest first; with `follow` as they arrive.",
            tag="logs",
            handler=logs.Followers().function_logs,
            parameters=(*OF_FUNCTION, p.SINCE, p.GREP, p.AFTER, p.LOG_LIMIT, p.FOLLOW),
            problems=(404, 429),
            replies={
                200: Reply(
                    description="One JSON object (LogView) a line, or server-sent `log` events.",
                    media=(logs.NDJSON, logs.EVENT_STREAM),
                )
            },
        ),
    ]


def versions_rows() -> list[Operation]:
    """Rows of versions."""
    return [
        Operation(
            id="listVersions",
            method="GET",
            path="/v1/functions/{name}/versions",
            summary="List versions, newest first.",
            tag="versions",
            handler=versions.list_versions,
            parameters=(*OF_FUNCTION, p.LIMIT, p.NUMBER_CURSOR),
            problems=(404,),
            replies=ok(api.VersionList),
        ),
        Operation(
            id="publishVersion",
            method="POST",
            path="/v1/functions/{name}/versions",
            summary="Publish: answer the version that `$LATEST` means and keep its description.",
            tag="versions",
            handler=versions.publish,
            parameters=OF_FUNCTION,
            body=api.PublishRequest,
            body_required=False,
            problems=(404, 409, *BODY),
            replies=ok(api.VersionView),
        ),
        Operation(
            id="rollbackFunction",
            method="POST",
            path="/v1/functions/{name}/rollback",
            summary="Make `$LATEST` mean an older version: the one given, or the one before it.",
            tag="versions",
            handler=versions.rollback,
            parameters=OF_FUNCTION,
            body=api.RollbackRequest,
            body_required=False,
            problems=(404, 409, *BODY),
            replies=ok(api.FunctionView),
        ),
    ]


def aliases_rows() -> list[Operation]:
    """Rows of aliases."""
    of_alias = (*OF_FUNCTION, p.ALIAS)
    return [
        Operation(
            id="listAliases",
            method="GET",
            path="/v1/functions/{name}/aliases",
            summary="All aliases of a function.",
            tag="aliases",
            handler=versions.list_aliases,
            parameters=OF_FUNCTION,
            problems=(404,),
            replies=ok(api.AliasList),
        ),
        Operation(
            id="setAlias",
            method="PUT",
            path="/v1/functions/{name}/aliases/{alias}",
            summary="Point an alias at a version; `weights` gives one other a share of its calls.",
            tag="aliases",
            handler=versions.put_alias,
            parameters=of_alias,
            body=api.AliasRequest,
            problems=(404, 409, *BODY),
            replies={
                200: Reply(description="Changed.", model=api.AliasView),
                201: Reply(description="Created.", model=api.AliasView),
            },
        ),
        Operation(
            id="readAlias",
            method="GET",
            path="/v1/functions/{name}/aliases/{alias}",
            summary="An alias.",
            tag="aliases",
            handler=versions.read_alias,
            parameters=of_alias,
            problems=(404,),
            replies=ok(api.AliasView),
        ),
        Operation(
            id="deleteAlias",
            method="DELETE",
            path="/v1/functions/{name}/aliases/{alias}",
            summary="Delete an alias.",
            tag="aliases",
            handler=versions.delete_alias,
            parameters=of_alias,
            problems=(404, 409),
            replies=gone("Deleted."),
        ),
    ]


def calls_rows() -> list[Operation]:
    """Rows of calls."""
    any_body: dict[str, dict[str, object]] = {
        "application/json": {},
        "application/octet-stream": {"type": "string", "format": "binary"},
    }
    request_id = ("Pratai-Request-Id", "Names the invocation everywhere.")
    return [
        Operation(
            id="invokeFunction",
            method="POST",
            path="/v1/functions/{name}/invocations",
            summary="Run a function on the event in the body. Sync: the result is the answer. "
            "With `Prefer: respond-async`: 202 once the event is kept durably.",
            tag="invocations",
            handler=None,
            parameters=(*OF_FUNCTION, p.QUALIFIER, *p.INVOKE_HEADERS),
            body_media=any_body,
            body_required=False,
            problems=(404, 409, 413, 429, 502, 504),
            replies={
                200: Reply(
                    description="The result, with the content type that the function gave it.",
                    media=("*/*",),
                    headers=(
                        request_id,
                        ("Pratai-Outcome", "succeeded."),
                        ("Pratai-Start-Kind", "cold, warm or provisioned."),
                        ("Server-Timing", "queue, start and run in milliseconds."),
                    ),
                ),
                202: Reply(
                    description="Kept durably; will run at least once.",
                    model=api.AcceptedView,
                    headers=(request_id, ("Location", "Where the invocation is read.")),
                ),
            },
        )
    ]
