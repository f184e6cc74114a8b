"""The reference page of the configuration, made from the schema.

`python -m pratai.config.reference > docs/reference/configuration.md`
"""

from __future__ import annotations

import inspect
import sys

from pratai.config.settings import Setting, Value, section_types, settings

_HEAD = """\
# Configuration

<!-- Made by `python -m pratai.config.reference`; change `src/pratai/config/schema.py` instead. -->

Every setting has a default that suits one machine. Values are taken from, later over earlier:

1. `/etc/pratai/pratai.conf`, read by every process;
2. `/etc/pratai/pratai-PROCESS.conf`, e.g. `pratai-scheduler.conf` (`--config FILE` replaces both);
3. the environment: `PRATAI_SECTION_KEY`, e.g. `PRATAI_GATEWAY_PORT=8080`;
4. the command line: `--set section.key=value`, e.g. `--set gateway.port=8080`.

Files are INI: `[section]`, then `key = value`; `;` or `#` begins a comment, at the start of a line
or after a space. Flags are `yes` or `no` (also `true`, `false`, `on`, `off`). Sizes are in bytes,
times in milliseconds, as the end of each name says. What is not known is an error that names the
nearest setting. `pratai config show` tells each value and where it came from.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for section, kind in section_types().items():
        rows = [_row(one) for one in settings().values() if one.section == section]
        parts.append(
            f"\n## [{section}]\n\n{inspect.cleandoc(kind.__doc__ or '')}\n\n"
            "| key | default | allowed | what it is |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "".join(parts)


def _row(setting: Setting) -> str:
    allowed = setting.allowed.replace("|", "\\|")
    default = _shown(setting.key, setting.default)
    return f"| `{setting.key}` | {default} | {allowed} | {setting.description} |"


def _shown(key: str, value: Value) -> str:
    """A default as it is written in a file, and what it comes to where that is hard to see."""
    if value is None:
        return "`none`"
    if isinstance(value, bool):
        return "`yes`" if value else "`no`"
    if isinstance(value, str):
        return f"`{value}`" if value else "(empty)"
    units = _UNITS["bytes"] if "bytes" in key else _UNITS["ms"] if key.endswith("_ms") else ()
    for size, unit in units:
        if value and value % size == 0:
            return f"`{value}` ({value // size:g} {unit})"
    return f"`{value}`"


_UNITS = {
    "bytes": ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")),
    "ms": ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")),
}


if __name__ == "__main__":
    sys.stdout.write(render())
