"""What a version's configuration is, worked out from its package and from what its owner gave.

Later wins: the version before, `[tool.pratai]` of the package, what was given with the upload.
Handler and runtime that nobody names are found. Where the package stays and only its configuration
changes, its settings were taken once and are not taken again. Reads files, runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pratai.errors import InvalidField
from pratai.model.function import FunctionConfig
from pratai.model.validation import check_handler as check_handler_text
from pratai.model.validation import parse_config
from pratai.packages import handler as handlers
from pratai.packages.archive import SOURCE_NAME, Listing
from pratai.packages.requirements import Wanted, check_python, wanted_of

_MERGED = ("environment", "labels")


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a package tells, before its dependencies are there."""

    config: FunctionConfig
    requirements: list[str]
    #: The handler's module is not in the package; it must be among the dependencies.
    handler_in_layer: bool = False


def inspect_code(
    code_dir: str,
    listed: Listing,
    given: Mapping[str, object],
    *,
    previous: FunctionConfig | None,
    runtimes: Sequence[str],
    same_package: bool = False,
) -> Inspection:
    """Work out a version's configuration. `runtimes`: what exists, the usual one first.

    `same_package`: the version before had this package too.

    Raises:
        InvalidField: something given, or in the package, is not allowed; or no handler is found.

    """
    base = previous or FunctionConfig()
    same_package = same_package and base.handler != ""
    project = _wanted(code_dir, None, same_package=same_package)
    early = _merged(project.settings, given, base, runtimes)
    runtime = early.runtime
    if runtime and not runtime.startswith("python"):
        return _inspect_other(early, base, given, project)
    named = _explicit(given, project.settings)
    if not named:
        named = base.handler if same_package else _header_handler(code_dir)
    if named:
        handler = _adapted(named, listed)
    else:
        handler = handlers.find_handler(code_dir, preferred=base.handler)
    source = _source_of(code_dir, handler)
    wanted = _wanted(code_dir, source, same_package=same_package)
    config = _merged(wanted.settings, given, base, runtimes)
    runtime = _chosen_runtime(config, wanted, given, runtimes)
    in_layer = source is None and bool(wanted.requirements)
    if not in_layer:
        handlers.check_handler([code_dir], handler)
    config = msgspec.structs.replace(config, handler=handler, runtime=runtime)
    return Inspection(config=config, requirements=wanted.requirements, handler_in_layer=in_layer)


def _wanted(code_dir: str, source: str | None, *, same_package: bool) -> Wanted:
    wanted = wanted_of(code_dir, [source] if source else [])
    return msgspec.structs.replace(wanted, settings={}) if same_package else wanted


def _inspect_other(
    config: FunctionConfig,
    base: FunctionConfig,
    given: Mapping[str, object],
    wanted: Wanted,
) -> Inspection:
    """A package for another language: its handler must be named, its dependencies be in it."""
    handler = _explicit(given, wanted.settings) or base.handler
    if not handler:
        raise handlers.HandlerNotFound(
            f"A handler must be named for the runtime {config.runtime}.",
            next_step="Give --handler module:function",
            field="handler",
            value=None,
            allowed="module:function",
        )
    return Inspection(config=msgspec.structs.replace(config, handler=handler), requirements=[])


def _merged(
    settings: Mapping[str, object],
    given: Mapping[str, object],
    base: FunctionConfig,
    runtimes: Sequence[str],
) -> FunctionConfig:
    try:
        own = parse_config(settings, base, runtimes=runtimes)
    except InvalidField as error:
        raise InvalidField(
            f"[tool.pratai] of the package: {error.detail}",
            next_step=error.next_step,
            field=error.field,
            value=error.value,
            allowed=error.allowed,
        ) from None
    both = dict(given)
    for field in _MERGED:
        mine, theirs = settings.get(field), given.get(field)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            both[field] = {**mine, **theirs}
    return parse_config(both, own, runtimes=runtimes)


def _explicit(*sources: Mapping[str, object]) -> str:
    """The first handler that somebody named."""
    for source in sources:
        named = check_handler_text("handler", source.get("handler", ""))
        if named:
            return named
    return ""


def _header_handler(code_dir: str) -> str:
    """The handler that the header of one of the usual modules names."""
    for name in handlers.usual_modules(code_dir):
        named = _explicit(wanted_of(code_dir, [name]).settings)
        if named:
            return named
    return ""


def _adapted(handler: str, listed: Listing) -> str:
    """A handler as its owner names it, in the words of the unpacked package."""
    module, _, function = handler.partition(":")
    if listed.kind == "source":
        # One file has one module, whatever the file was called on its owner's disk.
        return f"{SOURCE_NAME.removesuffix('.py')}:{function}"
    return f"{module.removeprefix(listed.stripped + '.')}:{function}"


def _source_of(code_dir: str, handler: str) -> str | None:
    """The handler's file, relative to the package; None when the package does not have it."""
    path = handlers.module_file([code_dir], handler.partition(":")[0])
    return path.removeprefix(code_dir.rstrip("/") + "/") if path else None


def _chosen_runtime(
    config: FunctionConfig,
    wanted: Wanted,
    given: Mapping[str, object],
    runtimes: Sequence[str],
) -> str:
    """The runtime that was named, that of the version before, or the first that fits."""
    fitting = [
        name
        for name in runtimes
        if name.startswith("python") and check_python(wanted.requires_python, name)
    ]
    named = given.get("runtime") or wanted.settings.get("runtime")
    if config.runtime in fitting:
        return config.runtime
    if not named and fitting:
        return fitting[0]
    pythons = [name for name in runtimes if name.startswith("python")]
    raise InvalidField(
        f"The package asks for Python {wanted.requires_python}; "
        f"there is {config.runtime or ', '.join(pythons) or 'none'}.",
        next_step="Change requires-python, or choose a runtime that it allows.",
        field="runtime",
        value=config.runtime or wanted.requires_python,
        allowed=fitting or pythons,
    )
