"""The cluster key: one secret that all processes of a cluster share, and what is made from it.

The file holds one line: a CURVE secret key in Z85, 40 characters, written by `pratai keys cluster`.
Its use on sockets is the transport's affair.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from pratai.errors import ConfigError

KEY_CHARS = 40

_Z85 = re.compile(rf"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{{}}@%$#]{{{KEY_CHARS}}}")
_INTERNAL_LABEL = b"pratai internal http v1"


def parse_cluster_key(text: str) -> bytes:
    """The key that a file's text holds.

    Raises:
        ConfigError: it is no such key. The text itself is not told.

    """
    key = text.strip()
    if not _Z85.fullmatch(key):
        raise ConfigError(
            f"The cluster key is not {KEY_CHARS} characters of Z85.",
            next_step="Make one with `pratai keys cluster` and copy its file to every machine.",
            field="queue.key_file",
        )
    return key.encode("ascii")


def read_cluster_key(path: str) -> bytes:
    """The key in a file; b"" for no path.

    Raises:
        ConfigError: the file cannot be read, or holds no key.

    """
    if not path:
        return b""
    try:
        with open(path, encoding="ascii") as file:
            return parse_cluster_key(file.read(1_024))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The cluster key cannot be read: {error}.",
            next_step="Let [queue] key_file name a file that `pratai keys cluster` wrote.",
            field="queue.key_file",
            value=path,
        ) from error


def internal_token(secret: bytes) -> str:
    """What nodes show to gateways over HTTP; "" without a key. Tells nothing of the key."""
    if not secret:
        return ""
    return hmac.new(secret, _INTERNAL_LABEL, hashlib.sha256).hexdigest()
