"""The cluster key and the token of the internal routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pratai.config.cluster_key import internal_token, parse_cluster_key, read_cluster_key
from pratai.errors import ConfigError

KEY = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"


def test_a_key_is_one_line_of_z85() -> None:
    assert parse_cluster_key(f"{KEY}\n") == KEY.encode()


@pytest.mark.parametrize("text", ["", KEY[:-1], KEY + "a", KEY[:-1] + "~", f"{KEY}\n{KEY}"])
def test_what_is_no_key_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_cluster_key(text)

    assert KEY[:10] not in refused.value.detail
    assert refused.value.field == "queue.key_file"


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "cluster.key").write_text(f"{KEY}\n")

    assert read_cluster_key(str(tmp_path / "cluster.key")) == KEY.encode()
    assert read_cluster_key("") == b""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cluster_key(str(tmp_path / "missing.key"))


def test_the_token_is_the_same_on_every_machine_and_not_the_key() -> None:
    token = internal_token(KEY.encode())

    assert token == internal_token(KEY.encode())
    assert len(token) == 64
    assert token != internal_token(KEY[::-1].encode())
    assert internal_token(b"") == ""
