"""The reference page of errors, made from the error tree and the table of failure reasons.

`python scripts/errors_reference.py > docs/reference/errors.md`; a test holds the page current.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from pratai import errors
from pratai.gateway.explain import REASONS

_HEAD = """\
# Errors

Made by `python scripts/errors_reference.py`; change `src/pratai/errors.py` and
`src/pratai/gateway/explain.py` instead of this page.

Every error tells whose it is, in words and in a code that does not change. Over HTTP it is
`application/problem+json` with `code`, `detail` and `next`; the command line writes the same to
stderr and ends with the exit code below.

| whose | exit code of `pratai` |
|---|---|
| function | 1 |
| caller | 2 |
| platform | 3 |
"""
_CALLS = """
## Errors of a request

The `code` may be a narrower one than the one listed; the status and the fault are those of its row.

| code | status | whose | may succeed later | meaning |
|---|---|---|---|---|
"""
_INVOCATIONS = """
## Why an invocation did not succeed

`failure.code` of an invocation, and what `pratai why` says about it. Names in braces are filled in.

| code | whose | cause | next |
|---|---|---|---|
"""


def render() -> str:
    """The whole page."""
    return "".join([_HEAD, _CALLS, *_classes(errors.PrataiError), _INVOCATIONS, *_reasons()])


def _classes(kind: type[errors.PrataiError]) -> Iterator[str]:
    """A row for each error, parents before children."""
    meaning = re.sub(r"\s+", " ", (kind.__doc__ or "").split("\n\n")[0]).replace("|", "\\|")
    if kind is not errors.PrataiError:
        later = "yes" if kind.retryable else "no"
        yield f"| `{kind.code}` | {kind.status} | {kind.fault} | {later} | {meaning} |\n"
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _classes(below)


def _reasons() -> Iterator[str]:
    for code, reason in REASONS.items():
        texts = " | ".join(text.replace("|", "\\|") for text in (reason.cause, reason.next))
        yield f"| `{code}` | {reason.fault} | {texts} |\n"


if __name__ == "__main__":
    sys.stdout.write(render())
