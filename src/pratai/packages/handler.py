"""Find the handler of a package by reading its code, never by running it.

A candidate is a top-level `main(payload)` or `handler(event, context)` (also `lambda_handler`) in
one of the usual modules, or in the only module there is. One candidate is the handler; none or
several are an error that lists them with the flag to give. What reading cannot decide (star
imports, a module `__getattr__`) is left to the instance's own start.
"""

from __future__ import annotations

import ast
import glob
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

import msgspec

from pratai.errors import InvalidField
from pratai.model.refusal import nearest
from pratai.packages.archive import SOURCE_BYTES_MAX, USUAL_MODULES

#: {name: arguments it is called with}, of the functions that may be a handler.
USUAL_FUNCTIONS = {"main": 1, "handler": 2, "lambda_handler": 2}
_NOT_HANDLERS = ("setup.py", "conftest.py", "__init__.py", "__main__.py")
#: `warnings` is one for the process; two threads must not both replace its filters.
_warnings_lock = threading.Lock()


class HandlerNotFound(InvalidField):
    """The package has no handler, or several, or not the one that was named."""

    code = "handler_not_found"


class Named(msgspec.Struct, frozen=True):
    """A name that a module gives something at its top level."""

    name: str
    #: Fewest and most positional arguments; None when it is not a `def`.
    arity: tuple[int, int] | None = None

    def takes(self, count: int) -> bool:
        """Whether it can be called with this many positional arguments; unknown counts as yes."""
        return self.arity is None or self.arity[0] <= count <= self.arity[1]


class Module(msgspec.Struct, frozen=True):
    """What reading a module tells."""

    #: Name: the last definition, as Python would have it.
    names: dict[str, Named]
    #: Whether names may exist that reading does not show.
    open_ended: bool


def find_handler(code_dir: str, *, preferred: str = "") -> str:
    """The package's one handler as `module:function`.

    `preferred`: one that is kept if the package still has it (that of the version before).

    Raises:
        HandlerNotFound: there is none, or more than one.
        InvalidField: a module is not valid Python.

    """
    if preferred and _exists(code_dir, preferred):
        return preferred
    modules = usual_modules(code_dir)
    if not modules:
        raise HandlerNotFound(
            "The package has no Python module that could hold the handler.",
            next_step="Put main(payload) into main.py, or name it: --handler module:function",
            field="handler",
            allowed=list(USUAL_MODULES),
        )
    strict: list[str] = []
    loose: list[str] = []
    for file_name in modules:
        module = read_module(os.path.join(code_dir, file_name), file_name)
        for name, count in USUAL_FUNCTIONS.items():
            named = module.names.get(name)
            if named is None or (named.arity is None and name == "main"):
                continue
            entry = f"{file_name.removesuffix('.py')}:{name}"
            if named.takes(count):
                strict.append(entry)
            elif named.takes(1) or named.takes(2):
                loose.append(entry)
    candidates = strict or loose
    if len(candidates) == 1:
        return candidates[0]
    raise _not_one(candidates, modules)


def check_handler(roots: Sequence[str], handler: str) -> None:
    """Make sure that `module:function` exists under one of these directories.

    Raises:
        HandlerNotFound: it does not; the error names the nearest that does.
        InvalidField: its module is not valid Python.

    """
    module_name, _, function = handler.partition(":")
    path = module_file(roots, module_name)
    if path is None:
        _refuse_module(roots, handler, module_name)
    if not path.endswith(".py"):
        return
    module = read_module(path, _shown_path(roots, path))
    if module.open_ended or function in module.names:
        return
    near = nearest(function, module.names)
    step = f"Did you mean {module_name}:{near}? " if near else ""
    raise HandlerNotFound(
        f"{_shown_path(roots, path)} defines no {function}.",
        next_step=f"{step}Give --handler module:function, or define {function} there.",
        field="handler",
        value=handler,
        allowed=[f"{module_name}:{name}" for name in sorted(_callables(module))][:20],
    )


def module_file(roots: Sequence[str], module_name: str) -> str | None:
    """The file of a module under the first of these directories that has it."""
    relative = module_name.replace(".", "/")
    for root in roots:
        base = os.path.join(root, relative)
        for path in (base + ".py", os.path.join(base, "__init__.py")):
            if os.path.isfile(path):
                return path
        compiled = [path for path in glob.glob(glob.escape(base) + ".*") if path.endswith(".so")]
        if compiled:
            return min(compiled)
    return None


def read_module(path: str, shown_as: str) -> Module:
    """The top-level names of a source file.

    Raises:
        InvalidField: it is not valid Python; the sentence names file and line.

    """
    with open(path, "rb") as file:
        source = file.read(SOURCE_BYTES_MAX + 1)
    if len(source) > SOURCE_BYTES_MAX:
        return Module({}, open_ended=True)
    tree = parse_source(source, shown_as)
    names: dict[str, Named] = {}
    open_ended = False
    for statement in _top_level(tree.body):
        for named in _names_of(statement):
            names[named.name] = named
        if isinstance(statement, ast.ImportFrom):
            open_ended = open_ended or any(alias.name == "*" for alias in statement.names)
    dynamic = "__getattr__" in names or b"globals()" in source or b"exec(" in source
    return Module(names, open_ended=open_ended or dynamic)


