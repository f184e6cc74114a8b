"""`pratai dev`: deploy on every save and show what the function writes, in one terminal."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path

import click

from pratai import clock
from pratai.cli.command import Command
from pratai.cli.deploy import config_options, given
from pratai.cli.logs import LogPrinter, follow_logs
from pratai.cli.problems import document_of
from pratai.cli.project import default_name
from pratai.cli.saves import Saves
from pratai.cli.session import Session
from pratai.cli.upload import Deployed, Package, send
from pratai.errors import PrataiError
from pratai.model.api import LogView

#: Between attempts to follow the logs again, e.g. while the server restarts.
_LOGS_AGAIN_S = 1.0
#: By the server's clock; what was written between the deployment and the first look is seen.
_SINCE = "1s"


@click.command(
    cls=Command,
    example="pratai dev hello.py\npratai dev ./shop --name checkout --env STAGE=dev --up",
)
@click.argument("path", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option("--name", metavar="N", help="Name of the function. [of the file or folder]")
@click.option("--up", "with_platform", is_flag=True, help="Also run the platform, until the end.")
@config_options
@click.pass_obj
def dev(
    session: Session, /, path: Path, name: str | None, *, with_platform: bool, **config: object
) -> None:
    """Deploy PATH, again on every save, and show its logs live. Ctrl-C ends."""
    chosen = name if name is not None else default_name(path)
    with contextlib.ExitStack() as stack:
        if with_platform:
            from pratai.cli.own_platform import running_platform

            stack.enter_context(running_platform(session))
        else:
            session.client.request("GET", "/healthz")
        development = Development(session, path, chosen, given(config))
        with contextlib.suppress(KeyboardInterrupt):
            development.run()
        development.stop.set()


class Development:
    """The loop of `pratai dev`."""

    def __init__(self, session: Session, path: Path, name: str, config: dict[str, object]) -> None:
        self.stop = threading.Event()
        self._session = session
        self._output = session.output
        self._path = path
        self._name = name
        self._config = config
        #: Digest of what the server accepted last.
        self._accepted = ""
        self._follower: threading.Thread | None = None
        #: One writer at a time: the loop and the follower share the terminal.
        self._writing = threading.Lock()

    def run(self) -> None:
        """Deploy, then again on every save, until `stop` is set."""
        saves = Saves(self._path)
        self._deploy()
        while saves.wait(self.stop):
            self._deploy()

    def _deploy(self) -> None:
        """Deploy what the path holds now, if it changed; what goes wrong is shown."""
        started_us = clock.monotonic_us()
        try:
            deployed = self._send()
        except PrataiError as error:
            self._show_problem(error)
            return
        if deployed is None:
            return
        took_ms = (clock.monotonic_us() - started_us) / 1000
        self._show_deployed(deployed, took_ms)
        if self._follower is None:
            self._follower = threading.Thread(target=self._follow, daemon=True)
            self._follower.start()

    def _send(self) -> Deployed | None:
        from pratai.packages.pack import pack

        data, content_type, _ = pack(str(self._path))
        digest = hashlib.sha256(data).hexdigest()
        if digest == self._accepted:
            return None
        filename = self._path.name if self._path.is_file() else "package.zip"
        package = Package(data=data, content_type=content_type, filename=filename)
        deployed = send(
            self._session.client,
            self._name,
            package,
            self._config,
            on_bytes=_unseen,
            on_line=self._show_line,
        )
        self._accepted = digest
        return deployed

    def _follow(self) -> None:
        """In a thread: logs as they come, over restarts of the server."""
        client = self._session.new_client()
        printer = LogPrinter(self._output)
        since = _SINCE
        while not self.stop.is_set():
            try:
                for record in follow_logs(client, self._name, {"since": since}, stop=self.stop):
                    since = str(record.at_ms + 1)
                    self._show_log(printer, record)
            except PrataiError as error:
                self._show_problem(error)
            self.stop.wait(_LOGS_AGAIN_S)

    def _show_log(self, printer: LogPrinter, record: LogView) -> None:
        with self._writing:
            if self._output.as_json:
                self._output.write_line({"kind": "log", "log": record})
            else:
                printer(record)

    def _show_line(self, phase: str, line: str) -> None:
        with self._writing:
            if not self._output.as_json:
                self._output.say(f"{phase}: {line}" if phase else line, "dim")

    def _show_deployed(self, deployed: Deployed, took_ms: float) -> None:
        view = deployed.view
        with self._writing:
            if self._output.as_json:
                self._output.write_line(
                    {
                        "kind": "deployed",
                        "name": view.name,
                        "version": view.version,
                        "digest": view.digest,
                        "url": view.url,
                        "took_ms": round(took_ms, 1),
                    }
                )
                return
            title = f"{view.name} version {view.version} served after {took_ms:.0f} ms"
            self._output.stdout.rule(title, style="green", align="left")
            if self._follower is None:
                self._output.say(f"{view.url}   invoke: pratai invoke {view.name}", "dim")

    def _show_problem(self, error: PrataiError) -> None:
        document = document_of(error)
        with self._writing:
            if self._output.as_json:
                self._output.write_line({"kind": "problem", "problem": document})
                return
            self._output.stdout.rule("not deployed", style="red", align="left")
            stack = document.get("stack")
            for line in stack if isinstance(stack, list) else []:
                self._output.say(str(line))
            self._output.say(error.detail, "red")
            if error.next_step:
                self._output.say(f"next: {error.next_step}")


def _unseen(_done: int, _total: int) -> None:
    """A save is small; no bar for it."""
