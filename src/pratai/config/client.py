"""What a client of Pratai needs to know: the server, the key, where the data of this user lies.

The environment is given, never read here; `os.environ` is passed by the command line.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping

import msgspec

from pratai.errors import ConfigError

DEFAULT_SERVER = "http://127.0.0.1:9996"
SERVICE_DATA_DIR = "/var/lib/pratai"


class Credentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the credentials file holds, as JSON."""

    server: str = ""
    key: str = ""
    namespace: str = ""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where calls go and as whom. `origins`: where each of the three came from."""

    server: str
    #: "" when there is none.
    key: str
    #: "" = the key's own.
    namespace: str
    credentials_file: str
    origins: dict[str, str]


def client_settings(environment: Mapping[str, str]) -> ClientSettings:
    """`PRATAI_SERVER`, `PRATAI_KEY` and `PRATAI_NAMESPACE`, else the credentials file.

    A key of the file goes with the file's server only: naming another server by the environment
    does not send it this key.

    Raises:
        ConfigError: the credentials file cannot be read.

    """
    path = credentials_file(environment)
    saved = read_credentials(path) or Credentials()
    origins: dict[str, str] = {}
    values: dict[str, str] = {}
    elsewhere = _is_elsewhere(environment.get("PRATAI_SERVER", ""), saved.server)
    fallback = {"server": DEFAULT_SERVER, "key": "", "namespace": ""}
    for name, default in fallback.items():
        variable = f"PRATAI_{name.upper()}"
        given = environment.get(variable, "")
        kept = "" if elsewhere else getattr(saved, name)
        values[name] = given or kept or default
        origin = path if kept else "default"
        origins[name] = f"environment {variable}" if given else origin
    return ClientSettings(**values, credentials_file=path, origins=origins)


def credentials_file(environment: Mapping[str, str]) -> str:
    """`$XDG_CONFIG_HOME/pratai/credentials`."""
    return os.path.join(_xdg(environment, "XDG_CONFIG_HOME", ".config"), "pratai", "credentials")


def read_credentials(path: str) -> Credentials | None:
    """The credentials of a file; None when there is no such file."""
    try:
        with open(path, "rb") as file:
            raw = file.read(64 * 1024)
        return msgspec.json.decode(raw, type=Credentials)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"The credentials file {path} cannot be read: {why}.",
            next_step=f"Remove {path}; `pratai up` writes it anew.",
            field="credentials",
            value=path,
        ) from error


def write_credentials(path: str, credentials: Credentials) -> None:
    """Replace the file in one step, readable by its owner alone."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, made = tempfile.mkstemp(prefix=".credentials-", dir=folder)
    try:
        with open(handle, "wb") as file:
            os.fchmod(handle, 0o600)
            file.write(msgspec.json.format(msgspec.json.encode(credentials), indent=2) + b"\n")
        os.rename(made, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        raise


def default_data_dir(environment: Mapping[str, str], *, is_root: bool = False) -> str:
    """`$XDG_STATE_HOME/pratai`; for a service of the machine `/var/lib/pratai`.

    systemd tells a service that it is one by `STATE_DIRECTORY` or `INVOCATION_ID`.
    """
    named = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if named:
        return named
    as_service = is_root and bool(environment.get("INVOCATION_ID"))
    if as_service and not environment.get("XDG_STATE_HOME"):
        return SERVICE_DATA_DIR
    return os.path.join(_xdg(environment, "XDG_STATE_HOME", ".local/state"), "pratai")


def _is_elsewhere(server: str, saved: str) -> bool:
    return bool(server) and server.rstrip("/") != saved.rstrip("/")


def _xdg(environment: Mapping[str, str], name: str, fallback: str) -> str:
    """A base directory; relative ones count as unset, as the specification has it."""
    path = environment.get(name, "")
    if os.path.isabs(path):
        return path
    home = environment.get("HOME") or os.path.expanduser("~")
    return os.path.join(home, fallback)
