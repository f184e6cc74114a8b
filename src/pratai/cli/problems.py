"""Errors as people and programs read them, and the exit code each means."""

from __future__ import annotations

import sys
import traceback

import click
import msgspec

from pratai.errors import PrataiError

FUNCTION_FAILED = 1
CALLER_WRONG = 2
PLATFORM_FAILED = 3
_EXIT_CODES = {"function": FUNCTION_FAILED, "caller": CALLER_WRONG, "platform": PLATFORM_FAILED}


def report(error: BaseException, *, as_json: bool) -> int:
    """Write the error to stderr; returns the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
        sys.stderr.write(error.format_message() + "\n")
        return CALLER_WRONG
    if isinstance(error, click.ClickException):
        return _report(_usage_document(error), [], as_json=as_json)
    if isinstance(error, PrataiError):
        return _report(_document(error), _stack(error), as_json=as_json)
    document: dict[str, object] = {
        "title": "Internal error",
        "code": "internal",
        "fault": "platform",
        "detail": f"pratai itself failed: {type(error).__name__}: {error}.",
        "next": "Report it with the lines above.",
    }
    return _report(document, traceback.format_exception(error), as_json=as_json)


def document_of(error: PrataiError) -> dict[str, object]:
    """The problem document of an error, e.g. for a line of JSON."""
    return {name: value for name, value in _document(error).items() if value not in (None, "")}


def _report(document: dict[str, object], stack: list[str], *, as_json: bool) -> int:
    if as_json:
        told = {name: value for name, value in document.items() if value not in (None, "")}
        sys.stderr.write(msgspec.json.encode(told, enc_hook=str).decode() + "\n")
    else:
        for line in stack:
            sys.stderr.write(line.rstrip("\n") + "\n")
        sys.stderr.write(f"{document['detail']}\n")
        if document.get("next"):
            sys.stderr.write(f"next: {document['next']}\n")
    sys.stderr.flush()
    return _EXIT_CODES.get(str(document.get("fault")), PLATFORM_FAILED)


def _document(error: PrataiError) -> dict[str, object]:
    told = getattr(error, "document", None)
    document: dict[str, object] = dict(told) if isinstance(told, dict) else {}
    document.setdefault("type", f"urn:pratai:problem:{error.code}")
    document.setdefault("title", type(error).__name__)
    document.setdefault("code", error.code)
    document.setdefault("field", error.field)
    document.setdefault("value", error.value)
    document.setdefault("allowed", error.allowed)
    document["fault"] = error.fault
    document["detail"] = error.detail
    document["next"] = error.next_step
    return document


def _stack(error: PrataiError) -> list[str]:
    stack = getattr(error, "stack", [])
    return list(stack) if isinstance(stack, list) else []


def _usage_document(error: click.ClickException) -> dict[str, object]:
    """Usage errors: what is wrong, and which help tells how it is right."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pratai"
    document: dict[str, object] = {
        "type": "urn:pratai:problem:usage",
        "title": "Usage error",
        "code": "usage",
        "fault": "caller",
        "detail": _sentence(error.format_message()),
        "next": f"See `{path} --help`.",
    }
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        document["detail"] = f"{path} needs a command."
    if isinstance(error, click.BadParameter) and error.param is not None:
        document["field"] = error.param.name
    return document


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!", ")")) else f"{line}."
