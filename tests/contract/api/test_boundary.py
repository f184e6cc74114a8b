"""What every operation shares: keys, namespaces, parameters, methods, errors; and the probes."""

from __future__ import annotations

from typing import Any

import pytest

from pratai.errors import StoreUnavailable


def test_without_a_key_or_with_an_unknown_one_it_is_401(world: Any) -> None:
    for key in ("", "pratai_unknown"):
        answer = world.call("GET", "/v1/functions", key=key)

        assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["next"]


def test_a_key_sees_its_own_namespace_and_no_other(world: Any) -> None:
    made = world.call("POST", "/v1/keys", {"namespace": "team-b", "label": "ci"}).json()
    world.deploy("hello", key=made["key"])

    own = world.call("GET", "/v1/functions/hello", key=made["key"])
    named = world.call(
        "GET", "/v1/functions/hello", key=made["key"], headers={"pratai-namespace": "team-b"}
    )
    other = world.call(
        "GET", "/v1/functions/hello", key=made["key"], headers={"pratai-namespace": "default"}
    )

    assert own.json()["namespace"] == named.json()["namespace"] == "team-b"
    assert (other.status, other.json()["code"]) == (403, "forbidden")
    assert world.call("GET", "/v1/functions/hello").status == 404
    by_admin = world.call("GET", "/v1/functions/hello", headers={"pratai-namespace": "team-b"})
    assert by_admin.status == 200


def test_a_namespace_must_be_a_name(world: Any) -> None:
    answer = world.call("GET", "/v1/functions", headers={"pratai-namespace": "a b"})

    assert (answer.status, answer.json()["field"]) == (400, "Pratai-Namespace")


def test_keys_are_for_admins(world: Any) -> None:
    made = world.call("POST", "/v1/keys", {}).json()

    for method, path in (
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("DELETE", f"/v1/keys/{made['key_id']}"),
    ):
        assert world.call(method, path, key=made["key"]).status == 403


def test_a_key_is_told_once_and_worthless_once_deleted(world: Any) -> None:
    made = world.call("POST", "/v1/keys", {"label": "ci"})
    assert made.status == 201
    key, key_id = made.json()["key"], made.json()["key_id"]
    assert world.call("GET", "/v1/functions", key=key).status == 200

    listed = world.call("GET", "/v1/keys")
    assert key not in listed.body.decode()
    assert key_id in [one["key_id"] for one in listed.json()["items"]]

    assert world.call("DELETE", f"/v1/keys/{key_id}").status == 204
    assert world.call("GET", "/v1/functions", key=key).status == 401
    assert world.call("DELETE", f"/v1/keys/{key_id}").status == 404


def test_the_last_admin_key_cannot_be_deleted(world: Any) -> None:
    (key,) = world.call("GET", "/v1/keys").json()["items"]

    assert world.call("DELETE", f"/v1/keys/{key['key_id']}").status == 409


def test_where_no_key_is_required_everything_is_open(open_world: Any) -> None:
    assert open_world.call("GET", "/v1/keys", key="").status == 200
    assert open_world.deploy("hello", key="").status == 201


@pytest.mark.parametrize(
    ("query", "field", "told"),
    [
        ("limti=1", "limti", "limit"),
        ("limit=0", "limit", "1 to 500"),
        ("limit=501", "limit", "1 to 500"),
        ("limit=x", "limit", "1 to 500"),
        ("limit=1&limit=2", "limit", "once"),
        ("cursor=a%20b", "cursor", ""),
        ("since=yesterday", "since", "10m, 2h, 7d"),
        ("since=2026-02-30T00:00:00Z", "since", "RFC 3339"),
        ("outcome=sucess", "outcome", "succeeded"),
        ("state=running", "state", "leased"),
        ("function=a/b", "function", ""),
        ("search=", "search", "1 to"),
    ],
)
def test_a_wrong_query_parameter_is_400_and_named(
    world: Any, query: str, field: str, told: str
) -> None:
    answer = world.call("GET", f"/v1/invocations?{query}")

    assert (answer.status, answer.json()["field"]) == (400, field)
    assert told in answer.body.decode()


