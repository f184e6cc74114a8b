"""Command lines, configuration and data dirs that are wrong: `pratai up` says so in a sentence with
a next step and exits with 2, and leaves what is there alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from platform_process import PRATAI, PlatformProcess


def up(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PRATAI, "up", "--port", "0", "--data-dir", str(directory / "data"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "XDG_CONFIG_HOME": str(directory / "config"), **environment},
    )


def check_refused(
    told: subprocess.CompletedProcess[str], *words: str, code: int = 2, next_step: bool = True
) -> None:
    assert told.returncode == code, told
    assert told.stdout == ""
    assert "Traceback" not in told.stderr
    assert len(told.stderr) < 1_500, told.stderr
    for word in words:
        assert word in told.stderr, told.stderr
    if next_step:
        assert "next:" in told.stderr, told.stderr


#: {name: (arguments, words that must be said)}
ARGUMENTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "section unknown": (["--set", "nonsense.key=1"], ("nonsense",)),
    "section nearly right": (["--set", "gatway.port=1"], ("gateway",)),
    "key nearly right": (["--set", "scheduler.backlogmax=1"], ("backlog_max",)),
    "value of words": (["--set", "node.slots=many"], ("node", "slots", "many")),
    "value out of range": (["--set", "scheduler.queue_max=0"], ("queue_max", "1")),
    "value not allowed": (["--set", "store.name=sqlit"], ("sqlite",)),
    "set without a value": (["--set", "node.slots"], ("node.slots",)),
    "set of nothing": (["--set", "="], ()),
    "port of words": (["--port", "http"], ("http",)),
    "port too large": (["--port", "65536"], ("65536",)),
    "port below zero": (["--port", "-1"], ()),
    "option nearly right": (["--data-dri", "/x"], ("--data-dir",)),
    "argument too many": (["extra"], ("extra",)),
    "config that is not there": (["--config", "/nowhere/pratai.conf"], ("/nowhere/pratai.conf",)),
    "host that is not one": (["--host", "not a host"], ("not a host",)),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_wrong_argument_is_refused(tmp_path: Path, name: str) -> None:
    arguments, words = ARGUMENTS[name]
    check_refused(up(tmp_path, *arguments), *words)
    assert not (tmp_path / "data" / "pratai.db").exists()


#: {name: (content of the file, words that must be said)}
FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "no section": (b"port = 1\n", ("pratai.conf", "1")),
    "no value": (b"[gateway]\nport\n", ("pratai.conf", "2")),
    "section open": (b"[gateway\nport = 1\n", ("pratai.conf",)),
    "section unknown": (b"[gatewya]\nport = 1\n", ("gateway",)),
    "key nearly right": (b"[gateway]\nprot = 1\n", ("port", "pratai.conf")),
    "key twice": (b"[gateway]\nport = 1\nport = 2\n", ("port", "pratai.conf")),
    "value of words": (b"[gateway]\nport = http\n", ("port", "http", "pratai.conf")),
    "not text": (bytes(range(256)), ("pratai.conf",)),
    "json": (b'{"gateway": {"port": 1}}', ("pratai.conf",)),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_refused(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    file = tmp_path / "pratai.conf"
    file.write_bytes(content)
    check_refused(up(tmp_path, "--config", str(file)), *words)


def test_a_wrong_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    told = up(tmp_path, PRATAI_NODE_SLOTS="many")
    check_refused(told, "PRATAI_NODE_SLOTS", "many")


def test_a_data_dir_in_use_is_refused(embedded: PlatformProcess) -> None:
    embedded.start()
    told = up(embedded.directory)
    assert embedded.process is not None
    check_refused(told, "in use", str(embedded.process.pid))
    assert embedded.request("GET", "/readyz").status == 200


def test_a_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    check_refused(up(tmp_path), "data")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_data_dir_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    told = up(tmp_path, "--data-dir", "/proc/pratai")
    check_refused(told, "/proc/pratai")


def test_a_database_that_is_not_one_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    database = tmp_path / "data" / "pratai.db"
    database.write_bytes(b"this is no database" * 1_000)
    told = up(tmp_path)
    check_refused(told, "pratai.db", code=3)
    assert database.read_bytes() == b"this is no database" * 1_000


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = up(tmp_path, "--port", port)
    check_refused(told, port, code=3)
