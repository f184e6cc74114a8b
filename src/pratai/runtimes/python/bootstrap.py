"""First program of the Python runtime: `python -I -S bootstrap.py CONTROL_FD`, or in a container
`... bootstrap.py SOCKET PATIENCE_S`, with the socket where its node listens.

Becomes the base zygote, from which every other process of this runtime is forked. Must not do
anything else: what is loaded here is in the memory of every instance.
"""

from __future__ import annotations

import importlib.util
import os
import sys

#: Private name of the runtime's package in `sys.modules`.
PACKAGE = "_pratai_runtime"


def load_package() -> None:
    """Make this folder importable as `PACKAGE` without putting it on `sys.path`."""
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"the runtime's folder {folder} cannot be loaded")
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    load_package()
    if sys.argv[1].isdigit():
        zygote = importlib.import_module(f"{PACKAGE}.zygote")
        zygote.run_base(int(sys.argv[1]))
    else:
        container = importlib.import_module(f"{PACKAGE}.container")
        container.run_contained(sys.argv[1], float(sys.argv[2]))
