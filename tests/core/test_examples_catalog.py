"""The catalog of examples is true: every call it lists ends as it says, also between functions.

`fan_out` is tested here because it needs a server to call. No platform takes part.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import io
import itertools
import json
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
CATALOG: dict[str, dict[str, Any]] = tomllib.loads((EXAMPLES / "examples.toml").read_text("utf-8"))
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 30_000)
_NUMBERS = itertools.count()


def load(name: str) -> ModuleType:
    """A fresh copy of an example's module, as a new instance would import it."""
    path = EXAMPLES / CATALOG[name]["path"]
    path = path / "main.py" if path.is_dir() else path
    return load_file(path)


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{next(_NUMBERS)}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module: ModuleType, event: Any) -> Any:
    """The handler's result: coroutines awaited, streams listed."""
    result = module.main(event) if hasattr(module, "main") else module.handler(event, CONTEXT)
    if inspect.iscoroutine(result):
        return asyncio.run(result)
    return list(result) if isinstance(result, Iterator) else result


def sample(path: str) -> bytes:
    return (EXAMPLES / path).read_bytes()


def sample_json(path: str) -> Any:
    return json.loads(sample(path))


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def classifier_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """An HTTP server that answers invocations of `classify`; yields the headers it was sent."""
    classify = load("classify")
    seen: list[dict[str, str]] = []

    class Invocations(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}})
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            busy = event["text"] == "BUSY"
            answer = {"detail": "The queue is full."} if busy else classify.main(event)
            body = json.dumps(answer).encode()
            self.send_response(429 if busy else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep test output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Invocations)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("PLATFORM_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("PLATFORM_KEY", "a-key")
    yield seen
    server.shutdown()
    server.server_close()
    thread.join()


# The catalog


def invocations() -> list[tuple[str, dict[str, Any]]]:
    return [(name, one) for name, example in CATALOG.items() for one in example["invoke"]]


@pytest.mark.parametrize(
    ("name", "one"), invocations(), ids=lambda v: v if isinstance(v, str) else v["title"]
)
def test_every_sample_call_of_the_catalog_ends_as_it_says(
    name: str,
    one: dict[str, Any],
    classifier_server: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    flags = CATALOG[name].get("deploy", [])
    for flag, setting in zip(flags[::2], flags[1::2], strict=True):
        assert flag == "--env"
        key, _, value = setting.partition("=")
        if not {"{server}", "{key}"} & {value}:
            monkeypatch.setenv(key, value.replace("{scratch}", str(tmp_path)))
    raw = sample(one["file"]) if "file" in one else one["json"].encode()
    is_json = one.get("content_type", "application/json") == "application/json"
    event = json.loads(raw) if is_json else raw

    if one.get("fails"):
        with pytest.raises((TypeError, ValueError)):
            call(load(name), event)
        return
    result = call(load(name), event)

    match one["show"]:
        case "json":
            assert json.loads(json.dumps(result)) == result
        case "lines":
            assert [json.loads(json.dumps(part)) for part in result] == result
        case "web":
            assert result["statusCode"] == one.get("status", 200)
            assert isinstance(result["body"], str)
        case "image":
            assert max(Image.open(io.BytesIO(result)).size) == 320
        case unknown:
            pytest.fail(f"examples.toml: unknown show = {unknown!r}")


def test_the_catalog_lists_every_folder_and_every_need_is_an_example() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/*.py")}

    assert folders == set(CATALOG)
    assert {need for one in CATALOG.values() for need in one.get("needs", [])} <= set(CATALOG)


def test_the_readme_deploys_every_example_from_the_catalogs_path() -> None:
    readme = (EXAMPLES / "README.md").read_text("utf-8")

    for name, example in CATALOG.items():
        assert f"pratai deploy examples/{example['path']} --name {name}" in readme


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("sales_report", ["samples/sales.csv"]),
        ("classify", ["training.tsv"]),
        ("webhook", ["samples/push.json", "samples/signed.json", "samples/forged.json"]),
    ],
)
def test_the_committed_input_is_what_its_script_writes(
    name: str, written: list[str], tmp_path: Path
) -> None:
    (tmp_path / "samples").mkdir()
    script = load_file(EXAMPLES / name / "samples" / "make_samples.py")
    script.HERE = tmp_path / "samples"

    script.write()

    for path in written:
        assert (tmp_path / path).read_bytes() == sample(f"{name}/{path}")


# Fan out


def test_fan_out_merges_the_answers_in_the_order_of_the_texts(
    classifier_server: list[dict[str, str]],
) -> None:
    event = sample_json("fan_out/samples/texts.json")

    result = call(load("fan_out"), event)

    assert [one["text"] for one in result["answers"]] == event["texts"]
    assert result["by_label"] == {"billing": 3, "login": 3, "bug": 2, "delivery": 2, "feature": 2}
    assert result["failed"] == 0
    assert len(classifier_server) == 12
    assert {one["path"] for one in classifier_server} == {"/v1/functions/classify/invocations"}
    assert {one["authorization"] for one in classifier_server} == {"Bearer a-key"}
    assert {one["pratai-timeout-ms"] for one in classifier_server} == {"29000"}


@pytest.mark.usefixtures("classifier_server")
def test_fan_out_reports_a_refused_part_beside_the_others() -> None:
    result = call(load("fan_out"), {"texts": ["The parcel is late", "BUSY"]})

    assert result["failed"] == 1
    assert result["answers"][0]["label"] == "delivery"
    assert result["answers"][1]["error"] == "429: The queue is full."
