"""The schema as a table: each setting with its type, bounds, default and words about it.

Loading, checking and the reference page all read this table; the schema itself is `schema.py`.
"""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Annotated, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from pratai.config.schema import Config

Value = bool | int | float | str | None

TRUE_WORDS = ("yes", "true", "on", "1")
FALSE_WORDS = ("no", "false", "off", "0")
NONE_WORDS = ("", "none")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one section."""

    section: str
    key: str
    kind: Literal["whole", "number", "flag", "text", "choice"]
    default: Value
    description: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False

    @property
    def name(self) -> str:
        """`section.key`."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"PRATAI_{self.section}_{self.key}".upper()

    @property
    def allowed(self) -> str:
        """What its value may be, in words."""
        words = {
            "flag": "yes | no",
            "text": "text",
            "choice": " | ".join(self.choices),
            "whole": "a whole number" + self._bounds(),
            "number": "a number" + self._bounds(),
        }[self.kind]
        return f"{words}, or none" if self.optional else words

    def parse(self, text: str) -> Value:
        """The value that a text means.

        Raises:
            ValueError: it is not allowed.

        """
        text = text.strip()
        if self.optional and text.lower() in NONE_WORDS:
            return None
        if self.kind == "flag":
            return self._flag(text)
        if self.kind == "text":
            return text
        if self.kind == "choice":
            if text not in self.choices:
                raise ValueError(text)
            return text
        if not text.isascii():
            raise ValueError(text)
        value = int(text) if self.kind == "whole" else float(text)
        low = self.least is not None and not value >= self.least
        high = self.most is not None and not value <= self.most
        if low or high or value != value:  # noqa: PLR0124 - not a number is unlike itself
            raise ValueError(text)
        return value

    def _flag(self, text: str) -> bool:
        word = text.lower()
        if word not in TRUE_WORDS + FALSE_WORDS:
            raise ValueError(text)
        return word in TRUE_WORDS

    def _bounds(self) -> str:
        if self.least is not None and self.most is not None:
            return f", {self.least}..{self.most}"
        if self.least is not None:
            return f", at least {self.least}"
        return f", at most {self.most}" if self.most is not None else ""


@cache
def settings() -> dict[str, Setting]:
    """{`section.key`: setting}, in the order of the schema."""
    table: dict[str, Setting] = {}
    for section, kind in section_types().items():
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            setting = _setting(section, field.name, hints[field.name], field.default)
            table[setting.name] = setting
    return table


@cache
def section_types() -> dict[str, type[msgspec.Struct]]:
    """{section: its Struct}, in the order of the schema."""
    return typing.get_type_hints(Config)


def _setting(section: str, key: str, annotation: object, default: object) -> Setting:
    """One entry of the table; a type that no file can hold is a mistake in the schema."""
    metas = [item for item in get_args(annotation)[1:] if isinstance(item, Meta)]
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    optional = get_origin(kind) in (types.UnionType, typing.Union)
    if optional:
        (kind,) = [part for part in get_args(kind) if part is not types.NoneType]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    names = {bool: "flag", int: "whole", float: "number", str: "text"}
    name = "choice" if choices else names.get(typing.cast("type", kind))
    if name is None or not isinstance(default, Value):
        raise TypeError(f"[{section}] {key} has a type that no file can hold: {annotation}")
    meta = metas[0] if metas else Meta()
    return Setting(
        section=section,
        key=key,
        kind=typing.cast('Literal["whole", "number", "flag", "text", "choice"]', name),
        default=default,
        description=meta.description or "",
        least=meta.ge,
        most=meta.le,
        choices=tuple(str(choice) for choice in choices),
        optional=optional,
    )
