"""The OpenAPI document: whole, true to the server, and the page made from it current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from pratai.gateway.api.openapi import document
from pratai.gateway.api.reference import page
from pratai.gateway.api.routes import operations

ROOT = Path(__file__).resolve().parents[3]
METHODS = {"get", "put", "post", "patch", "delete", "options"}


def described() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document()["paths"].items()  # type: ignore[attr-defined]
        for method, operation in methods.items()
    ]


def test_the_reference_page_is_current() -> None:
    """Write it anew: python -m pratai.gateway.api.reference > docs/reference/api.md."""
    assert (ROOT / "docs/reference/api.md").read_text() == page()


def test_the_document_is_served_and_names_its_server(world: Any) -> None:
    answer = world.call("GET", "/v1/openapi.json", key="")

    told = answer.json()
    assert told["openapi"] == "3.1.0"
    assert told["servers"] == [{"url": "http://pratai.test"}]
    assert told == msgspec.json.decode(msgspec.json.encode(document("http://pratai.test")))


def test_every_operation_has_an_id_of_its_own_and_its_path_s_parameters() -> None:
    ids = [operation["operationId"] for _, _, operation in described()]
    assert len(ids) == len(set(ids)) == len(operations())
    for _, path, operation in described():
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        told = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert told == named


def test_every_reference_leads_somewhere() -> None:
    whole = document()
    references: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                references.append(node["$ref"])
            for one in node.values():
                walk(one)
        elif isinstance(node, list):
            for one in node:
                walk(one)

    walk(whole)
    assert references
    for reference in references:
        node: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node


#: Those that this application serves; the invoke path is in front of it.
SERVED = [operation for operation in operations() if operation.handler is not None]


@pytest.mark.parametrize("operation", SERVED, ids=lambda operation: operation.id)
def test_an_operation_answers_only_what_its_description_allows(world: Any, operation: Any) -> None:
    """Called with and without what it needs, with and without a key."""
    world.deploy("hello")
    world.keep("r1")
    whole = document()
    told = whole["paths"][operation.path][operation.method.lower()]["responses"]  # type: ignore[index]
    values = {
        "name": "hello",
        "alias": "live",
        "request_id": "r1",
        "path": "a",
        "key_id": "0" * 16,
        "node_id": "n1",
    }
    path = operation.path
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    for target in (path, path + "?limit=0", path.replace("hello", "nothing").replace("r1", "r0")):
        for key in (None, "", "pratai_unknown"):
            answer = world.call(operation.method, target, key=key)
            assert str(answer.status) in told, (target, key, answer)
            _check_body(whole, told[str(answer.status)], answer)


def _check_body(whole: Any, reply: Any, answer: Any) -> None:
    if "$ref" in reply:
        reply = whole["components"]["responses"][reply["$ref"].rpartition("/")[2]]
    content = reply.get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if not content:
        assert answer.body == b""
        return
    assert kind in content or "*/*" in content
    schema = content.get(kind, {}).get("schema")
    if schema:
        jsonschema_rs.Draft202012Validator({**schema, "components": whole["components"]}).validate(
            answer.json()
        )
