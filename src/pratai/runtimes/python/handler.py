"""From a package on disk to a callable, and from an exception to words its author understands.

Nothing here talks to the node.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

_TEXT_MAX = 16 * 1024
_FRAMES_MAX = 64
_CAUSES_MAX = 5
_RUNTIME_DIR = os.path.dirname(os.path.abspath(__file__))
#: What a handler is called when nobody named one, best first.
_USUAL_NAMES = ("main", "handler", "lambda_handler")


class HandlerMissing(Exception):
    """The package has no such handler; the text lists what it does have."""


def load(entry: str, code_dir: str) -> Callable[..., Any]:
    """Import `module:function` (or `module.function`) from `code_dir`, which is on `sys.path`."""
    module_name, name = _split(entry, code_dir)
    module = importlib.import_module(module_name)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise HandlerMissing(_missing_text(module_name, name, module))
    return found  # type: ignore[no-any-return]


def _split(entry: str, code_dir: str) -> tuple[str, str]:
    if ":" in entry:
        module, _, name = entry.partition(":")
    elif "." in entry:
        module, _, name = entry.rpartition(".")
    else:
        module, name = entry or _only_module(code_dir), ""
    module = module.removesuffix(".py").replace("/", ".")
    return module, name or _usual_name(importlib.import_module(module))


def _only_module(code_dir: str) -> str:
    names = sorted(n[:-3] for n in os.listdir(code_dir) if n.endswith(".py"))
    if "main" in names:
        return "main"
    if len(names) == 1:
        return names[0]
    raise HandlerMissing(
        f"no handler is configured and the package has these modules: {', '.join(names) or 'none'}"
    )


def _usual_name(module: Any) -> str:
    for name in _USUAL_NAMES:
        if callable(getattr(module, name, None)):
            return name
    own = _own_callables(module)
    return own[0] if len(own) == 1 else _USUAL_NAMES[0]


def _own_callables(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and inspect.isfunction(value)
        and value.__module__ == module.__name__
    ]


def _missing_text(module_name: str, name: str, module: Any) -> str:
    own = _own_callables(module)
    listed = ", ".join(f"{module_name}:{one}" for one in own) or "no functions"
    return f"module {module_name!r} has no callable {name!r}; it has {listed}"


class Entry:
    """A handler with its shape worked out once: how many arguments, and what kind of function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.arity = _arity(function)

    def __call__(self, event: Any, context: Any) -> Any:
        """Call the handler with as many arguments as it takes."""
        if self.arity == 1:
            return self.function(event)
        if self.arity == 2:
            return self.function(event, context)
        return self.function()


def _arity(function: Callable[..., Any]) -> int:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) >= 2:
        second = positional[1]
        wanted = second.default is second.empty or second.name in ("context", "ctx", "_context")
        return 2 if wanted else 1
    return len(positional)


def describe(error: BaseException, code_dir: str) -> dict[str, Any]:
    """Type, message and stack of a failure, the stack trimmed to the user's own files."""
    return {
        "type": type(error).__name__,
        "message": _message(error)[:_TEXT_MAX],
        "stack": _stack(error, code_dir),
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<its text cannot be made: {type(broken).__name__}>"


def _stack(error: BaseException, code_dir: str) -> list[str]:
    lines = _frames(error, code_dir)
    seen = {id(error)}
    for _ in range(_CAUSES_MAX):
        hidden = error.__suppress_context__
        cause = error.__cause__ or (None if hidden else error.__context__)
        if cause is None or id(cause) in seen:
            break
        seen.add(id(cause))
        lines.append(f"caused by {type(cause).__name__}: {_message(cause)[:500]}")
        lines.extend(_frames(cause, code_dir))
        error = cause
    return lines


def _frames(error: BaseException, code_dir: str) -> list[str]:
    ours = (_RUNTIME_DIR, "<frozen importlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(ours)
    ]
    own = [frame for frame in frames if _is_under(frame.filename, code_dir)]
    kept = [
        f'File "{_short(frame.filename, code_dir)}", line {frame.lineno}, in {frame.name}: '
        f"{(frame.line or '')[:500]}".rstrip(": ")
        for frame in (own or frames)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        text = (error.text or "").strip()[:500]
        kept.append(f'File "{_short(error.filename, code_dir)}", line {error.lineno}: {text}')
    if len(kept) > _FRAMES_MAX:
        half = _FRAMES_MAX // 2
        kept = [*kept[:half], f"... {len(kept) - 2 * half} frames ...", *kept[-half:]]
    return kept


def _is_under(filename: str, code_dir: str) -> bool:
    return filename.startswith(code_dir.rstrip("/") + "/")


def _short(filename: str, code_dir: str) -> str:
    return filename.removeprefix(code_dir.rstrip("/") + "/")


def reseed() -> None:
    """Give this process random numbers of its own: siblings were forked from one memory."""
    module = sys.modules.get("random")
    if module is not None:
        module.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
