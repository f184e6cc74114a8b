"""How a node asks the gateways of its cluster over HTTP: each in turn, again when none can answer.

Blocking requests in threads of their own: what is small never waits behind what is large. A gateway
that is down, busy or sends something else than it announces is passed over for the next. Bounded by
a deadline, by rounds over all gateways and by the bytes that may come.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Literal, TypeVar

import msgspec
import structlog
import urllib3

from pratai.clock import monotonic_us
from pratai.errors import ConfigError, NotFound, PlatformError, PrataiError
from pratai.metrics import count
from pratai.packages.source import SHA256_HEADER, PackageUnavailable

R = TypeVar("R")

READS_MAX = 4
DOWNLOADS_MAX = 4
#: Times that all gateways are asked before the fetch fails.
ROUNDS_MAX = 6
#: Wait after the first round; doubles with each further one.
ROUND_WAIT_S = 0.2
CONNECT_TIMEOUT_S = 3.0
#: A gateway that sends no byte for this long is given up.
READ_TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 1 << 20
PIECE_BYTES = 256 * 1024

_log = structlog.get_logger("pratai.node")
_Why = Literal["absent", "refused", "failed"]


class _Problem(msgspec.Struct):
    detail: str = ""


_decode_problem = msgspec.json.Decoder(_Problem).decode


class _Failed(Exception):
    """One gateway did not give what was asked for."""

    def __init__(self, why: _Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class Gateways:
    """The gateways as a node sees them. `addresses`: their URLs at this moment."""

    def __init__(
        self,
        addresses: Callable[[], list[str]],
        *,
        token: str,
        ca_file: str,
        timeout_ms: int,
    ) -> None:
        if ca_file and not os.path.isfile(ca_file):
            raise ConfigError(
                f"There is no file {ca_file}.",
                next_step="Let [node] ca_file name a file with certificates, or leave it empty.",
                field="node.ca_file",
                value=ca_file,
            )
        self._addresses = addresses
        self._headers = {"Accept-Encoding": "identity"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_us = timeout_ms * 1_000
        self._http = urllib3.PoolManager(
            num_pools=32,
            maxsize=READS_MAX + DOWNLOADS_MAX,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            cert_reqs="CERT_REQUIRED",
            ca_certs=ca_file or None,
        )
        self._reads = ThreadPoolExecutor(READS_MAX, thread_name_prefix="fetch-read")
        self._downloads = ThreadPoolExecutor(DOWNLOADS_MAX, thread_name_prefix="fetch")
        self._asked = 0
        self._closed = False

    def __repr__(self) -> str:
        """The gateways, never the token."""
        return f"<Gateways {self._addresses()}>"

    async def close(self) -> None:
        """Give up what is on its way."""
        self._closed = True
        for threads in (self._reads, self._downloads):
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
        self._http.clear()

    async def read(self, path: str, decode: Callable[[bytes], R]) -> R:
        """A small answer, decoded. One that cannot be counts as none.

        Raises:
            NotFound: every gateway says that there is none. PlatformError: none could answer.

        """
        return await self._ask(path, self._reads, lambda url, _: self._read(url, decode))

    async def download(self, path: str, file: str, *, sha256: str, bytes_max: int) -> None:
        """Write an answer to a file, compared with `sha256`, or, if "", with what is announced.

        Raises:
            NotFound: every gateway says that there is none. PlatformError: none could send it.

        """

        def attempt(url: str, until_us: int) -> None:
            self._download(url, file, sha256=sha256, bytes_max=bytes_max, until_us=until_us)

        await self._ask(path, self._downloads, attempt)

    async def _ask(self, path: str, threads: Executor, attempt: Callable[[str, int], R]) -> R:
        """Let each gateway try, beginning with another one each time."""
        loop = asyncio.get_running_loop()
        until_us = monotonic_us() + self._timeout_us
        failures: dict[str, _Failed] = {}
        for turn in range(ROUNDS_MAX):
            failures = {}
            if self._closed:
                break
            for address in self._in_turn():
                try:
                    url = address.rstrip("/") + path
                    return await loop.run_in_executor(threads, attempt, url, until_us)
                except _Failed as failure:
                    failures[address] = failure
                    count("fetches_failed")
                    _log.info("fetch_failed", gateway=address, path=path, error=failure.detail)
            final = {failure.why for failure in failures.values()} in ({"absent"}, {"refused"})
            wait_s = ROUND_WAIT_S * 2**turn
            if final or turn + 1 == ROUNDS_MAX or monotonic_us() + wait_s * 1e6 > until_us:
                break
            await asyncio.sleep(wait_s)
        raise _gave_up(path, failures)

    def _in_turn(self) -> list[str]:
        addresses = self._addresses()
        self._asked += 1
        first = self._asked % len(addresses) if addresses else 0
        return addresses[first:] + addresses[:first]

    def _read(self, url: str, decode: Callable[[bytes], R]) -> R:
        with self._answer(url) as answer:
            body = answer.read(ANSWER_BYTES_MAX + 1)
        if len(body) > ANSWER_BYTES_MAX:
            raise _Failed("failed", "its answer is too long")
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Failed("failed", f"its answer is not understood: {error}") from error

    def _download(self, url: str, file: str, *, sha256: str, bytes_max: int, until_us: int) -> None:
        with self._answer(url) as answer:
            announced = answer.headers.get(SHA256_HEADER, "")
            length = answer.headers.get("Content-Length", "")
            if not length.isdecimal() or not announced:
                raise _Failed("failed", "it does not say what it sends")
            if int(length) > bytes_max:
                raise _Failed("failed", f"it sends {length} bytes; {bytes_max} are allowed")
            if sha256 and announced != sha256:
                raise _Failed("failed", "it sends something else")
            digest, size = hashlib.sha256(), 0
            with open(file, "wb") as out:
                for piece in answer.stream(PIECE_BYTES, decode_content=False):
                    if self._closed or monotonic_us() > until_us:
                        raise _Failed("failed", "it sends too slowly")
                    digest.update(piece)
                    size += out.write(piece)
            if size != int(length) or digest.hexdigest() != announced:
                raise _Failed("failed", "what came is damaged")

    @contextlib.contextmanager
    def _answer(self, url: str) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer of status 200. Its connection is used again only when all of it was read."""
        if self._closed:
            raise _Failed("failed", "this node is stopping")
        try:
            answer = self._http.request(
                "GET",
                url,
                headers=self._headers,
                preload_content=False,
                redirect=False,
                retries=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise _Failed("failed", _words(error)) from error
        try:
            _check_status(answer)
            yield answer
        except urllib3.exceptions.HTTPError as error:
            answer.close()
            raise _Failed("failed", _words(error)) from error
        except BaseException:
            answer.close()
            raise
        answer.release_conn()


def _check_status(answer: urllib3.BaseHTTPResponse) -> None:
    if answer.status == 200:
        return
    try:
        detail = _decode_problem(answer.read(ANSWER_BYTES_MAX)).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        detail = ""
    whys: dict[int, _Why] = {404: "absent", 401: "refused", 403: "refused"}
    raise _Failed(whys.get(answer.status, "failed"), detail or f"it answers {answer.status}")


def _gave_up(path: str, failures: dict[str, _Failed]) -> PrataiError:
    whys = {failure.why for failure in failures.values()}
    told = "; ".join(f"{address}: {failure.detail}" for address, failure in failures.items())
    if whys == {"absent"}:
        return NotFound(
            f"No gateway has {path}: {told}",
            next_step="Call a version that exists, or deploy the function again.",
        )
    if whys == {"refused"}:
        return PlatformError(
            f"The gateways refuse this node: {told}",
            code="cluster_key_refused",
            next_step="Let [queue] key_file name the same cluster key on every machine.",
        )
    return PackageUnavailable(
        f"No gateway gave {path}: {told}" if told else "No gateway is known to this node.",
        next_step="See that gateways run and that this node reaches them ([gateway] url).",
    )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
