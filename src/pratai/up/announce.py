"""What `pratai up` says when it serves: the ready file, the CLI's credentials, what to try."""

from __future__ import annotations

import os

import msgspec

from pratai.config.client import Credentials, write_credentials
from pratai.up.options import UpOptions


def announce(options: UpOptions, *, url: str, key: str) -> None:
    """Tell programs and people that calls are served."""
    if options.credentials_path:
        write_credentials(options.credentials_path, Credentials(server=url, key=key))
    if options.ready_file:
        ready = msgspec.json.encode({"url": url, "pid": os.getpid(), "key": key})
        temporary = f"{options.ready_file}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(ready)
        os.replace(temporary, options.ready_file)
    if not options.quiet:
        _tell(options, url=url, key=key)


def _tell(options: UpOptions, *, url: str, key: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    where = options.credentials_path or os.path.join(options.data_dir, "admin-key")
    console.print(f"[bold]Pratai[/bold] serves at [cyan]{url}[/cyan]")
    if key:
        console.print(f"key in {where} (the pratai command finds it by itself)")
    else:
        console.print("[yellow]no key is needed: anybody who reaches this port may call[/yellow]")
    console.print(f"data in {options.data_dir}")
    console.print("\ntry, in another terminal:")
    console.print(
        "  echo 'def main(payload): return {\"hello\": payload}' > hello.py && "
        "pratai deploy hello.py"
    )
    console.print("  pratai invoke hello '\"world\"' --tail")
    console.print("  pratai invocations")
    console.print("\nCtrl-C lets running calls finish, then stops.")
