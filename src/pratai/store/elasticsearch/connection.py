"""The client: how the cluster is reached, and what its refusals mean in our errors.

The only module that imports the client library; the store imports it when it is made. Everything
else asks through `Connection.ask`, so that no error of the library goes further than this.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable
from typing import Any

from elastic_transport import (
    AiohttpHttpNode,
    ApiResponse,
    ConnectionTimeout,
    HttpHeaders,
    SerializationError,
)
from elastic_transport import TransportError as LostRequest
from elastic_transport.client_utils import DEFAULT, DefaultType

from elasticsearch import ApiError, AsyncElasticsearch
from pratai.config import schema
from pratai.errors import ConfigError, StoreUnavailable
from pratai.store.elasticsearch.refusals import Unreached, refusal, unstorable

#: A node that did not answer is tried again after 1 s, at the latest after this.
DEAD_NODE_S_MAX = 5
#: Requests to one node at one time; more wait for a connection.
CONNECTIONS_EACH = 16
#: Bodies above this are sent piece by piece.
LARGE_BYTES = 512 * 1024
#: A search that meets a part of an index which is just being moved or made is made again.
SEARCH_TRIES = 10
SEARCH_PAUSE_S = 0.2
#: What a node answers that is not (or no longer) the right one to ask; another is asked at once.
OTHER_NODE_STATUSES = (502, 503, 504)


class _Body(io.BytesIO):
    """A large body."""

    def decode(self, *arguments: str) -> str:
        """As text, for the library's own log of requests."""
        return self.getvalue().decode(*arguments)


class _Node(AiohttpHttpNode):
    """Sends large bodies piece by piece, so that the event loop is not held up by one of them."""

    async def perform_request(  # type: ignore[override]  # asynchronous as its parent is
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: HttpHeaders | None = None,
        request_timeout: DefaultType | float | None = DEFAULT,
    ) -> Any:
        """One request to one node."""
        given: Any = body
        if body is not None and len(body) > LARGE_BYTES:
            given = _Body(body)
        return await super().perform_request(
            method, target, body=given, headers=headers, request_timeout=request_timeout
        )


class Connection:
    """The nodes of one cluster. A request lost with its node is made again with another one."""

    def __init__(self, config: schema.Elasticsearch) -> None:
        self.timeout_ms = config.request_timeout_ms
        self.es = AsyncElasticsearch(**_options(config))
        #: Requests that change or search, which wait in the server themselves: a little shorter,
        #: so that the server's own word about what is missing comes before we stop waiting.
        self.server_timeout = f"{max(50, self.timeout_ms * 8 // 10)}ms"

    async def close(self) -> None:
        """Let all connections go."""
        await self.es.close()

    async def search(self, **arguments: Any) -> dict[str, Any]:
        """A search over all parts of the indices, or none."""
        tries = 0
        while True:
            try:
                return await self.ask(
                    self.es.search(**arguments, allow_partial_search_results=False)
                )
            except StoreUnavailable as error:
                tries += 1
                if tries >= SEARCH_TRIES or isinstance(error, Unreached):
                    raise
            await asyncio.sleep(SEARCH_PAUSE_S)

    async def ask(
        self, call: Awaitable[ApiResponse[Any]], *, allowed: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        """The body of an answer, also of one with an `allowed` status of refusal.

        Raises:
            StoreUnavailable: not reached, or cannot do it now.
            InvalidField: a value cannot be stored.

        """
        try:
            response = await call
        except ApiError as error:
            body: dict[str, Any] = error.body if isinstance(error.body, dict) else {}
            if error.meta.status in allowed:
                return body
            raise refusal(error.meta.status, *_reason(body)) from error
        except (SerializationError, UnicodeEncodeError) as error:
            raise unstorable(str(error)) from error
        except LostRequest as error:
            raise _unreached(error) from error
        answer: dict[str, Any] = response.body
        return answer


def _unreached(error: LostRequest) -> Unreached:
    """What it means that no node answered."""
    what = "did not answer in time" if isinstance(error, ConnectionTimeout) else "is not reached"
    return Unreached(
        f"Elasticsearch {what}: {error.message}",
        next_step="Look whether its nodes run and whether `elasticsearch.urls` names them.",
        retry_after_s=2,
    )


def _reason(body: dict[str, Any]) -> tuple[str, str]:
    error = body.get("error")
    if not isinstance(error, dict):
        return "", str(error or "")
    causes = error.get("root_cause") or [error]
    return str(causes[0].get("type", "")), str(causes[0].get("reason", ""))


def _options(config: schema.Elasticsearch) -> dict[str, Any]:
    urls = [url.strip() for url in config.urls.split(",") if url.strip()]
    if not urls:
        raise ConfigError(
            "elasticsearch.urls is empty.",
            next_step="Name at least one node, such as http://127.0.0.1:9200.",
            field="elasticsearch.urls",
            value=config.urls,
        )
    options: dict[str, Any] = {
        "node_class": _Node,
        "hosts": [_with_port(url) for url in urls],
        "request_timeout": config.request_timeout_ms / 1000,
        "max_retries": max(2, len(urls)),
        "retry_on_status": OTHER_NODE_STATUSES,
        "retry_on_timeout": False,
        "max_dead_node_backoff": DEAD_NODE_S_MAX,
        "connections_per_node": CONNECTIONS_EACH,
    }
    if any(url.startswith("https://") for url in urls):
        options["verify_certs"] = config.verify
        if not config.verify:
            options["ssl_show_warn"] = False
        if config.ca_file:
            options["ca_certs"] = config.ca_file
    api_key = config.api_key or _content("api_key_file", config.api_key_file)
    password = config.password or _content("password_file", config.password_file)
    if api_key:
        options["api_key"] = api_key
    elif config.username:
        options["basic_auth"] = (config.username, password)
    return options


def _with_port(url: str) -> str:
    scheme, separator, rest = url.rstrip("/").partition("://")
    if scheme not in ("http", "https") or not separator or not rest:
        raise ConfigError(
            f"{url} is not the URL of an Elasticsearch node.",
            next_step="Write http://HOST:9200 or https://HOST:9200.",
            field="elasticsearch.urls",
            value=url,
        )
    return url.rstrip("/") if ":" in rest.rpartition("]")[2] else f"{url.rstrip('/')}:9200"


def _content(key: str, path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"elasticsearch.{key} cannot be read: {error}",
            next_step="Give a file that this user may read.",
            field=f"elasticsearch.{key}",
            value=path,
        ) from error
