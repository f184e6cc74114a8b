"""What a package asks for: its dependencies, its Python, and its own `[tool.pratai]` settings.

Sources, all of which count together: `requirements.txt`, `[project] dependencies` of
`pyproject.toml`, and the PEP 723 header of the handler's file. Nothing here installs (`layers.py`).
A requirement may name what to install, never how or where to look: options, local paths and
environment variables would reach into the machine that resolves them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from pratai.errors import InvalidField
from pratai.model.refusal import shown

REQUIREMENTS_FILE = "requirements.txt"
PROJECT_FILE = "pyproject.toml"
REQUIREMENTS_MAX = 1_000
FILE_BYTES_MAX = 4 * 1024 * 1024
ALLOWED = "name[extras] with versions and markers, e.g. requests>=2.31"

_HASH = re.compile(r"\s+--hash[=\s]\s*(?P<hash>[a-z0-9]+:[0-9a-fA-F]+)")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_COMMENT = re.compile(r"(^|\s)#.*$")
_SCHEMES = ("https", "git+https")
_DIGEST_VERSION = "pratai-layer-1"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of a package ask for."""

    #: Normalised, sorted, each once.
    requirements: list[str] = []
    #: Version specifiers on Python, joined; "" for any.
    requires_python: str = ""
    #: Function configuration from `[tool.pratai]`; the later source wins.
    settings: dict[str, object] = {}


def wanted_of(code_dir: str, sources: Iterable[str]) -> Wanted:
    """Read what a package asks for. `sources`: files under `code_dir` that may have a header.

    Raises:
        InvalidField: a file is malformed, or asks for what is not allowed.

    """
    found: list[str] = []
    pythons: list[str] = []
    settings: dict[str, object] = {}
    text = _read(code_dir, REQUIREMENTS_FILE)
    if text is not None:
        found += parse_requirements(text)
    text = _read(code_dir, PROJECT_FILE)
    if text is not None:
        project = _toml(text, PROJECT_FILE)
        table = _table(project, "project", PROJECT_FILE)
        _take(table, f"{PROJECT_FILE} [project]", found, pythons)
        settings |= _settings(project, PROJECT_FILE)
    for source in sources:
        header = script_header(_read(code_dir, source) or "", source)
        if header is not None:
            _take(header, f"{source} (script header)", found, pythons)
            settings |= _settings(header, source)
    names = sorted(set(found))
    if len(names) > REQUIREMENTS_MAX:
        _refuse(f"{len(names)} requirements", "the package", f"at most {REQUIREMENTS_MAX}")
    return Wanted(requirements=names, requires_python=",".join(pythons), settings=settings)


def parse_requirements(text: str, where: str = REQUIREMENTS_FILE) -> list[str]:
    """The normalised requirements of a `requirements.txt`, in its order."""
    found: list[str] = []
    for number, line in _logical_lines(text):
        place = f"{where}:{number}"
        if line.startswith("-"):
            option = line.split("=")[0].split()[0]
            _refuse(
                option,
                place,
                "requirements, comments and --hash; no options",
                "Where packages come from is set for the platform (UV_DEFAULT_INDEX or pip.conf); "
                f"remove {option} and list each requirement by name.",
            )
        hashes = sorted({match["hash"].lower() for match in _HASH.finditer(line)})
        bare = _HASH.sub("", line)
        if " --" in bare:
            _refuse(bare[bare.index(" --") + 1 :], place, "no option but --hash")
        found.append(" ".join([normalise(bare, place), *(f"--hash={one}" for one in hashes)]))
    return found


def normalise(text: str, where: str) -> str:
    """One requirement in its one spelling: canonical name, sorted extras and versions."""
    if "${" in text or "\n" in text or "\r" in text:
        _refuse(text, where, ALLOWED, "Write it on one line and without variables.")
    try:
        requirement = Requirement(text.strip())
    except InvalidRequirement as error:
        step = "Name the package; code that lies in a folder belongs into the package itself."
        local = text.lstrip().startswith((".", "/")) or text.strip().endswith((".whl", ".gz"))
        _refuse(text, where, ALLOWED, step if local else f"Mend it: {str(error).splitlines()[0]}.")
    name = canonicalize_name(requirement.name)
    if not _NAME.fullmatch(name):
        _refuse(text, where, ALLOWED, "A name begins and ends with a letter or digit.")
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    out = name + (f"[{extras}]" if extras else "")
    if requirement.url:
        out += f" @ {_checked_url(requirement.url, where)}"
    else:
        out += str(requirement.specifier)
    if requirement.marker:
        out += f" ; {requirement.marker}"
    return out


