"""What one run of the command line knows: global options, the client, where output goes.

Made empty by the root command and filled by global options wherever they stand; the client and
the consoles are made on first use.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pratai.cli.client import Client
    from pratai.cli.output import Output


class Session:
    """Global options as given, and what is made from them."""

    def __init__(self) -> None:
        self.server: str | None = None
        self.key: str | None = None
        self.namespace: str | None = None
        #: Whether `--json` was given.
        self.json: bool = False
        self._client: Client | None = None
        self._output: Output | None = None

    @property
    def client(self) -> Client:
        """The one client of this run: its connection is kept alive between requests."""
        if self._client is None:
            self._client = self.new_client()
        return self._client

    def new_client(self, *, patience_s: float | None = None) -> Client:
        """A client with a connection of its own, e.g. for a thread or a short question."""
        from pratai.cli.client import Client, normalized
        from pratai.config.client import client_settings

        environment = dict(os.environ)
        if self.server:
            # Named like this, so that the key of the credentials file goes to its server alone.
            environment["PRATAI_SERVER"] = normalized(self.server)
        known = client_settings(environment)
        return Client(
            server=known.server,
            key=self.key if self.key is not None else known.key,
            namespace=self.namespace or known.namespace,
            patience_s=patience_s,
        )

    @property
    def output(self) -> Output:
        """Where results and remarks are written."""
        if self._output is None:
            from pratai.cli.output import Output

            self._output = Output(as_json=self.json or not sys.stdout.isatty())
        return self._output
