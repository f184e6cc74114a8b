"""Starting the base zygote of the Python runtime as a process of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from pratai.errors import PlatformError


def base_executable() -> str:
    """The interpreter itself: a virtual environment's would show functions what is in it."""
    return getattr(sys, "_base_executable", "") or sys.executable


def spawn_base(
    executable: str, bootstrap: str, control: socket.socket, mark: str
) -> subprocess.Popen[bytes]:
    """Start the base zygote of the Python runtime with an environment that says nothing of ours."""
    try:
        return subprocess.Popen(
            [executable, "-I", "-S", bootstrap, str(control.fileno())],
            pass_fds=[control.fileno()],
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "PRATAI_MARK": mark},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise PlatformError(
            f"the Python runtime could not be started: {error}",
            next_step=f"Check that {executable} can be run.",
        ) from error
