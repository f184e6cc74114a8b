"""Where outcomes may be sent, and what is told of the rest."""

from __future__ import annotations

import re

import pytest

from pratai.errors import InvalidField
from pratai.model.destination import PATTERN, URL_CHARS_MAX, check_destination, is_url
from pratai.model.validation import parse_config


@pytest.mark.parametrize(
    ("destination", "url"),
    [
        ("", False),
        ("function:next", False),
        ("https://example.com", True),
        ("http://127.0.0.1:8080/a/b?c=d&e=%20", True),
        ("https://[::1]:443/", True),
        ("HTTPS://EXAMPLE.COM/x", True),
        ("https://" + "a" * (URL_CHARS_MAX - 8), True),
    ],
)
def test_functions_and_urls_are_destinations(destination: str, url: bool) -> None:
    assert check_destination("on_success", destination) == destination
    assert is_url(destination) is url
    assert parse_config({"on_failure": destination}).on_failure == destination


@pytest.mark.parametrize(
    "destination",
    [
        "function:",
        "function:a b",
        "function:a\n",
        "sqs:queue",
        "next",
        "ftp://example.com",
        "file:///etc/passwd",
        "//example.com",
        "https:/example.com",
        "https://",
        "https:///path",
        "https://:443/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:port/",
        "https://[::1/",
        "https://example.com/a b",
        "https://exämple.com",
        "https://example.com/\n",
        "https://example.com/#part",
        "https://example.com/#",
        "https://user:secret@example.com",
        "https://user@example.com",
        "https://" + "a" * (URL_CHARS_MAX - 7),
    ],
)
def test_what_is_none_is_refused_by_field_and_gives_no_password_away(destination: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_destination("on_success", destination)

    error = caught.value
    assert error.field == "on_success"
    assert error.next_step
    assert "secret" not in f"{error.detail} {error.value} {error.next_step}"


def test_the_documents_pattern_takes_what_is_taken() -> None:
    for destination in ("", "function:next", "https://example.com/a?b=c", "http://[::1]:80/"):
        assert re.search(PATTERN, destination)
    for destination in ("next", "function:", "ftp://x", "https://", "https://a b"):
        assert not re.search(PATTERN, destination)
