"""The first process of a container: the base zygote of whichever node asks there."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time

from .memory import MemoryWatch
from .zygote import Zygote, start_from_base

#: Time between looks for a node that listens.
_CONNECT_WAIT_S = 0.02
#: All that can be written in a container; private directories of instances are in it.
_TMP = "/tmp"


def run_contained(socket_path: str, patience_s: float) -> None:
    """Be the first process of a container: the base zygote of whichever node asks there.

    When the node is gone its instances are ended, their channels with it; this process waits for
    the next one to listen, then ends. Never returns.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(0))
    sys.dont_write_bytecode = True
    memory = MemoryWatch()
    gc.collect()
    gc.freeze()
    while (control := _connect(socket_path, patience_s)) is not None:
        control.send(json.dumps({"op": "ready"}).encode())
        Zygote(control, start=start_from_base, makes_tmp=True, memory=memory).serve()
        _clear(_TMP)
    os._exit(0)


def _clear(folder: str) -> None:
    """Nothing runs now: what is left belongs to functions that have ended."""
    import shutil

    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def _connect(socket_path: str, patience_s: float) -> socket.socket | None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            control.connect(socket_path)
        except OSError:
            control.close()
            time.sleep(_CONNECT_WAIT_S)
        else:
            return control
    return None
