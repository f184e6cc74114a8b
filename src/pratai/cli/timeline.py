"""A timeline drawn as text: one line a step, a bar where its time lies. No I/O here."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import msgspec

from pratai.cli.output import ms
from pratai.model.api import MarkView, StepView

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_MAX = 40
_BAR_MIN = 10
_TEXT_MIN = 16


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time to draw."""

    name: str
    offset_ms: float
    duration_ms: float | None
    text: str = ""


def steps_of_marks(marks: Sequence[MarkView], duration_ms: float) -> list[Step]:
    """Each mark lasts until the next one; the last is a moment unless time is left."""
    steps = []
    for index, mark in enumerate(marks):
        last = index + 1 == len(marks)
        end = max(duration_ms, mark.offset_ms) if last else marks[index + 1].offset_ms
        length = end - mark.offset_ms
        attempt = f"attempt {mark.attempt}" if mark.attempt > 1 else ""
        text = " ".join(part for part in (attempt, mark.detail) if part)
        steps.append(
            Step(
                name=mark.name,
                offset_ms=mark.offset_ms,
                duration_ms=None if last and length == 0 else length,
                text=text,
            )
        )
    return steps


def steps_of_story(story: Sequence[StepView]) -> list[Step]:
    """The steps of an explanation."""
    return [
        Step(name=step.name, offset_ms=step.offset_ms, duration_ms=step.duration_ms, text=step.text)
        for step in story
    ]


def draw(steps: Sequence[Step], width: int) -> list[str]:
    """Lines `name  |   ███   |  at  for  text`; a text too long for `width` goes on below."""
    if not steps:
        return []
    names = max(len(step.name) for step in steps)
    bar = max(_BAR_MIN, min(_BAR_MAX, width // 4))
    total = max(step.offset_ms + (step.duration_ms or 0) for step in steps) or 1.0
    lines = []
    for step in steps:
        drawn = _bar(step, total, bar)
        length = ms(step.duration_ms) if step.duration_ms is not None else "-"
        head = f"{step.name:<{names}} │{drawn}│ +{ms(step.offset_ms):>10} {length:>11}"
        room = max(_TEXT_MIN, width - len(head) - 2)
        first, *rest = textwrap.wrap(step.text, room) or [""]
        lines.append(f"{head}  {first}".rstrip())
        lines.extend(" " * (len(head) + 2) + line for line in rest)
    return lines


def _bar(step: Step, total_ms: float, width: int) -> str:
    """A bar of eighths; a moment is one mark."""
    start = min(int(step.offset_ms / total_ms * width), width - 1)
    if not step.duration_ms:
        return " " * start + "·" + " " * (width - start - 1)
    eighths = max(1, round(step.duration_ms / total_ms * width * 8))
    eighths = min(eighths, (width - start) * 8)
    body = _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return (" " * start + body).ljust(width)
