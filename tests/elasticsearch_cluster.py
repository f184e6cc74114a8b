"""A real Elasticsearch for tests, one JVM a node; what `scripts/elasticsearch` installs and starts.

`PRATAI_TEST_ELASTICSEARCH` names one that runs already. Where there is none and none can be
installed, tests are skipped; in CI that is a failure.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
URLS_VARIABLE = "PRATAI_TEST_ELASTICSEARCH"
START_S_MAX = 240


class ElasticsearchCluster:
    """Nodes 1..N over `base_dir`, numbered from 1; nothing runs before `start`."""

    def __init__(self, base_dir: Path, nodes: int = 1, *, settings: Any = None) -> None:
        self._base_dir = base_dir
        self._cluster = _scripts().Cluster(base_dir, nodes, home=Path(_home()), settings=settings)

    @property
    def urls(self) -> list[str]:
        return list(self._cluster.urls)

    def start(self) -> ElasticsearchCluster:
        """All nodes, until the cluster is green."""
        self._cluster.start(START_S_MAX)
        return self

    def stop(self) -> None:
        self._cluster.stop()

    def kill(self, node: int) -> None:
        """SIGKILL."""
        self._cluster.kill(node)

    def start_node(self, node: int) -> None:
        self._cluster.start_node(node, START_S_MAX)

    def wait_green(self, nodes: int = 0) -> None:
        self._cluster.wait("green", nodes, START_S_MAX)


def cluster(nodes: int = 1) -> ElasticsearchCluster:
    """A started cluster in a folder of its own; `discard` it."""
    base_dir = Path(tempfile.mkdtemp(prefix="pratai-elasticsearch-"))
    base_dir.chmod(0o755)
    return ElasticsearchCluster(base_dir, nodes).start()


def discard(given: ElasticsearchCluster) -> None:
    """Stop a cluster and remove what it kept."""
    given.stop()
    shutil.rmtree(given._base_dir, ignore_errors=True)


def running_urls() -> str:
    """The server that somebody else started for tests; "" for none."""
    return os.environ.get(URLS_VARIABLE, "")


def ask(urls: str, method: str, path: str, body: Any = None) -> Any:
    """One request to the first node, past the store; the answer's JSON, also of a refusal."""
    request = urllib.request.Request(
        urls.split(",", maxsplit=1)[0] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def empty(urls: str, prefix: str) -> None:
    """Remove all documents, and keep the indices."""
    path = f"/{prefix}-*/_delete_by_query?refresh=true&conflicts=proceed"
    ask(urls, "POST", f"/{prefix}-*/_refresh")
    ask(urls, "POST", path, {"query": {"match_all": {}}})


def remove(urls: str, prefix: str) -> None:
    """Remove the indices and templates of a test."""
    names = list(ask(urls, "GET", f"/{prefix}-*/_alias"))
    if names:
        ask(urls, "DELETE", "/" + ",".join(names))
    ask(urls, "DELETE", f"/_index_template/{prefix}-*")


@functools.cache
def _home() -> str:
    command = [str(SCRIPTS / "elasticsearch"), "install"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    if done.returncode == 0:
        return done.stdout.splitlines()[-1]
    reason = f"no Elasticsearch here: {(done.stderr or done.stdout).strip()[-500:]}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def _scripts() -> Any:
    """The tooling, which is a script and no package."""
    spec = importlib.util.spec_from_file_location(
        "pratai_elasticsearch_tooling", SCRIPTS / "elasticsearch_cluster.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