def parse_source(source: bytes, shown_as: str) -> ast.Module:
    """Parse Python source without running any of it."""
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source, filename=shown_as)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        _refuse_source(f"{shown_as}{line}: {error.msg}", shown_as, f"Mend {shown_as}{line}.")
    except (ValueError, UnicodeError) as error:
        _refuse_source(f"{shown_as}: {error}", shown_as, "Save the file as UTF-8 text.")
    except (RecursionError, MemoryError):
        text = f"{shown_as}: its expressions are nested too deeply"
        _refuse_source(text, shown_as, f"Simplify {shown_as}.")


def _refuse_source(what: str, file_name: str, next_step: str) -> NoReturn:
    raise InvalidField(
        f"The package is not valid Python: {what}.",
        next_step=next_step,
        field="package",
        value=file_name,
        allowed="Python source that compiles",
    ) from None


def usual_modules(code_dir: str) -> list[str]:
    """The usual modules that are there, else the only module."""
    present = sorted(
        name
        for name in os.listdir(code_dir)
        if name.endswith(".py") and os.path.isfile(os.path.join(code_dir, name))
    )
    usual = [name for name in USUAL_MODULES if name in present]
    if usual:
        return usual
    others = [name for name in present if name not in _NOT_HANDLERS]
    own = [name for name in others if not name.startswith("test_")]
    return own if len(own) == 1 else []


def _exists(code_dir: str, handler: str) -> bool:
    try:
        check_handler([code_dir], handler)
    except HandlerNotFound:
        return False
    return True


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, those inside `if`, `try` and `with` included."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.For, ast.While)):
            yield from _top_level(statement.body)
            yield from _top_level(statement.orelse)
        elif isinstance(statement, ast.With):
            yield from _top_level(statement.body)
        elif isinstance(statement, (ast.Try, ast.TryStar)):
            yield from _top_level(statement.body)
            for handler in statement.handlers:
                yield from _top_level(handler.body)
            yield from _top_level(statement.orelse)
            yield from _top_level(statement.finalbody)


def _names_of(statement: ast.stmt) -> Iterator[Named]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield Named(statement.name, _arity(statement.args))
    elif isinstance(statement, ast.ClassDef):
        yield Named(statement.name)
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield Named(alias.asname or alias.name.partition(".")[0])
    elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    yield Named(node.id)


def _arity(arguments: ast.arguments) -> tuple[int, int]:
    """Fewest and most positional arguments; (99, 0), no count at all, if a keyword is needed."""
    if any(default is None for default in arguments.kw_defaults):
        return 99, 0
    positional = len(arguments.posonlyargs) + len(arguments.args)
    most = 99 if arguments.vararg else positional
    return positional - len(arguments.defaults), most


def _callables(module: Module) -> list[str]:
    plain = [name for name, named in module.names.items() if named.arity is not None]
    return [name for name in plain if not name.startswith("_")]


def _shown_path(roots: Sequence[str], path: str) -> str:
    for root in roots:
        if path.startswith(root + os.sep):
            return os.path.relpath(path, root)
    return os.path.basename(path)


def _not_one(candidates: list[str], modules: list[str]) -> HandlerNotFound:
    if candidates:
        flags = " or ".join(f"--handler {one}" for one in candidates)
        return HandlerNotFound(
            f"The package has {len(candidates)} handlers: {', '.join(candidates)}.",
            next_step=f"Say which one: {flags}",
            field="handler",
            value=None,
            allowed=candidates,
        )
    return HandlerNotFound(
        f"No main(payload) or handler(event, context) in {', '.join(modules)}.",
        next_step="Define main(payload), or name another function: --handler module:function",
        field="handler",
        value=None,
        allowed="main(payload) | handler(event, context) | --handler module:function",
    )


def _refuse_module(roots: Sequence[str], handler: str, module_name: str) -> NoReturn:
    known: list[str] = []
    for folder, names, files in os.walk(roots[0]):
        names.sort()
        names[:] = [name for name in names if name.isidentifier() and name != "__pycache__"]
        inside = os.path.relpath(folder, roots[0]).replace(os.sep, ".")
        prefix = "" if inside == "." else inside + "."
        known += [prefix + name[:-3] for name in sorted(files) if name.endswith(".py")]
        if len(known) > 1_000:
            break
    near = nearest(module_name, known)
    function = handler.partition(":")[2]
    raise HandlerNotFound(
        f"The package has no module {module_name}.",
        next_step=f"Did you mean --handler {near}:{function}?" if near else "Check --handler.",
        field="handler",
        value=handler,
        allowed=[f"{name}:{function}" for name in known[:20]],
    )
