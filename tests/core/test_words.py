"""What full-text search means (`store/words.py`)."""

from __future__ import annotations

import pytest

from pratai.store import words


@pytest.mark.parametrize("search", ["", "  ", "\n\t"])
def test_a_blank_search_looks_for_nothing(search: str) -> None:
    assert words.words(search) is None


@pytest.mark.parametrize("search", ['"', "*", '"" *', "-- %", "\x00", "___"])
def test_a_search_without_letters_or_digits_has_no_words(search: str) -> None:
    assert words.words(search) == []


@pytest.mark.parametrize("search", ['a"b c', 'a "b" c', 'a\x00b"" "c"', "a b\nc"])
def test_words_are_split_at_space_and_quotes(search: str) -> None:
    assert words.words(search) == ["a", "b", "c"]


def test_words_are_bounded_and_always_storable_text() -> None:
    found = words.words("a\ud800 " * 100)
    assert found is not None
    assert len(found) == words.WORDS_MAX
    assert found[0].encode() == b"a?"


def test_the_text_of_a_payload_is_its_beginning_with_escapes_made_readable() -> None:
    assert words.plain(b'"caf\\u00e9 \\ud83d\\ude00"') == '"café 😀"'
    assert words.plain(b"\\ud800 \\uzzzz \xff") == "? \\uzzzz �"
    assert len(words.plain(b"x" * 100_000)) == words.INDEXED_BYTES_MAX


def test_tokens_have_no_capitals_accents_or_punctuation() -> None:
    assert words.tokens("São-Paulo, ÉTÉ_x 7!") == ["sao", "paulo", "ete", "x", "7"]


@pytest.mark.parametrize("word", ["joe@example", "EXAM", "7", "com"])
def test_a_word_occurs_as_parts_side_by_side_with_the_last_one_begun(word: str) -> None:
    assert words.occurs(word, words.tokens("to: joe@example.com, 7"))


@pytest.mark.parametrize("word", ["example@joe", "ample", "joe@exam@com", "com 7 8", "!"])
def test_a_word_that_is_not_there_does_not_occur(word: str) -> None:
    assert not words.occurs(word, words.tokens("to: joe@example.com, 7"))