@pytest.mark.parametrize("since", ["0", "1764000000000", "10m", "2026-01-31T10:00:00.5%2B02:00"])
def test_a_moment_is_epoch_ms_or_an_age_or_rfc_3339(world: Any, since: str) -> None:
    assert world.call("GET", f"/v1/invocations?since={since}").status == 200


def test_a_name_that_cannot_be_one_is_400(world: Any) -> None:
    answer = world.call("GET", "/v1/functions/-hello")

    assert (answer.status, answer.json()["field"]) == (400, "name")


def test_an_unknown_path_is_404_and_a_wrong_method_405_with_allow(world: Any) -> None:
    nowhere = world.call("GET", "/v1/nothing")
    wrong = world.call("PATCH", "/v1/functions/hello")

    assert (nowhere.status, nowhere.json()["code"]) == (404, "not_found")
    assert (wrong.status, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "PUT, GET, DELETE, HEAD"


def test_every_error_is_a_problem_document_with_what_to_do(world: Any) -> None:
    for method, path in (
        ("GET", "/v1/nothing"),
        ("POST", "/healthz"),
        ("GET", "/v1/functions/nothing"),
        ("GET", "/v1/functions?x=1"),
    ):
        answer = world.call(method, path)
        problem = answer.json()

        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"] == f"urn:pratai:problem:{problem['code']}"
        assert problem["status"] == answer.status
        assert problem["title"]
        assert problem["detail"]
        assert problem["next"]
        assert problem["request_id"] == answer.headers["pratai-request-id"]


def test_an_unforeseen_error_is_500_and_shows_nothing_of_itself(world: Any) -> None:
    def broken() -> Any:
        raise RuntimeError("secret of the machine")

    app = _app_with(world, nodes=broken)

    answer = app.call("GET", "/v1/nodes")

    assert (answer.status, answer.json()["code"]) == (500, "internal")
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


def test_a_store_that_is_away_is_503_with_retry_after(world: Any) -> None:
    async def away(*args: Any, **kwargs: Any) -> Any:
        raise StoreUnavailable("the disk is full", next_step="Make room.")

    world.store.documents = away

    answer = world.call("GET", "/v1/functions")

    assert (answer.status, answer.json()["code"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"


def test_a_body_above_its_limit_is_413(world: Any) -> None:
    answer = world.call("POST", "/v1/functions/hello/versions", b" " * (1024 * 1024 + 1))

    assert answer.status == 413


def test_a_body_that_is_not_json_is_400(world: Any) -> None:
    world.deploy("hello")

    answer = world.call("POST", "/v1/functions/hello/versions", b"{nope")

    assert (answer.status, answer.json()["field"]) == (400, "body")


def test_head_answers_what_get_would_without_its_body(world: Any) -> None:
    answer = world.call("HEAD", "/healthz")

    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_probes_need_no_key(world: Any) -> None:
    assert world.call("GET", "/healthz", key="").json()["status"] == "ok"
    assert world.call("GET", "/readyz", key="").json()["status"] == "ready"


def test_what_is_not_ready_is_503_and_named(world: Any) -> None:
    world.wrong["scheduler"] = "it cannot be reached"

    answer = world.call("GET", "/readyz", key="")

    assert (answer.status, answer.json()["code"]) == (503, "not_ready")
    assert "scheduler: it cannot be reached" in answer.json()["detail"]


def test_metrics_need_a_key_except_from_this_machine(world: Any) -> None:
    here = world.call("GET", "/metrics", key="", client="127.0.0.1")
    proxied = world.call(
        "GET", "/metrics", key="", client="127.0.0.1", headers={"x-forwarded-for": "192.0.2.1"}
    )

    assert here.body.endswith(b"pratai_up 1\n")
    assert here.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert proxied.status == 401
    assert world.call("GET", "/metrics", key="").status == 401
    assert world.call("GET", "/metrics").status == 200


def test_nodes_and_runtimes_are_listed(world: Any) -> None:
    assert world.call("GET", "/v1/nodes").json()["items"][0]["node_id"] == "node-1"
    assert world.call("GET", "/v1/runtimes").json()["items"][0]["default"] is True


def _app_with(world: Any, **parts: Any) -> Any:
    from msgspec.structs import replace

    from pratai.gateway.api.app import build_api

    world.app = build_api(replace(world.context, **parts))
    return world