def script_header(text: str, where: str) -> dict[str, object] | None:
    """The PEP 723 metadata of a source file as a table, or None when it has none."""
    blocks: list[list[str]] = []
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        if lines[index].rstrip() != "# /// script":
            index += 1
            continue
        block, index = _block(lines, index + 1)
        if block is not None:
            blocks.append(block)
    if len(blocks) > 1:
        _refuse("two `# /// script` blocks", where, "one", "Join the two blocks into one.")
    return _toml("\n".join(blocks[0]), f"{where} (script header)") if blocks else None


def check_python(requires_python: str, runtime: str) -> bool:
    """Whether a runtime such as `python3.11` is one of the Pythons that the package allows."""
    version = runtime.removeprefix("python")
    try:
        allowed = SpecifierSet(requires_python)
    except InvalidSpecifier:
        _refuse(requires_python, "requires-python", "versions, e.g. >=3.11")
    return any(allowed.contains(f"{version}.{patch}", prereleases=True) for patch in range(100))


def layer_digest(requirements: Iterable[str], runtime: str, machine: str = "") -> str:
    """Names the layer of these requirements for a runtime on a kind of machine."""
    lines = [_DIGEST_VERSION, runtime, machine or machine_kind(), *sorted(set(requirements))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def machine_kind() -> str:
    """What compiled dependencies depend on: system, processor and C library."""
    return f"{sysconfig.get_platform()}-{platform.libc_ver()[0] or 'libc'}"


def _logical_lines(text: str) -> Iterable[tuple[int, str]]:
    """(number, line) with continuations joined, comments and blank lines gone."""
    pending, start = "", 0
    lines = text.removeprefix("\ufeff").splitlines()
    for number, line in enumerate(lines, 1):
        start = start or number
        if line.endswith("\\") and not line.lstrip().startswith("#") and number < len(lines):
            pending += line[:-1] + " "
            continue
        whole = _COMMENT.sub("", pending + line.removesuffix("\\")).strip()
        if whole:
            yield start, whole
        pending, start = "", 0


def _block(lines: list[str], index: int) -> tuple[list[str] | None, int]:
    """The content up to the last closing line of a run of comments, and where to go on."""
    end = index
    while end < len(lines) and (lines[end] == "#" or lines[end].startswith("# ")):
        end += 1
    closing = [at for at in range(index, end) if lines[at].rstrip() == "# ///"]
    if not closing:
        return None, index
    return [line[2:] for line in lines[index : closing[-1]]], closing[-1] + 1


def _take(table: Mapping[str, object], where: str, found: list[str], pythons: list[str]) -> None:
    dependencies = table.get("dependencies", [])
    if not isinstance(dependencies, list):
        _refuse(dependencies, where, "a list of requirements")
    for item in dependencies:
        if not isinstance(item, str):
            _refuse(item, f"{where} dependencies", ALLOWED)
        found.append(normalise(item, f"{where} dependencies"))
    python = table.get("requires-python", "")
    if not isinstance(python, str):
        _refuse(python, f"{where} requires-python", "versions, e.g. >=3.11")
    if python:
        pythons.append(python)


def _settings(document: Mapping[str, object], where: str) -> dict[str, object]:
    """`[tool.pratai]`: the configuration. `name` is for whoever deploys; here it is no setting."""
    settings = _table(_table(document, "tool", where), "pratai", where)
    return {key: value for key, value in settings.items() if key != "name"}


def _table(document: Mapping[str, object], name: str, where: str) -> dict[str, object]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        _refuse(table, f"{where} {name}", "a table")
    return table


def _toml(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidField(
            f"{where} is not TOML: {error}.",
            next_step=f"Mend {where}.",
            field="package",
            value=where,
            allowed="TOML",
        ) from None


def _read(code_dir: str, name: str) -> str | None:
    """A file of the package as text, or None when there is none."""
    path = os.path.join(code_dir, name)
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        _refuse(f"{name} of more than {FILE_BYTES_MAX} bytes", "the package", "less")
    return data.decode("utf-8", "replace")


def _checked_url(url: str, where: str) -> str:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in _SCHEMES or any(char.isspace() for char in url):
        _refuse(url, where, "a URL that begins with https:// or git+https://")
    return url


def _refuse(value: object, where: str, allowed: str, next_step: str = "") -> NoReturn:
    raise InvalidField(
        f"{where}: {value if isinstance(value, str) else shown(value)} is not allowed here.",
        next_step=next_step or f"Write {allowed}.",
        field="requirements",
        value=value if isinstance(value, (str, int, float)) else shown(value),
        allowed=allowed,
    )
