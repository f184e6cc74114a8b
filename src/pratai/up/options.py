"""What `pratai up` was asked for. Read by the command line without loading the platform."""

from __future__ import annotations

import msgspec

from pratai.config.schema import Config


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one run of the whole platform."""

    config: Config
    #: Where everything durable lives.
    data_dir: str
    #: Written (JSON: url, pid, key) once calls are served; "" or None for none.
    ready_file: str | None = None
    no_auth: bool = False
    #: Where the CLI finds server and key; "" leaves it alone.
    credentials_path: str = ""
    #: Whether to print where to go next.
    quiet: bool = False
