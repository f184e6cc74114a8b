"""What full-text search means, the same in every store. Pure; knows no store.

A search is split into words at white space; every word must occur in what is searched, and the
beginning of a word counts. A word with punctuation inside (`A-1234`, `joe@example.com`) means its
parts next to each other. Capitals and accents make no difference.
"""

from __future__ import annotations

import json
import re
import unicodedata

#: Bytes of one event, result or log text that are searchable; what follows is kept, not indexed.
INDEXED_BYTES_MAX = 65_536
#: Words of one search; further ones are ignored.
WORDS_MAX = 16

_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_TOKEN = re.compile(r"[^\W_]+")
_BETWEEN_WORDS = re.compile(r'[\s"\x00]+')


def words(search: str) -> list[str] | None:
    """The words to look for; None when `search` is blank, empty when it has no letter or digit.

    Quotes separate words, so that no word can end the quoted term that a store makes of it.
    """
    if not search.strip():
        return None
    clean = search.encode("utf-8", "replace").decode("utf-8")
    parts = _BETWEEN_WORDS.split(clean)
    return [part for part in parts if _TOKEN.search(part)][:WORDS_MAX]


def plain(payload: bytes) -> str:
    """The searchable text of a payload: its beginning, escapes of JSON made readable."""
    text = payload[:INDEXED_BYTES_MAX].decode("utf-8", "replace")
    return _ESCAPES.sub(_unescaped, text) if "\\u" in text else text


def tokens(text: str) -> list[str]:
    """Text as a list of comparable words: letters and digits only, no capitals, no accents."""
    if not text.isascii():
        parts = unicodedata.normalize("NFD", text)
        text = "".join(part for part in parts if unicodedata.category(part) != "Mn")
    return _TOKEN.findall(text.lower())


def occurs(word: str, haystack: list[str]) -> bool:
    """Whether `word` (its parts side by side, the last one a beginning) is among tokens."""
    parts = tokens(word)
    if not parts:
        return False
    whole, beginning = parts[:-1], parts[-1]
    return any(
        haystack[at : at + len(whole)] == whole and haystack[at + len(whole)].startswith(beginning)
        for at in range(len(haystack) - len(whole))
    )


def _unescaped(match: re.Match[str]) -> str:
    value: str = json.loads(f'"{match.group()}"')
    return value.encode("utf-8", "replace").decode("utf-8")
