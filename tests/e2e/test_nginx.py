"""`deploy/nginx/` in a real nginx: spread, kept connections, streams, lost and restarted gateways.

The gateways are `upstream.py`, which tells what reached it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import urllib3
from callers import Callers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
START_S_MAX = 20.0
CALLERS = 8


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"local_cluster_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


nginx = _loaded(ROOT / "scripts" / "local_cluster" / "nginx.py")


@pytest.fixture(scope="module", autouse=True)
def _nginx_is_here() -> None:
    if shutil.which("nginx") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("nginx is not installed")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Gateway:
    """One `upstream.py`."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.journal = directory / f"gateway-{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Gateway:
        command = [sys.executable, str(HERE / "upstream.py"), str(self.port), str(self.journal)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        limit = time.monotonic() + START_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.02)
            else:
                return self

    def end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(START_S_MAX)

    def noted(self, word: str) -> set[str]:
        """The ids of requests that were seen, or done."""
        lines = self.journal.read_text().splitlines()
        return {line.split()[1] for line in lines if line.startswith(f"{word} ") and line[5:]}


class Site:
    """nginx over three gateways."""

    def __init__(self, directory: Path, tls: Any = None, **changes: str) -> None:
        self.gateways = [Gateway(directory).start() for _ in range(3)]
        self.nginx = nginx.Nginx(
            directory / "nginx",
            port=free_port(),
            gateways=[f"127.0.0.1:{gateway.port}" for gateway in self.gateways],
            tls=tls,
        )
        self.nginx.write(**changes)
        self.nginx.start()
        self.pool = urllib3.PoolManager(maxsize=64, retries=False, timeout=30.0)

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        return self.pool.request(method, f"{self.nginx.url}{path}", **options)

    def said(self, method: str, path: str, **options: Any) -> Any:
        answer = self.request(method, path, **options)
        assert answer.status == 200, answer.data
        return answer.json()

    def call(self, method: str, name: str) -> int:
        """A call that takes 10 ms, and can be found in the journals."""
        headers = {"x-test-id": name, "x-test-hold-s": "0.01"}
        body = b"{}" if method == "POST" else None
        path = "/v1/functions/f/invocations"
        return self.request(method, path, headers=headers, body=body).status

    def close(self) -> None:
        self.pool.clear()
        self.nginx.stop()
        for gateway in self.gateways:
            if gateway.process is not None and gateway.process.poll() is None:
                gateway.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An nginx, and gateways that nobody kills."""
    running = Site(tmp_path_factory.mktemp("site"))
    yield running
    running.close()


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """An nginx, and gateways of a test's own."""
    made: list[Site] = []

    def make(**options: Any) -> Site:
        made.append(Site(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# balance


def test_calls_are_spread_evenly_over_three_gateways(site: Site) -> None:
    """least_conn: with 30 calls in flight each gateway has ten."""
    at: Counter[int] = Counter()
    lock = threading.Lock()

    def call() -> None:
        gateway = site.said("POST", "/v1/functions/f/invocations", headers={"x-test-hold-s": "1"})
        with lock:
            at[gateway["gateway"]] += 1

    threads = [threading.Thread(target=call) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(at) == 3
    assert sum(at.values()) == 30
    assert max(at.values()) <= 12, at


def test_connections_to_gateways_are_kept(site: Site) -> None:
    connections = {
        (said["gateway"], said["connection"])
        for said in (site.said("GET", "/v1/functions") for _ in range(60))
    }

    # At most one for each of two workers and three gateways, if calls come one after another.
    assert len(connections) <= 6


# what reaches a gateway


def test_a_gateway_is_told_who_asked_for_what_and_in_which_trace(site: Site) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {
        "host": "functions.example.org:8443",
        "traceparent": trace,
        "x-request-id": "mine-1",
        "x-forwarded-for": "203.0.113.9",
    }

    headers = site.said("GET", "/v1/functions", headers=sent)["headers"]

    assert headers["host"] == "functions.example.org:8443"
    assert headers["traceparent"] == trace
    assert headers["x-request-id"] == "mine-1"
    assert headers["x-forwarded-for"] == "127.0.0.1", "what a client says of itself is dropped"
    assert headers["x-real-ip"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"


def test_a_request_without_a_trace_gets_one_and_an_id(site: Site) -> None:
    headers = site.said("GET", "/v1/functions", headers={"x-request-id": "no good;"})["headers"]

    version, trace, span, flags = headers["traceparent"].split("-")
    assert (version, flags, len(trace), len(span)) == ("00", "00", 32, 16)
    assert headers["x-request-id"] == trace


def test_a_path_reaches_the_gateway_as_it_was_written(site: Site) -> None:
    path = "/fn/f//a%2Fb/?q=%20x"

    assert site.said("GET", path)["path"] == path.partition("?")[0]


# streams and bodies


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/functions/f/invocations", "text/plain"),
        ("/v1/functions/f/logs?follow=true", "text/event-stream"),
    ],
)
def test_a_stream_is_passed_on_as_it_comes(site: Site, path: str, kind: str) -> None:
    """The second part is written only after the first was read through nginx."""
    answer = site.request("GET", path, headers={"x-test-stream": kind}, preload_content=False)
    parts = answer.stream(1024)

    assert next(parts) == b"data: first\n\n"
    for gateway in site.gateways:
        site.pool.request("POST", f"http://127.0.0.1:{gateway.port}/upstream/release")
    assert b"".join(parts) == b"data: second\n\n"


def test_a_package_reaches_the_gateway_while_it_is_uploaded(site: Site) -> None:
    size = 20_000_000
    with socket.create_connection(("127.0.0.1", site.nginx.port)) as client:
        client.sendall(
            b"PUT /v1/functions/f HTTP/1.1\r\nhost: x\r\nx-test-id: upload\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % size
        )
        client.sendall(b"x" * (size // 2))
        limit = time.monotonic() + 20
        while not any(
            json.loads(site.pool.request("GET", f"http://127.0.0.1:{gateway.port}/").data)[
                "received"
            ].get("upload")
            for gateway in site.gateways
        ):
            assert time.monotonic() < limit, "nothing came before the upload was whole"
            time.sleep(0.02)
        client.sendall(b"x" * (size // 2))
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"body_bytes": 20000000' in answer
    kept = [path for path in (site.nginx.directory / "temporary").rglob("*") if path.is_file()]
    assert kept == []


def problem(answer: urllib3.BaseHTTPResponse, status: int, code: str) -> Any:
    """The problem document of an answer of nginx's own."""
    assert answer.status == status, answer.data
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert {"type", "title", "detail", "fault", "next", "request_id"} <= set(told)
    assert (told["status"], told["code"]) == (status, code)
    return told


def test_an_event_that_no_gateway_would_take_is_refused_as_a_problem(site: Site) -> None:
    answer = site.request("POST", "/v1/functions/f/invocations", body=b"x" * 8_000_000)

    problem(answer, 413, "payload_too_large")


@pytest.mark.parametrize("path", ["/metrics", "/internal/packages/0", "//internal/packages/0"])
def test_what_is_not_for_callers_is_not_served(site: Site, path: str) -> None:
    answer = site.request("GET", path)

    if path.startswith("//"):
        assert answer.json()["path"] == path, "to a gateway this is another path"
    else:
        problem(answer, 404, "not_found")


# gateways that go


def test_a_killed_gateway_takes_only_the_calls_it_had(own_site: Callable[..., Site]) -> None:
    """1. callers send GETs and POSTs  2. kill -9 of one of three  3. all GETs are answered, and
    the POSTs that are not were with the killed gateway; none ran elsewhere too.
    """
    site = own_site()
    load = Callers(site.call, "GET", "POST", count=CALLERS)
    load.wait_for(200)
    killed = site.gateways[1]

    killed.end(signal.SIGKILL)
    load.wait_for(400)
    failed = load.stop()

    had = killed.noted("seen") - killed.noted("done")
    elsewhere = set().union(*(g.noted("seen") for g in site.gateways if g is not killed))
    assert {method for method, _ in failed.values()} <= {"POST"}, failed
    assert {status for _, status in failed.values()} <= {503}, failed
    assert len(failed) <= CALLERS // 2
    assert not set(failed) & elsewhere, "told to have failed, but ran"
    posts = {name for name, (method, _) in load.answers.items() if method == "POST"}
    assert not posts & had & elsewhere, "a call ran twice"


def test_a_rolling_restart_fails_no_call(own_site: Callable[..., Site]) -> None:
    """SIGTERM to one after another under load; each is started again before the next."""
    site = own_site()
    load = Callers(site.call, "POST", "GET", count=CALLERS)
    load.wait_for(100)

    for gateway in site.gateways:
        gateway.end(signal.SIGTERM)
        load.wait_for(50)
        gateway.start()
        load.wait_for(50)

    assert load.stop() == {}
    everything = [gateway.noted("done") for gateway in site.gateways]
    assert all(everything), "each took part"


def test_with_no_gateway_left_callers_are_told_to_come_back(own_site: Callable[..., Site]) -> None:
    site = own_site()
    for gateway in site.gateways:
        gateway.end(signal.SIGKILL)

    answer = site.request("POST", "/v1/functions/f/invocations", body=b"{}")

    problem(answer, 503, "gateway_unreachable")
    assert answer.headers["retry-after"] == "1"


# limits and TLS


def test_a_runaway_client_is_told_to_wait(own_site: Callable[..., Site]) -> None:
    site = own_site(
        **{"127.0.0.0/8  0": "127.0.0.0/8  1", "rate=1000r/s": "rate=1r/s", "burst=2000": "burst=5"}
    )

    answers = [site.request("GET", "/v1/functions") for _ in range(12)]

    assert [answer.status for answer in answers[:6]] == [200] * 6
    problem(answers[-1], 429, "throttled")
    assert answers[-1].headers["retry-after"] == "1"


@pytest.fixture
def tls(tmp_path: Path) -> Any:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    command += " -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return nginx.Tls(free_port(), free_port(), certificate, key)


def test_tls_is_served_in_its_newer_versions_alone(own_site: Callable[..., Site], tls: Any) -> None:
    own_site(tls=tls)
    secure = f"https://localhost:{tls.port}/v1/functions"
    pool = urllib3.PoolManager(ca_certs=str(tls.certificate), retries=False)

    answer = pool.request("GET", secure)

    assert answer.status == 200
    assert answer.json()["headers"]["x-forwarded-proto"] == "https"
    assert "strict-transport-security" in answer.headers
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", tls.port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    pool.clear()


def test_plain_http_from_outside_is_sent_to_tls_with_its_method(
    own_site: Callable[..., Site], tls: Any
) -> None:
    site = own_site(tls=tls)

    answer = site.pool.request(
        "POST",
        f"http://127.0.0.1:{tls.redirect_port}/v1/events?x=1",
        headers={"host": "functions.example.org"},
        redirect=False,
    )

    assert answer.status == 308
    assert answer.headers["location"] == "https://functions.example.org/v1/events?x=1"


def test_nginx_finds_no_fault_in_the_shipped_files(tmp_path: Path, tls: Any) -> None:
    one = nginx.Nginx(tmp_path / "nginx", port=free_port(), gateways=["127.0.0.1:1"], tls=tls)
    one.write()

    one.check()

    for name in ("pratai.conf", "pratai-locations.conf"):
        assert (nginx.SHIPPED / name).read_text().isascii()
