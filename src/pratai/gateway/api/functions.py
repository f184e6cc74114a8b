"""Handlers for functions: deploy, read, list, delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.responses import Response, StreamingResponse

from pratai.errors import Conflict, NotFound, Throttled
from pratai.gateway.api.context import ApiContext
from pratai.gateway.api.multipart import Upload, read_upload
from pratai.gateway.api.operations import Call, json_response
from pratai.gateway.api.triggers import catalog_of
from pratai.gateway.catalog import Code, Deployed
from pratai.gateway.problems import problem_of
from pratai.gateway.views import function_view
from pratai.model.api import FunctionList, FunctionView, ProgressView
from pratai.model.function import FunctionConfig
from pratai.model.refusal import invalid

NDJSON = "application/x-ndjson"
#: Deployments read and prepared at one time; each may hold a whole package in memory.
DEPLOYMENTS_MAX = 8
#: Lines of progress that wait for a slow reader; further ones are dropped.
PROGRESS_MAX = 1_000
#: Triggers named in a refusal.
NAMES_SHOWN = 5

_encode = msgspec.json.Encoder().encode


class Deployments:
    """Handler of deployments; bounds how many are under way."""

    def __init__(self, deployments_max: int = DEPLOYMENTS_MAX) -> None:
        self._free = deployments_max

    def __repr__(self) -> str:
        """How many more may begin."""
        return f"<Deployments [{self._free} free]>"

    async def put(self, call: Call) -> Response:
        """`PUT /v1/functions/{name}`."""
        self._take()
        try:
            upload = await read_upload(
                call.request.headers.get("content-type", ""),
                call.request.stream(),
                call.context.config.gateway.package_bytes_max,
                announced=call.request.headers.get("content-length", ""),
            )
            if NDJSON in call.request.headers.get("accept", ""):
                return StreamingResponse(self._stream(call, upload), 200, media_type=NDJSON)
            view, created = await _deploy(call, upload, lambda _: None)
        finally:
            self._free += 1
        location = {"Location": f"/v1/functions/{view.name}"}
        return json_response(view, 201 if created else 200, location)

    def _take(self) -> None:
        if self._free <= 0:
            raise Throttled(
                "too many deployments are under way",
                next_step="Deploy again in a moment.",
                retry_after_s=2,
            )
        self._free -= 1

    async def _stream(self, call: Call, upload: Upload) -> AsyncIterator[bytes]:
        """Lines of progress, then the function or the problem."""
        self._free -= 1
        lines: asyncio.Queue[bytes] = asyncio.Queue(PROGRESS_MAX)

        def on_progress(progress: object) -> None:
            if not lines.full():
                lines.put_nowait(_line(_progress_view(progress)))

        task = asyncio.get_running_loop().create_task(_last_line(call, upload, on_progress))
        try:
            while not (task.done() and lines.empty()):
                reading = asyncio.ensure_future(lines.get())
                await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    yield reading.result()
                else:
                    reading.cancel()
            yield task.result()
        finally:
            task.cancel()
            self._free += 1


async def read_function(call: Call) -> Response:
    """`GET /v1/functions/{name}`."""
    function = await call.context.catalog.get(call.namespace, call.text("name"))
    version = await call.context.catalog.version(function, function.latest)
    return json_response(function_view(function, version, call.context.base_url))


async def read_package(call: Call) -> Response:
    """`GET /v1/functions/{name}/package`."""
    name, qualifier = call.text("name"), call.text("qualifier")
    version = await call.context.catalog.resolve(call.namespace, name, qualifier, 0.0)
    data = await call.context.packages.read(version.digest)
    zipped = data.startswith(b"PK")
    suffix = "zip" if zipped else "py"
    headers = {
        "Content-Disposition": f'attachment; filename="{version.name}-{version.number}.{suffix}"',
        "ETag": f'"{version.digest}"',
    }
    return Response(data, 200, headers, "application/zip" if zipped else "text/x-python")


async def list_functions(call: Call) -> Response:
    """`GET /v1/functions`."""
    catalog, limit = call.context.catalog, call.whole("limit")
    functions = await catalog.functions(call.namespace, after=call.text("cursor"), limit=limit + 1)
    views: list[FunctionView] = []
    for function in functions[:limit]:
        version = await catalog.version(function, function.latest)
        views.append(function_view(function, version, call.context.base_url))
    more = len(functions) > limit
    return json_response(FunctionList(items=views, next_cursor=views[-1].name if more else ""))


async def delete_function(call: Call) -> Response:
    """`DELETE /v1/functions/{name}`: with `force` triggers of it are disabled."""
    name, triggers = call.text("name"), catalog_of(call)
    pointing = [one.name for one in await triggers.of_function(call.namespace, name)]
    if pointing and not call.flag("force"):
        raise _has_triggers(name, pointing)
    for version_id in await call.context.catalog.delete(call.namespace, name):
        call.context.version_changed(None, version_id)
    if pointing:
        await triggers.disable_of(call.namespace, name, f"its function {name} was deleted")
    return Response(status_code=204)


def _has_triggers(name: str, pointing: list[str]) -> Conflict:
    shown = ", ".join(pointing[:NAMES_SHOWN])
    more = len(pointing) - NAMES_SHOWN
    return Conflict(
        f"{name} is run by {'triggers' if len(pointing) > 1 else 'trigger'} {shown}"
        f"{f' and {more} more' if more > 0 else ''}",
        code="function_has_triggers",
        next_step="Delete them or let them run another function; `force` deletes the function and "
        "disables them.",
        field="name",
        value=name,
    )


async def _deploy(
    call: Call, upload: Upload, on_progress: Callable[[object], None]
) -> tuple[FunctionView, bool]:
    context, name = call.context, call.text("name")
    package = await context.packages.inspect_package(
        upload.package, upload.config, await _previous(context, call.namespace, name), on_progress
    )
    _check_secrets(package.config)
    deployed: Deployed = await context.catalog.create_or_update(
        call.namespace,
        name,
        Code(
            digest=package.digest,
            package_bytes=package.package_bytes,
            layer=package.layer,
            config=package.config,
        ),
    )
    if deployed.changed:
        context.version_changed(deployed.version, deployed.version.version_id)
    view = function_view(deployed.function, deployed.version, context.base_url)
    return view, deployed.created


def _check_secrets(config: FunctionConfig) -> None:
    """A function may not ask for what it would not get: no namespace holds secrets yet."""
    if config.secrets:
        raise invalid(
            "secrets",
            config.secrets[0],
            "names of secrets that the namespace holds (it holds none)",
            detail=f"There is no secret {config.secrets[0]}.",
            next_step="Secrets cannot be stored yet; give the value as environment.",
        )


async def _previous(context: ApiContext, namespace: str, name: str) -> FunctionConfig | None:
    """The configuration that a change begins from; None for a new function."""
    try:
        return (await context.catalog.resolve(namespace, name, "", 0.0)).config
    except NotFound:
        return None


async def _last_line(call: Call, upload: Upload, on_progress: Callable[[object], None]) -> bytes:
    try:
        view, _ = await _deploy(call, upload, on_progress)
    except Exception as error:  # noqa: BLE001 - a boundary; problem_of logs what is unforeseen
        return _line({"problem": problem_of(error, call.request_id)})
    return _line({"function": view})


def _progress_view(progress: object) -> ProgressView:
    phase, line = getattr(progress, "phase", ""), getattr(progress, "line", "")
    if not phase and not line:
        line = progress
    return ProgressView(phase=str(phase), line=str(line))


def _line(value: object) -> bytes:
    return _encode(value) + b"\n"
