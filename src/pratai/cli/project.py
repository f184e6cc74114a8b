"""What a path says about the function in it: the name it is deployed under."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pratai.errors import InvalidField

NAME_CHARS_MAX = 64
#: Start of a PEP 723 header and its lines.
_HEADER = re.compile(r"(?m)^# /// script$\s(?P<lines>(^#(| .*)$\s)+)^# ///$")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_TABLE_BYTES_MAX = 1024 * 1024


def default_name(path: Path) -> str:
    """`[tool.pratai] name` if there is one, else the file's stem or the folder's name, made valid.

    Raises:
        InvalidField: nothing of the path's name can be part of a function's name.

    """
    declared = _declared_name(path)
    if declared:
        return declared
    whole = path.resolve()
    stem = whole.name if whole.is_dir() else whole.stem
    name = _NOT_IN_NAMES.sub("-", stem).lstrip("-_")[:NAME_CHARS_MAX].rstrip("-")
    if not name:
        raise InvalidField(
            f"{path} gives no name that a function can have.",
            next_step="Name it with --name.",
            field="name",
            value=str(path),
        )
    return name


def _declared_name(path: Path) -> str:
    text = _project_text(path)
    if not text:
        return ""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidField(
            f"The metadata of {path} is not valid TOML: {error}.",
            next_step="Mend pyproject.toml, or the `# /// script` header.",
            field="path",
            value=str(path),
        ) from error
    tool = document.get("tool", {})
    table = tool.get("pratai", {}) if isinstance(tool, dict) else {}
    name = table.get("name", "") if isinstance(table, dict) else ""
    return name if isinstance(name, str) else ""


def _project_text(path: Path) -> str:
    """`pyproject.toml` of a folder, the PEP 723 header of a file, "" where there is neither."""
    if path.is_dir():
        project = path / "pyproject.toml"
        return project.read_text(encoding="utf-8") if project.is_file() else ""
    if path.suffix != ".py" or not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        found = _HEADER.search(file.read(_TABLE_BYTES_MAX))
    if found is None:
        return ""
    lines = found["lines"].splitlines()
    return "\n".join(line.removeprefix("# ") if line != "#" else "" for line in lines)
