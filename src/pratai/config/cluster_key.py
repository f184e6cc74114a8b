"""The cluster key: one secret that all processes of a cluster share, and what is made from it.

The file holds one line: a CURVE secret key in Z85, 40 characters, written by `pratai keys cluster`.
Its use on sockets is the transport's affair.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets

from pratai.errors import CallerError, ConfigError

KEY_CHARS = 40

_Z85 = re.compile(rf"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{{}}@%$#]{{{KEY_CHARS}}}")
_Z85_CHARS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
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


def write_cluster_key(path: str) -> None:
    """Make a new key and write it to a file that its owner alone can read.

    Raises:
        CallerError: the file is there already, or cannot be written.

    """
    secret = encode_z85(secrets.token_bytes(32))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CallerError(
            f"The cluster key cannot be written to {path}: {error.strerror}.",
            next_step="Name a file that is not there yet, in a folder that can be written.",
            field="--file",
            value=path,
        ) from None
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{secret}\n")


def encode_z85(data: bytes) -> str:
    """Bytes, a multiple of 4, as Z85 (ZeroMQ RFC 32): five characters for each four bytes."""
    text = []
    for start in range(0, len(data), 4):
        number = int.from_bytes(data[start : start + 4], "big")
        text += [_Z85_CHARS[number // 85**power % 85] for power in (4, 3, 2, 1, 0)]
    return "".join(text)


def internal_token(secret: bytes) -> str:
    """What nodes show to gateways over HTTP; "" without a key. Tells nothing of the key."""
    if not secret:
        return ""
    return hmac.new(secret, _INTERNAL_LABEL, hashlib.sha256).hexdigest()
